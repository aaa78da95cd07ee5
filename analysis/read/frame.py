"""Loaded in, one tidy frame out: a row for each logged value.

    source (run folders or MongoDB) -> read the runs that changed -> cache -> frame, runs

The frame has the columns `suite, task, behaviour, representation, seed, run_id, attempt,
env_steps, metric, value`. The table of runs has a row for each run with its settings, status and
provenance; `warnings` lists what was wrong with the records. Nothing is averaged here.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.read.cache import read_cache, write_cache
from analysis.read.source import METRICS, Points, RunRow, Source, joined
from dreamer.errors import UserError, describe
from dreamer.run_folder import Status
from suites.language.identity import recorded_ids
from suites.language.suite import Suite

FRAME_COLUMNS = (
    "suite", "task", "behaviour", "representation", "seed",
    "run_id", "attempt", "env_steps", "metric", "value",
)  # fmt: skip
RUNS_PER_CHUNK = 50  # handed to a worker process at a time


class Loaded(NamedTuple):
    """What `load` returns."""

    frame: pd.DataFrame  # FRAME_COLUMNS
    runs: pd.DataFrame  # one row per run, sorted by run_id
    warnings: list[str]  # one line each, with the run's id


def load(
    source: Source,
    run_ids: Iterable[str] | None = None,
    *,
    suite: str = "",
    metrics: Sequence[str] = METRICS,
    cache: Path | None = None,
    workers: int = 2,
) -> Loaded:
    """The frame and the table of runs for `run_ids` (None: all runs of the source).

    Runs that the source does not have are left out. With a `cache` folder only runs whose
    fingerprint changed are read again; a cache that is damaged or of another version is replaced,
    and one that cannot be written is left.
    """
    present = set(source.run_ids())
    wanted = sorted(present if run_ids is None else present.intersection(run_ids))
    prints = {run_id: source.fingerprint(run_id) if cache else "" for run_id in wanted}
    cached = read_cache(cache, metrics)
    changed = [r for r in wanted if r not in cached or cached[r][0] != prints[r]]
    fresh = _read_all(source, changed, metrics, workers)
    kept = {r: one for r, one in cached.items() if r in present and r not in fresh}
    known = kept | {r: (prints[r], row) for r, row in fresh.items() if isinstance(row, RunRow)}
    if cache is not None and (fresh or len(kept) < len(cached)):
        try:
            write_cache(cache, metrics, known)
        except OSError as error:  # the results may be someone else's
            print(f"note: {cache}: not written: {describe(error)}", file=sys.stderr)
    rows = [known[r][1] for r in wanted if r in known]
    runs = _runs_table(source, [row.columns for row in rows])
    frame = _frame(runs, [row.points for row in rows], metrics, suite)
    warnings = [error for error in fresh.values() if isinstance(error, str)]
    warnings += [f"{row.run_id}: {text}" for row in runs.itertuples() for text in row.warnings]
    return Loaded(frame, runs, warnings)


def load_suite(source: Source, suite: Suite, *metrics: str) -> tuple[Suite, Loaded]:
    """The suite, with the ids of earlier code where the source has its runs under these; and the
    records of its runs up to their budgets there: METRICS and the metrics that are named."""
    configs = {run.run_id: run.config for run in suite.runs}
    ids = recorded_ids(configs, source.run_ids(), source.config)
    runs = [run._replace(run_id=ids.get(run.run_id, run.run_id)) for run in suite.runs]
    loaded = load(
        source, [run.run_id for run in runs], suite=suite.name,
        metrics=sorted({*METRICS, *metrics}), cache=source.cache,
    )  # fmt: skip
    budgets = {run.run_id: run.config["env_steps"] for run in runs}
    return suite._replace(runs=runs), _cut(loaded, budgets)


def _cut(loaded: Loaded, budgets: Mapping[str, int]) -> Loaded:
    """Runs with a larger budget than that in `budgets` end there."""
    further = {
        row.run_id: budgets[row.run_id]
        for row in loaded.runs.itertuples()
        if row.budget_env_steps > budgets[row.run_id]
    }
    if not further:
        return loaded
    end = loaded.frame["run_id"].astype(object).map(further)
    within = ~(loaded.frame["env_steps"] > end)
    runs = loaded.runs.copy()
    last = runs["run_id"].map(further).fillna(np.inf)
    runs["last_env_steps"] = np.minimum(runs["last_env_steps"], last).astype(np.int64)
    return loaded._replace(frame=loaded.frame[within.to_numpy()], runs=runs)


def _frame(
    runs: pd.DataFrame, values: Sequence[Points], metrics: Sequence[str], suite: str
) -> pd.DataFrame:
    """The tidy frame. `values`: of each of the runs. Repeated words are categories, which saves
    memory."""
    points = joined(values)
    of_run = np.repeat(np.arange(len(runs), dtype=np.int32), [len(one.value) for one in values])

    def category(column: str) -> pd.Categorical:
        return pd.Categorical(runs[column]).take(of_run)

    columns = {
        "suite": pd.Categorical.from_codes(np.zeros(len(of_run), np.int8), categories=[suite]),
        "task": category("task"),
        "behaviour": category("behaviour"),
        "representation": category("representation"),
        "seed": runs["seed"].to_numpy(np.int64)[of_run],
        "run_id": category("run_id"),
        "attempt": points.attempt,
        "env_steps": points.env_steps,
        "metric": pd.Categorical.from_codes(points.metric, categories=list(metrics)),
        "value": points.value,
    }
    return pd.DataFrame(columns, columns=list(FRAME_COLUMNS))


RUN_COLUMNS = (
    "run_id", "task", "behaviour", "representation", "seed", "preset", "budget_env_steps",
    "last_env_steps", "attempts", "commits", "synthetic", "provenance", "config", "warnings",
)  # fmt: skip


def _runs_table(source: Source, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per run. `status` is UNKNOWN where the run has none."""
    states = [source.status(row["run_id"]) for row in rows]
    table = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    table["status"] = [
        state.get("status") if state.get("status") in set(Status) else "UNKNOWN" for state in states
    ]
    table["error"] = [str(state.get("error") or "") for state in states]
    return table


def _read_all(
    source: Source, run_ids: Sequence[str], metrics: Sequence[str], workers: int
) -> dict[str, RunRow | str]:
    """Each run's record, or the error that it raised."""
    chunks = [run_ids[i : i + RUNS_PER_CHUNK] for i in range(0, len(run_ids), RUNS_PER_CHUNK)]
    if len(chunks) < 4 or workers < 2:
        return dict(item for chunk in chunks for item in _read_chunk(source, chunk, metrics))
    context = multiprocessing.get_context("spawn")  # pyarrow has threads, so do not fork
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [pool.submit(_read_chunk, source, chunk, metrics) for chunk in chunks]
        return dict(item for job in jobs for item in job.result())


def _read_chunk(
    source: Source, run_ids: Sequence[str], metrics: Sequence[str]
) -> list[tuple[str, RunRow | str]]:
    found: list[tuple[str, RunRow | str]] = []
    for run_id in run_ids:
        try:
            found.append((run_id, source.read(run_id, metrics)))
        except UserError as error:
            found.append((run_id, str(error)))
    return found
