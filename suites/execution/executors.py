"""The executors by name, and the state of runs as all of them know it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamer import run_folder
from suites.execution.cluster import Slurm
from suites.execution.debug import Debug
from suites.execution.executor import Executor, Found
from suites.execution.local import Local
from suites.record.folder import look

FALLBACK = Local()  # where a suite's own executor cannot be used
EXECUTORS: dict[str, Executor] = {e.name: e for e in (FALLBACK, Slurm(), Debug())}


def states(results: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Found]:
    """{run_id: (state, status.json)}, from the runs' own records and from every executor.

    `configs`: the settings by run_id; a state is seen from their budget.
    """
    found: dict[str, Found] = {
        run_id: look(run_folder.run_path(results, run_id), config)
        for run_id, config in configs.items()
    }
    for executor in EXECUTORS.values():
        found = executor.states(results, found)
    return found
