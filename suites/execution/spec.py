"""What an executor must know to execute a run, and what the exit code of a worker means."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from dreamer.errors import one_line
from dreamer.run_folder import Status, StatusRecord, run_path

# Codes that Python and shells do not use, so that each has one meaning. Only 0 is not: code of an
# environment may call exit(). Therefore a worker says its status, too (`last_words`).
EXIT_CODES = {Status.COMPLETED: 0, Status.FAILED: 40, Status.INTERRUPTED: 41}
EXIT_BAD_INPUT, EXIT_BUSY = 42, 43
WORKER = "suites.execution.worker"  # `python -m` this module executes the spec on its stdin
LAST_WORDS = "last_words"  # key of the line that a worker ends with, on its first stderr


def last_words(output: str) -> StatusRecord:
    """The status that a worker ended with, from what it printed; {} if it ended without one. It
    arrives also where no file can be written."""
    for line in reversed(output.splitlines()):
        if line.startswith(f'{{"{LAST_WORDS}"'):
            with contextlib.suppress(ValueError):
                return json.loads(line)[LAST_WORDS]
    return {}


def last_line(output: str) -> str:
    """The last line that a process printed, without `error: `; "" if it printed none."""
    lines = output.strip().splitlines()
    return one_line(lines[-1]).removeprefix("error: ") if lines else ""


def is_later(recorded: StatusRecord, said: StatusRecord) -> bool:
    """Whether a run's status.json is of a later attempt than a worker's last words."""
    later, attempt = recorded.get("attempt"), said.get("attempt")
    return later is not None and attempt is not None and later > attempt


@dataclasses.dataclass(frozen=True)
class Spec:
    """One run to execute: plain JSON, without credentials."""

    run_id: str
    config: dict[str, Any]
    suites: list[str]
    results: str  # the results folder
    executor: str = "none"  # "local", "slurm 123_4", ...; none: `execute` is called directly
    observers: list[str] = dataclasses.field(default_factory=list)  # MongoDB URLs
    command: list[str] = dataclasses.field(default_factory=list)  # that the user typed

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        return Spec(**json.loads(text))

    @property
    def folder(self) -> Path:
        return run_path(Path(self.results), self.run_id)
