"""What an executor must know to execute a run, and what the exit code of a worker means."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dreamer.run_folder import Status, run_path

EXIT_CODES = {Status.COMPLETED: 0, Status.FAILED: 1, Status.INTERRUPTED: 3}
EXIT_BAD_INPUT, EXIT_BUSY = 2, 4
WORKER = "suites.execution.worker"  # `python -m` this module executes the spec on its stdin


@dataclasses.dataclass(frozen=True)
class Spec:
    """One run to execute: plain JSON, without credentials."""

    run_id: str
    config: dict[str, Any]
    suites: list[str]
    results: str  # the results folder
    executor: str = "debug"  # which one executes it: "local", "slurm 123_4", ...
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
