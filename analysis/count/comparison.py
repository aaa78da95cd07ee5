"""Which of two methods is better, per task and over tasks, and how many seeds would decide.

Both are compared by final scores (suites/record/scores.py) at the same env_steps: where the shorter
of the two ends. Only tasks that both have are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.count.averages import common_range
from analysis.count.estimates import (
    NO_INTERVAL,
    Estimate,
    Interval,
    Sample,
    difference,
    holm,
    mean_difference,
    sample,
    seeds_needed,
)
from analysis.count.statistics import (
    final_scores,
    improvement_interval,
    probability_of_improvement,
)
from analysis.count.summary import Summary
from analysis.count.verdict import LEVEL_OF_TESTS, counts_text


class Side(NamedTuple):
    """A method of a suite, and the frame that its summary is of."""

    label: str
    method: str
    summary: Summary
    frame: pd.DataFrame

    @property
    def run_ids(self) -> set[str]:
        """Of the planned runs."""
        runs = self.summary.runs
        return set(runs.loc[runs["method"] == self.method, "run_id"])


class TaskComparison(NamedTuple):
    task: str
    env_steps: int
    evaluations: str  # that a score averages
    scores: tuple[list[float], list[float]]  # of single seeds
    samples: tuple[Sample, Sample]
    difference: Estimate  # first - second
    p: float  # of no difference; corrected for the number of tasks (Holm)
    seeds_needed: int | None  # on either side; None: more than 100, or unknown


class Comparison(NamedTuple):
    labels: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]  # that differ
    tasks: list[TaskComparison]
    left_out: list[str]  # tasks that only one of them has
    unit: str  # of the mean difference: points, or % of the scale; "": tasks share no scale
    mean: Estimate | None  # over the tasks with two seeds on both sides
    mean_tasks: int
    seeds_needed: int | None  # on either side of each task, for the mean
    improvement: float  # probability that a run of the first beats one of the second
    improvement_interval: Interval

    @property
    def outcome(self) -> str:
        """Who is better over tasks."""
        if self.mean is None or not self.mean.p_different() <= LEVEL_OF_TESTS:  # NaN is not
            return "cannot tell yet"
        return f"{self.labels[0 if self.mean.value > 0 else 1]} is better"


def compare(first: Side, second: Side) -> Comparison:
    """The first method minus the second."""
    runs = [_runs(side) for side in (first, second)]
    tasks = [task for task in dict.fromkeys(runs[0]["task"]) if task in set(runs[1]["task"])]
    every = dict.fromkeys([*runs[0]["task"], *runs[1]["task"]])
    sides = list(zip((first, second), runs, strict=True))
    found = [_compare_task(task, [(s, r[r["task"] == task]) for s, r in sides]) for task in tasks]
    p = holm([one.difference.p_different() for one in found])
    found = [one._replace(p=value) for one, value in zip(found, p, strict=True)]
    usable = [one for one in found if min(side.n for side in one.samples) > 1]
    unit, factors = _unit(first.summary, [one.task for one in usable])
    pairs = [
        (_scaled(one.samples[0], factor), _scaled(one.samples[1], factor))
        for one, factor in zip(usable, factors, strict=False)
    ]
    ours, theirs = ([np.array(one.scores[side]) for one in found] for side in (0, 1))
    return Comparison(
        labels=(first.label, second.label),
        settings=_settings(*runs),
        tasks=found,
        left_out=[task for task in every if task not in tasks],
        unit=unit,
        mean=mean_difference(pairs) if pairs else None,
        mean_tasks=len(pairs),
        seeds_needed=seeds_needed(pairs, both=True) if pairs else None,
        improvement=float(probability_of_improvement(ours, theirs)) if found else math.nan,
        improvement_interval=improvement_interval(ours, theirs) if found else NO_INTERVAL,
    )  # fmt: skip


def _runs(side: Side) -> pd.DataFrame:
    """The side's runs that have a final score."""
    runs, finals = side.summary.runs, side.summary.finals
    finals = finals[(finals["method"] == side.method) & finals["score"].notna()]
    return runs[runs["run_id"].isin(finals["run_id"])].merge(finals[["run_id", "at"]], on="run_id")


def _compare_task(task: str, sides: Sequence[tuple[Side, pd.DataFrame]]) -> TaskComparison:
    end = min(int(runs["at"].min()) for _, runs in sides)
    scores = []
    for side, runs in sides:
        # Episodes end where they end: an evaluation a little after `end` counts.
        at = [end + config["eval_every_env_steps"] - 1 for config in runs["config"]]
        metric, last = side.summary.metric, side.summary.last
        found = final_scores(side.frame, runs.assign(at=at), metric=metric, last=last)
        scores.append(found[found["score"].notna()])
    values = [list(one["score"]) for one in scores]
    samples = sample(values[0]), sample(values[1])
    return TaskComparison(
        task=task,
        env_steps=end,
        evaluations=counts_text(pd.concat([one["evaluations"] for one in scores])),
        scores=(values[0], values[1]),
        samples=samples,
        difference=difference(*samples),
        p=math.nan,
        seeds_needed=seeds_needed([samples], both=True),
    )


def _unit(summary: Summary, tasks: Sequence[str]) -> tuple[str, list[float]]:
    """The unit of a mean over tasks and the factor that takes each task's scores to it; none where
    the tasks share no scale.
    """
    if len(tasks) == 1 or (tasks and common_range(summary.scale, tasks)):
        return "points", [1.0] * len(tasks)
    ranges = [summary.scale.range_of(task) for task in tasks]
    if not all(ranges):
        return "", []
    return "% of the scale", [100 / (one[1] - one[0]) for one in ranges if one]


def _scaled(one: Sample, factor: float) -> Sample:
    return Sample(one.mean * factor, one.sd * factor, one.n)


def _settings(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, tuple[Any, Any]]:
    """Settings that have one value on either side, and not the same."""
    found = {}
    configs = [list(runs["config"]) for runs in (first, second)]
    for key in dict.fromkeys(key for side in configs for config in side for key in config):
        values = [{str(config.get(key)) for config in side} for side in configs]
        single = key not in ("task", "seed") and all(len(one) == 1 for one in values)
        if single and values[0] != values[1]:
            found[key] = configs[0][0].get(key), configs[1][0].get(key)
    return found
