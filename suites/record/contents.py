"""What the folder of one run holds, read once, and findings about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson

from dreamer import run_folder
from suites.language.suite import Run
from suites.record.folder import state_of
from suites.record.metrics import read_metrics


class Finding(NamedTuple):
    """A problem that an audit found."""

    kind: str
    run_id: str  # "" for findings about the suite
    attempt: int | None
    text: str
    todo: str


class RunContents(NamedTuple):
    """What a run's folder holds."""

    run: Run
    folder: Path
    state: str
    status: run_folder.StatusRecord
    config: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    line_problems: list[str]
    returns: int | None  # hash of the training episodes' returns
    provenances: dict[int, dict[str, Any]]  # provenance.json by attempt


def read(results: Path, run: Run) -> RunContents:
    """The run's folder in `results`; what is not there or damaged is empty or None."""
    folder = run_folder.run_path(results, run.run_id)
    status = run_folder.read_status(folder)
    metrics, problems = read_metrics(folder / run_folder.METRICS)
    returns = [m.get("episode_return") for m in metrics if m["kind"] == "episode"]
    numbers = run_folder.attempts(folder)
    provenances = {
        n: read_json(run_folder.attempt_path(folder, n) / run_folder.PROVENANCE) for n in numbers
    }
    return RunContents(
        run, folder, state_of(folder, status), status or {},
        read_json(folder / run_folder.CONFIG), metrics, problems,
        hash(tuple(returns)) if len(returns) > 1 else None,
        {n: found for n, found in provenances.items() if found is not None},
    )  # fmt: skip


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's object; None if it is not there, or none."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
