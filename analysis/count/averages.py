"""Across tasks: aggregates, performance profiles, pairs of methods, and averages for tables.

Scores are put on the suite's scale first: 0 is the lowest and 1 the highest score of a task. Tasks
that are not on the scale are in no average.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.count import statistics
from analysis.count.estimates import best_of, mean_estimate, sample
from analysis.count.methods import default_method
from analysis.count.published import TASKS_18, coverage
from suites.language.figures import Scale

THRESHOLDS = np.linspace(0, 1, 51)
AVERAGE_COLUMNS = ("group", "title", "method", "published", "mean", "low", "high", "best")
HONEST = 0.9  # of a 95 % interval's simulated coverage
STATISTIC_WORDS = {"iqm": "IQM", "optimality_gap": "optimality gap"}


class AcrossTasks(NamedTuple):
    aggregates: pd.DataFrame  # method, statistic, value, low, high, tasks, runs, coverage
    profiles: pd.DataFrame  # method, threshold, share, low, high
    improvements: pd.DataFrame  # ours, theirs, value, low, high
    averages: pd.DataFrame  # AVERAGE_COLUMNS; in points where all tasks have one range, else in %
    notes: list[str]  # tasks that had to be left out


def normalised(scores: pd.Series, tasks: Iterable[str], scale: Scale) -> pd.Series:
    """Scores on the scale; NaN for tasks that are not on it."""
    ranges = [scale.range_of(task) or (np.nan, np.nan) for task in tasks]
    low, high = np.array(ranges, float).reshape(-1, 2).T
    return (scores - low) / (high - low)


def common_range(scale: Scale, tasks: Sequence[str]) -> tuple[float, float] | None:
    """The range of scores that all tasks share; None where they differ or lack one."""
    ranges = {scale.range_of(task) for task in tasks}
    return ranges.pop() if len(ranges) == 1 else None


def strata(finals: pd.DataFrame, method: str, tasks: Sequence[str]) -> list[np.ndarray]:
    """Normalised final scores of a method, [seeds] for each task."""
    chosen = finals[(finals["method"] == method) & np.isfinite(finals["normalised"])]
    return [chosen.loc[chosen["task"] == task, "normalised"].to_numpy(float) for task in tasks]


def common_tasks(finals: pd.DataFrame, methods: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Those of `tasks` on which every method has complete, finite scores."""
    usable = finals[np.isfinite(finals["normalised"]) & ~finals["partial"]]
    found = [set(usable.loc[usable["method"] == method, "task"]) for method in methods]
    shared = set.intersection(*found) if found else set()
    return [task for task in tasks if task in shared]


def across_tasks(
    finals: pd.DataFrame, runs: pd.DataFrame, methods: Sequence[str], scale: Scale,
    published: pd.DataFrame,
) -> AcrossTasks:  # fmt: skip
    """Over the tasks on the scale that all `methods` have, at least two, without an x-axis.

    `finals`: method, task, normalised, partial. `published`: method, task, score_mean.
    """
    aggregates, profiles, pairs, averages = [], [], [], []
    notes: list[str] = []
    methods = [method for method in methods if method in set(finals["method"])]
    planned = [task for task in dict.fromkeys(runs["task"]) if scale.range_of(task)]
    tasks = common_tasks(finals, methods, planned) if runs["x"].nunique() == 1 else []
    if len(tasks) >= 2:
        by_method = {method: strata(finals, method, tasks) for method in methods}
        for method, groups in by_method.items():
            aggregates += _aggregate_rows(method, groups)
            profiles += _profile_rows(method, groups)
        pairs = _pair_rows(by_method)
        left_out = [task for task in planned if task not in tasks]
        if left_out:
            notes.append(
                f"averages are over {len(tasks)} of {len(planned)} tasks, those with complete runs "
                f"of every method; without {', '.join(left_out)}"
            )
        for group, title in _groups(tasks, set(published["method"])):
            averages += _average_rows(finals, methods, published, scale, group, title)
    return AcrossTasks(
        pd.DataFrame(aggregates, columns=[
            "method", "statistic", "value", "low", "high", "tasks", "runs", "coverage"]),
        pd.DataFrame(profiles, columns=["method", "threshold", "share", "low", "high"]),
        pd.DataFrame(pairs, columns=["ours", "theirs", "value", "low", "high"]),
        pd.DataFrame(averages, columns=list(AVERAGE_COLUMNS)),
        notes,
    )  # fmt: skip


def _aggregate_rows(method: str, groups: list[np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    for name, statistic in statistics.STATISTICS.items():
        low, high = statistics.interval_over_tasks(name, groups)
        rows.append(
            dict(method=method, statistic=name, value=float(statistic(groups)), low=low,
                 high=high, tasks=len(groups), runs=sum(len(group) for group in groups),
                 coverage=coverage(name, len(groups), min(len(group) for group in groups)))
        )  # fmt: skip
    return rows


def interval_warning(aggregates: pd.DataFrame) -> str:
    """A warning that names the intervals that simulations show to be too narrow; "" if there are
    none.
    """
    drawn = aggregates[aggregates["low"].notna() & (aggregates["coverage"] < HONEST)]
    worst = drawn.groupby("statistic", sort=False)["coverage"].min()
    if worst.empty:
        return ""
    found = ", ".join(
        f"{STATISTIC_WORDS.get(str(name), name)} {share:.2f}" for name, share in worst.items()
    )
    return (
        "Too narrow with so few tasks and seeds, where seeds may fail: in simulations these "
        f"intervals hold the true value less often than 0.95 ({found})."
    )


def _profile_rows(method: str, groups: list[np.ndarray]) -> list[dict[str, Any]]:
    share = statistics.performance_profile(groups, THRESHOLDS)
    low, high = statistics.bootstrap_interval(
        groups, lambda drawn: statistics.performance_profile(drawn, THRESHOLDS), resamples=500
    )
    columns = dict(method=method, threshold=THRESHOLDS, share=share, low=low, high=high)
    return pd.DataFrame(columns).to_dict("records")


def _pair_rows(by_method: dict[str, list[np.ndarray]]) -> list[dict[str, Any]]:
    """The default method against each of the others."""
    rows = []
    first = default_method(list(by_method))
    ours = by_method[first]
    for other, theirs in by_method.items():
        if other == first:
            continue
        value = float(statistics.probability_of_improvement(ours, theirs))
        low, high = statistics.improvement_interval(ours, theirs)
        rows.append(dict(ours=first, theirs=other, value=value, low=low, high=high))
    return rows


def _groups(tasks: list[str], published: set[str]) -> list[tuple[list[str], str]]:
    """The sets of tasks over which averages are fair, and their titles."""
    groups = [(tasks, f"Mean of {len(tasks)} tasks")]
    without = [task for task in tasks if task in TASKS_18]
    if {"d4pg", "a3c"} & published and 2 <= len(without) < len(tasks):
        groups.append((without, f"Mean of {len(without)} without quadruped"))
    return groups


def _average_rows(
    finals: pd.DataFrame, methods: Sequence[str], published: pd.DataFrame, scale: Scale,
    tasks: list[str], title: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Mean score over `tasks` of each method, with its interval; then of published ones
    that have all of these tasks."""
    shared = common_range(scale, tasks)
    low, high = shared or (0.0, 100.0)
    name = dict(group=f"average_{len(tasks)}", title=title if shared else f"{title} (%)")
    rows: list[dict[str, Any]] = []
    by_method = {method: strata(finals, method, tasks) for method in methods}
    best = best_of({method: [sample(task) for task in by_method[method]] for method in methods})
    for method, groups in by_method.items():
        mean = float(statistics.mean_over_tasks(groups))
        edges = mean_estimate(groups).interval()
        values = [low + (high - low) * float(value) for value in (mean, *edges)]
        rows.append(
            {**name, "method": method, "published": False, "best": method == best,
             **dict(zip(("mean", "low", "high"), values, strict=True))}
        )  # fmt: skip
    known = published.assign(
        score=normalised(published["score_mean"], published["task"], scale)
    ).set_index("task")
    for method, mine in known.groupby("method", sort=False)["score"]:
        if set(tasks) <= set(mine.index):
            mean = low + (high - low) * float(mine.loc[tasks].mean())
            rows.append({**name, "method": method, "published": True, "mean": mean,
                         "low": np.nan, "high": np.nan, "best": False})  # fmt: skip
    return rows
