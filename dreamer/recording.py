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
from dreamer.errors import DamagedError, UserError

Record = dict[str, Any]

SAMPLE, LOG = "sample", "log"  # parts of stages that the time split shows by themselves


class Clock:
    """Where a run's time goes. One of `parts` runs at a time; one inside another interrupts it, so
    the seconds add up to the total."""

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
        """Continue from these seconds; a part that is not among them begins at 0."""
        self._seconds.update(seconds)

    def _switch(self, part: str | None) -> None:
        now = time.perf_counter()
        if self._part is not None:
            self._seconds[self._part] += now - self._since
        self._part, self._since = part, now


class Metrics:
    """`metrics.jsonl`: one JSON object per line, only ever appended to: the record of a run.

    Resuming moves the lines after the checkpoint to `metrics.discarded.jsonl`, since they will be
    computed again: no line is doubled, missing or lost.
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
        # Not `tell()`, which `restore` may have made wrong.
        return os.fstat(self._file.fileno()).st_size

    def flush(self) -> None:
        """Returns when what was appended so far is on the disk itself."""
        os.fsync(self._file.fileno())

    def restore(self, size_bytes: int) -> None:
        """Goes back to the first `size_bytes`. Raises DamagedError if there are fewer."""
        data = self._path.read_bytes()
        if len(data) < size_bytes:
            raise DamagedError(f"{self._path}: shorter than when the checkpoint was saved")
        if len(data) > size_bytes:
            discarded = self._path.with_name(run_folder.DISCARDED_METRICS)
            with open(discarded, "ab") as file:
                tail = data[size_bytes:]
                file.write(tail if tail.endswith(b"\n") else tail + b"\n")
            os.truncate(self._path, size_bytes)

    def close(self) -> None:
        self._file.close()
