"""Published scores and their caveats, scores of random actions, and how honest intervals are: from
the tables in results/published/ and results/measured/."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from suites.language.figures import scales

RESULTS = Path(__file__).resolve().parents[2] / "results"
PUBLISHED, MEASURED = RESULTS / "published", RESULTS / "measured"

CONTROL_TASKS = tuple(scales()["control"])  # the 20 tasks of the paper
# D4PG and A3C have no published scores for quadruped: their averages are over the other 18.
TASKS_18 = tuple(task for task in CONTROL_TASKS if not task.startswith("quadruped"))

CAVEATS = {
    "d4pg": "D4PG: published, 1e8 env. steps, pixels, 18 tasks (no quadruped)",
    "a3c": "A3C: published, 1e8 env. steps, from states, 18 tasks (no quadruped)",
    "slac": "SLAC: published, 3e6 env. steps, pixels, 4 tasks",
    "planet": "PlaNet: published, 1e6 env. steps, action repeat chosen per task, 6 tasks",
    "dreamer": "Dreamer: released score file, an earlier setting than the paper's",
}


def published_scores() -> pd.DataFrame:
    """`method, task, env_steps, inputs, score_mean, score_sd, seeds, source`."""
    return pd.read_csv(PUBLISHED / "scores.csv")


@cache
def random_scores() -> dict[str, float]:
    """Mean return of uniform random actions on each control task (suites/random_scores.py)."""
    table = pd.read_csv(MEASURED / "random.csv")
    return dict(zip(table["task"], table["score_mean"], strict=True))


def coverage(what: str, tasks: int, seeds: int) -> float:
    """How often a 95 % interval holds the true value in simulations of so many tasks and seeds, or
    the next fewer that were simulated; with failing seeds, if that is worse (analysis/coverage.py).

    NaN where so few were not simulated.
    """
    table = _coverage_table()
    rows = table[(table["what"] == what) & (table["tasks"] <= tasks) & (table["seeds"] <= seeds)]
    rows = rows[(rows["tasks"] == rows["tasks"].max()) & (rows["seeds"] == rows["seeds"].max())]
    return float(rows["simulated"].min())


@cache
def _coverage_table() -> pd.DataFrame:
    return pd.read_csv(MEASURED / "coverage.csv")


def baselines(methods: Sequence[str]) -> pd.DataFrame:
    """The score at the most env_steps of each method and task, which figures draw as lines."""
    scores = published_scores()
    scores = scores[scores["method"].isin(methods)].sort_values("env_steps", kind="stable")
    return scores.groupby(["method", "task"], as_index=False, sort=False).tail(1)
