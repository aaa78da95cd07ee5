"""What the folder of one run holds, read once, and findings about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer import run_folder
from dreamer.errors import UserError
from dreamer.run_folder import State
from suites.language.identity import recorded_ids
from suites.language.suite import Run
from suites.record.folder import look
from suites.record.metrics import read_metrics


class Finding(NamedTuple):
    """What an audit found: a problem, or a note."""

    kind: str
    run_id: str  # "" for findings about the suite
    attempt: int | None
    text: str
    todo: str
    note: bool = False  # worth knowing, and nothing is wrong


class RunContents(NamedTuple):
    """What a run's folder holds."""

    run: Run
    folder: Path
    state: State
    status: run_folder.StatusRecord
    config: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    line_problems: list[str]
    returns: int | None  # hash of the training episodes' returns
    provenances: dict[int, dict[str, Any]]  # provenance.json by attempt
    damaged: list[int]  # attempts whose provenance.json is there and cannot be read


def as_recorded(results: Path, runs: Sequence[Run]) -> list[Run]:
    """The runs. Those that `results` holds under the ids of earlier code keep these ids."""
    folder = run_folder.runs_path(results)
    try:
        present = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return list(runs)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None

    def config_of(run_id: str) -> dict[str, Any] | None:
        path = run_folder.run_path(results, run_id) / run_folder.CONFIG
        config = run_folder.read_json(path)
        if config is None and path.exists():
            print(f"note: {path} cannot be read: this run counts as no other's", file=sys.stderr)
        return config

    ids = recorded_ids({run.run_id: run.config for run in runs}, present, config_of)
    return [run._replace(run_id=ids.get(run.run_id, run.run_id)) for run in runs]


def read(results: Path, run: Run) -> RunContents:
    """Reads the run's folder in `results`. Missing or damaged parts are empty or None."""
    folder = run_folder.run_path(results, run.run_id)
    state, status = look(folder, run.config)
    metrics, problems = read_metrics(folder / run_folder.METRICS)
    returns = [m.get("episode_return") for m in metrics if m["kind"] == "episode"]
    paths = {
        n: run_folder.attempt_path(folder, n) / run_folder.PROVENANCE
        for n in run_folder.attempts(folder)
    }
    provenances = {n: run_folder.read_json(path) for n, path in paths.items()}
    return RunContents(
        run=run,
        folder=folder,
        state=state,
        status=status or {},
        config=run_folder.read_json(folder / run_folder.CONFIG),
        metrics=metrics,
        line_problems=problems,
        returns=hash(tuple(returns)) if len(returns) > 1 else None,
        provenances={n: found for n, found in provenances.items() if found is not None},
        damaged=[
            n for n, path in paths.items() if provenances[n] is None and os.path.lexists(path)
        ],
    )
