"""A finished run whose status.json is lost or damaged, and whose replay was discarded.

It cannot be trained to its end once more, and need not: the rest of its record shows that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamer import run_folder
from dreamer.run_folder import Status
from suites.record.folder import BusyError, locked
from suites.record.metrics import read_metrics, values_of
from suites.record.scores import recorded_score


def restore(folder: Path, config: Mapping[str, Any]) -> bool:
    """Writes the status of such a run anew; False if the run is not of this kind, or not
    certainly done. `config`: what a suite asks of it, perhaps with another budget."""
    if run_folder.read_status(folder) or run_folder.discarded_replay(folder) is None:
        return False
    try:
        with locked(folder):
            status = None if run_folder.read_status(folder) else _of_finished(folder, config)
            if status is not None:
                run_folder.write_json(folder / run_folder.STATUS, status)
            return status is not None
    except BusyError:
        return False


def _of_finished(folder: Path, config: Mapping[str, Any]) -> run_folder.StatusRecord | None:
    """The status of a run that reached its budget by its last checkpoint and its metrics."""
    budget = (run_folder.read_json(folder / run_folder.CONFIG) or {}).get("env_steps")
    metrics, problems = read_metrics(folder / run_folder.METRICS)
    checkpoints = run_folder.checkpoint_paths(folder / run_folder.CHECKPOINTS)
    attempts = run_folder.attempts(folder)
    if not isinstance(budget, int) or problems or not (metrics and checkpoints and attempts):
        return None
    last, checkpoint = metrics[-1], checkpoints[-1]
    if min(last["env_steps"], run_folder.checkpoint_env_steps(checkpoint)) < budget:
        return None
    if not (checkpoint.is_file() and run_folder.is_whole(checkpoint)):
        return None
    path = run_folder.attempt_path(folder, attempts[-1]) / run_folder.PROVENANCE
    origin = run_folder.read_json(path) or {}
    gone = run_folder.discarded_replay(folder) or {}
    score = recorded_score(folder / run_folder.METRICS, config)
    returns = {
        name: points[-1][1]
        for name, points in values_of(metrics).items()
        if name in ("episode_return", "evaluate_return")
    }
    return {
        "run_id": folder.name,
        "status": Status.COMPLETED,
        "attempt": attempts[-1],
        "budget_env_steps": budget,
        "env_steps": last["env_steps"],
        "updates": last["updates"],
        **returns,
        "ended": gone.get("time"),
        "heartbeat": gone.get("time"),
        "suites": origin.get("suites") or [],
        "code": origin.get("code"),
        "error": None,
        "final_score": score.score if score else None,
        "final_evaluations": score.values if score else 0,
    }
