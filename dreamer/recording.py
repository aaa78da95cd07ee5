"""What a run writes down while it trains: metrics, and where its time went."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dreamer import run_folder
from dreamer.errors import UserError

Record = dict[str, Any]

SAMPLE, LOG = "sample", "log"  # parts of stages that the time split shows by themselves


class Clock:
    """Where a run's time goes: at any time one of `parts` runs, and one inside another interrupts
    it, so that they add up to all of it."""

    def __init__(self, parts: tuple[str, ...]):
        # Plain strings: they are saved in checkpoints, which load nothing but plain types.
        self._seconds = dict.fromkeys(map(str, parts), 0.0)
        self._part: str | None = None  # that runs
        self._since = 0.0

    @contextlib.contextmanager
    def on(self, part: str) -> Iterator[None]:
        outer = self._part
        self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def seconds(self) -> dict[str, float]:
        """Of each part, up to now."""
        self._switch(self._part)
        return dict(self._seconds)

    def restore(self, seconds: dict[str, float]) -> None:
        """Goes on from these; parts that they do not name (a run from before) begin at 0."""
        self._seconds.update(seconds)

    def _switch(self, part: str | None) -> None:
        now = time.perf_counter()
        if self._part is not None:
            self._seconds[self._part] += now - self._since
        self._part, self._since = part, now


class Metrics:
    """`metrics.jsonl`: one JSON object a line, appended, the truth about a run.

    Resuming cuts what came after the checkpoint, since it will be computed again, and keeps it in
    `metrics.discarded.jsonl`: so no line stands twice, none is missing and none is lost.
    """

    def __init__(self, run_dir: Path, log: Callable[[Record], None]):
        self._path, self._log = run_dir / run_folder.METRICS, log
        if self._path.exists() and not self._path.is_file():  # a pipe would wait for a reader
            raise UserError(f"{self._path}: not a regular file; move it away")
        self._file = open(self._path, "ab")  # noqa: SIM115  closed by close()

    def append(self, record: Record) -> None:
        self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self._log(record)

    def size_bytes(self) -> int:
        return os.fstat(self._file.fileno()).st_size  # not where `restore` may have cut

    def flush(self) -> None:
        """Returns when what was appended so far is on the disk itself."""
        os.fsync(self._file.fileno())

    def restore(self, size_bytes: int) -> None:
        """Goes back to the first `size_bytes`. Raises ValueError if there are fewer."""
        data = self._path.read_bytes()
        if len(data) < size_bytes:
            raise ValueError(f"{self._path} is shorter than when the checkpoint was saved")
        if len(data) > size_bytes:
            discarded = self._path.with_name(run_folder.DISCARDED_METRICS)
            with open(discarded, "ab") as file:
                tail = data[size_bytes:]
                file.write(tail if tail.endswith(b"\n") else tail + b"\n")
            os.truncate(self._path, size_bytes)

    def close(self) -> None:
        self._file.close()
