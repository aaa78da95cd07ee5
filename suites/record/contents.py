"""What one run's folder holds, read once, and what may be found wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import orjson

from suites.language.suite import Run
from suites.record import folder as records


class Finding(NamedTuple):
    """Something that is not as it should be."""

    kind: str
    run_id: str  # "" for findings about the suite
    attempt: int | None
    text: str
    todo: str


class Recorded(NamedTuple):
    """What a run's folder holds."""

    run: Run
    folder: Path
    state: str
    status: records.Status
    config: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    line_problems: list[str]
    returns: int | None  # hash of the training episodes' returns
    stories: dict[int, dict[str, Any]]  # provenance.json by attempt


def read(results: Path, run: Run) -> Recorded:
    """The run's folder in `results`; what is not there or damaged is empty or None."""
    folder = records.run_folder(results, run.run_id)
    status = records.read_status(folder)
    metrics, problems = records.read_metrics(folder / "metrics.jsonl")
    returns = [m.get("episode_return") for m in metrics if m["kind"] == "episode"]
    numbers = records.attempts(folder)
    stories = {n: read_json(folder / f"attempts/{n}/provenance.json") for n in numbers}
    return Recorded(
        run, folder, records.state_of(folder, status), status or {},
        read_json(folder / "config.json"), metrics, problems,
        hash(tuple(returns)) if len(returns) > 1 else None,
        {n: found for n, found in stories.items() if found is not None},
    )  # fmt: skip


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's object; None if it is not there, or none."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
