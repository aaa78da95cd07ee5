"""A suite's records put together: which runs there should be, which there are, and statistics.

    plan (expanded suite) + records -> runs with method and state -> bins -> curves
                                                                  -> final scores -> table, averages

`summarise` is pure: everything that figures, tables, the verdict and the report say comes from the
`Summary` that it returns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.count import statistics as aggregate
from analysis.count.methods import Style, method_order, styles, with_methods
from analysis.count.published import CONTROL_TASKS, normalised
from analysis.count.statistics import LAST_EVALUATIONS
from analysis.read.frame import UNKNOWN_ATTEMPT, Records

MAX_BINS = 50
THRESHOLDS = np.linspace(0, 1, 51)
# Figure 4 has a setting on its x-axis: the imagination horizon, or how far PlaNet plans.
AXES: dict[str, tuple[str, ...]] = {"figure4": ("horizon", "planner_horizon")}


class Summary(NamedTuple):
    """All numbers of one suite."""

    name: str
    about: str
    metric: str
    band: str  # name in aggregate.BANDS
    last: int  # values that a final score averages
    published: tuple[str, ...]  # methods to show beside
    runs: pd.DataFrame  # every planned run: method, x, state, target_env_steps, n_expected, ...
    styles: dict[str, Style]  # per method, in the order of the paper
    binned: pd.DataFrame  # per run and bin: run_id, env_steps, value, count, attempt
    curves: pd.DataFrame  # task, method, env_steps, statistics, low, high, run_ids, ...
    finals: pd.DataFrame  # per run: score, task, method, x, at, partial
    scores: pd.DataFrame  # per task, method, x: statistics, low, high, at, partial, run_ids
    aggregates: pd.DataFrame  # method, statistic, value, low, high, tasks, runs
    profiles: pd.DataFrame  # method, threshold, share, low, high
    improvements: pd.DataFrame  # ours, theirs, value, low, high
    progress: pd.DataFrame  # per run: area under the curve, env_steps to reach scores
    problems: list[str]  # missing, short and odd runs, one line each
    synthetic: bool

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(self.runs["task"]))


def summarise(
    name: str,
    plan: Sequence[Any],
    records: Records,
    *,
    about: str = "",
    metric: str = "evaluate_return",
    band: str = "sd",
    last: int = LAST_EVALUATIONS,
    published: Sequence[str] = (),
    until: int | None = None,
) -> Summary:
    """Statistics of the planned runs (each with `run_id` and `config`) from their records.

    `until` ends everything at that many env_steps, as if the budget had been smaller.
    """
    runs, notes = planned_runs(name, plan, records, until)
    chosen = styles(list(dict.fromkeys(runs["method"])))
    widths = bin_widths(runs, records.frame, metric)
    binned = aggregate.bin_runs(records.frame, metric=metric, width=widths, last=until)
    curves = _with_origin(_with_band(aggregate.curves(binned, runs, GROUP_X), band), binned, runs)
    finals = final_scores(records.frame, runs, metric, last)
    scores = score_table(finals, runs, band)
    aggregates, profiles, improvements, left_out = across_tasks(finals, runs)
    problems = notes + run_problems(runs) + left_out + records.warnings
    problems += commit_problems(runs)
    return Summary(
        name, about, metric, band, last, tuple(published), runs, chosen, binned, curves, finals,
        scores,
        aggregates, profiles, improvements, run_progress(binned, runs, widths), problems,
        bool(runs["synthetic"].any()),
    )  # fmt: skip


GROUP_X = ("task", "method", "x")


def planned_runs(
    name: str, plan: Sequence[Any], records: Records, until: int | None
) -> tuple[pd.DataFrame, list[str]]:
    """A row for every planned run, with what the records know of it, and notes on methods.

    `state` is complete, short, or missing. A run is complete when it says so, or when its values
    reach its target to within one distance of evaluations.
    """
    axis = AXES.get(name, ())
    keys = ("task", "behaviour", "representation", "seed", "preset")
    rows = [
        {"run_id": run.run_id, **{key: run.config[key] for key in keys}, "config": run.config}
        for run in plan
    ]
    runs, notes = with_methods(pd.DataFrame(rows), axis)
    runs["x"] = [_axis_value(config, axis) for config in runs["config"]]
    budgets = [int(config["env_steps"]) for config in runs["config"]]
    runs["target_env_steps"] = [min(b, until) if until else b for b in budgets]
    known = ["last_env_steps", "attempts", "commits", "synthetic", "provenance", "status", "error"]
    runs = runs.merge(records.runs[["run_id", *known]], on="run_id", how="left")
    runs["status"] = runs["status"].fillna("MISSING")
    runs["synthetic"] = runs["synthetic"].fillna(False).astype(bool)
    runs["last_env_steps"] = runs["last_env_steps"].fillna(0).astype(int)
    runs["state"] = [_state(row) for row in runs.itertuples()]
    group = runs.groupby(list(GROUP_X), sort=False)
    runs["n_expected"] = group["run_id"].transform("size")
    return runs, notes


def _axis_value(config: Mapping[str, Any], axis: Sequence[str]) -> int:
    if not axis:
        return 0
    return int(config["planner_horizon" if config["behaviour"] == "planet" else "horizon"])


def _state(run: Any) -> str:
    if run.status == "MISSING" or run.last_env_steps == 0:
        return "missing"
    near = run.target_env_steps - int(run.config["eval_every_env_steps"])
    done = run.status == "COMPLETED" or run.last_env_steps > near
    return "complete" if done else "short"


def bin_widths(runs: pd.DataFrame, frame: pd.DataFrame, metric: str) -> dict[str, int]:
    """Bins of env_steps per run, one width per task.

    Where the runs of a task were evaluated at the same, at most 50, env_steps, each is a bin (width
    1). Otherwise at most 50 bins, none finer than the distance of evaluations.
    """
    points = frame.loc[(frame["metric"] == metric).to_numpy(), ["run_id", "env_steps"]]
    by_run = {
        str(run_id): group.to_numpy()
        for run_id, group in points.groupby("run_id", observed=True)["env_steps"]
    }
    widths: dict[str, int] = {}
    for _, group in runs.groupby("task", sort=False):
        steps = [by_run[run_id] for run_id in group["run_id"] if run_id in by_run]
        distinct = len(np.unique(np.concatenate(steps))) if steps else 0
        aligned = distinct == max((len(one) for one in steps), default=0)
        every = max(int(config["eval_every_env_steps"]) for config in group["config"])
        budget = int(group["target_env_steps"].max())
        width = every * max(1, math.ceil(budget / every / MAX_BINS))
        width = 1 if aligned and distinct <= MAX_BINS else min(width, budget)
        widths |= dict.fromkeys(group["run_id"], width)
    return widths


def _with_band(table: pd.DataFrame, band: str) -> pd.DataFrame:
    """`low` and `high` of the chosen band."""
    table["low"], table["high"] = aggregate.BANDS[band][1](table)
    return table


def _with_origin(curves: pd.DataFrame, binned: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`attempts` and `commits` of each point, in the order of its `run_ids`."""
    attempt_of = dict(
        zip(zip(binned["run_id"], binned["env_steps"], strict=True), binned["attempt"], strict=True)
    )
    origin = runs.set_index("run_id")
    attempts, commits = [], []
    for run_ids, env_steps in zip(curves["run_ids"], curves["env_steps"], strict=True):
        made = [(run_id, attempt_of[run_id, env_steps]) for run_id in run_ids.split(";") if run_id]
        attempts.append(";".join(_attempt_words(origin.at[r, "commits"], a) for r, a in made))
        commits.append(";".join(_commit_words(origin.at[r, "commits"], a) for r, a in made))
    curves["attempts"], curves["commits"] = attempts, commits
    return curves


def _attempt_words(commits: Any, attempt: int) -> str:
    """The attempt's number; all of the run's, joined by `|`, where it is not known which."""
    if attempt != UNKNOWN_ATTEMPT:
        return str(attempt)
    return "|".join(commits) if isinstance(commits, dict) and commits else "?"


def _commit_words(commits: Any, attempt: int) -> str:
    if not isinstance(commits, dict):
        return "?"
    if attempt != UNKNOWN_ATTEMPT:
        return commits.get(str(attempt)) or "?"
    return "|".join(dict.fromkeys(commit or "?" for commit in commits.values())) or "?"


# --- final scores ----------------------------------------------------------------------------


def final_scores(frame: pd.DataFrame, runs: pd.DataFrame, metric: str, last: int) -> pd.DataFrame:
    """Each run's final score, where it is comparable with its group's.

    In a group (task, method, x) with complete runs only those count, at their budget. In a group
    without any, all runs count, at the env_steps that all of them have reached, and the rows are
    marked `partial`.
    """
    at: dict[str, int] = {}
    partial: dict[str, bool] = {}
    for _, group in runs[runs["state"] != "missing"].groupby(list(GROUP_X), sort=False):
        complete = group[group["state"] == "complete"]
        counted = complete if len(complete) else group
        for row in counted.itertuples():
            partial[row.run_id] = not len(complete)
            at[row.run_id] = (
                row.target_env_steps if len(complete) else int(group["last_env_steps"].min())
            )
    scores = aggregate.final_scores(frame, metric=metric, last=last, at=at)
    scores = scores[scores["run_id"].isin(at)]
    columns = ["run_id", *GROUP_X, "seed", "n_expected"]
    scores = scores.merge(runs[columns], on="run_id", how="left")
    scores["at"] = scores["run_id"].map(at).astype("int64")
    scores["partial"] = scores["run_id"].map(partial).astype(bool)
    scores["normalised"] = normalised(scores["score"], scores["task"])
    return scores


def score_table(finals: pd.DataFrame, runs: pd.DataFrame, band: str) -> pd.DataFrame:
    """Statistics of final scores per task, method and x, in the order of the plan."""
    rows = []
    order = {key: place for place, key in enumerate(_groups(runs))}
    for key, group in finals.groupby(list(GROUP_X), sort=False):
        finite = group[np.isfinite(group["score"])]
        rows.append(
            {
                **dict(zip(GROUP_X, key, strict=True)),
                **aggregate.describe(group["score"].to_numpy(float)),
                "n_expected": int(group["n_expected"].iloc[0]),
                "at": int(group["at"].min()),
                "partial": bool(group["partial"].any()),
                "scores": list(finite["score"]),
                "run_ids": ";".join(finite["run_id"]),
                "order": order[key],
            }
        )
    names = ["n", "mean", "sd", "se", "median", "iqm", "min", "max", "ci_low", "ci_high"]
    columns = [*GROUP_X, *names, "n_expected", "at", "partial", "scores", "run_ids", "order"]
    table = pd.DataFrame(rows, columns=columns).sort_values("order").drop(columns="order")
    return _with_band(table.reset_index(drop=True), band)


def _groups(runs: pd.DataFrame) -> list[tuple]:
    return list(dict.fromkeys(zip(*(runs[column] for column in GROUP_X), strict=True)))


# --- across tasks ----------------------------------------------------------------------------


def strata(finals: pd.DataFrame, method: str, tasks: Sequence[str]) -> list[np.ndarray]:
    """Normalised final scores of a method, [seeds] for each task."""
    chosen = finals[(finals["method"] == method) & np.isfinite(finals["normalised"])]
    return [chosen.loc[chosen["task"] == task, "normalised"].to_numpy(float) for task in tasks]


def common_tasks(finals: pd.DataFrame, methods: Sequence[str]) -> list[str]:
    """The control tasks on which every method has complete, finite scores."""
    usable = finals[np.isfinite(finals["normalised"]) & ~finals["partial"]]
    found = [set(usable.loc[usable["method"] == method, "task"]) for method in methods]
    shared = set.intersection(*found) if found else set()
    return [task for task in CONTROL_TASKS if task in shared]


def across_tasks(
    finals: pd.DataFrame, runs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Aggregates, performance profiles and pairs of methods over the tasks that all methods have.

    Only for suites with one value on the x-axis and at least two such tasks.
    """
    aggregates, profiles, pairs, notes = [], [], [], []
    methods = sorted(set(finals["method"]), key=method_order)
    planned = [task for task in CONTROL_TASKS if task in set(runs["task"])]
    tasks = common_tasks(finals, methods) if runs["x"].nunique() == 1 else []
    if len(tasks) >= 2:
        by_method = {method: strata(finals, method, tasks) for method in methods}
        for method, groups in by_method.items():
            aggregates += _aggregate_rows(method, groups)
            profiles += _profile_rows(method, groups)
        first = methods[0]
        for other in methods[1:]:
            value = float(aggregate.probability_of_improvement(by_method[first], by_method[other]))
            interval = aggregate.improvement_interval(by_method[first], by_method[other])
            pairs.append(
                dict(ours=first, theirs=other, value=value, low=interval.low, high=interval.high)
            )
        left_out = [task for task in planned if task not in tasks]
        if left_out:
            notes.append(
                f"averages are over {len(tasks)} of {len(planned)} tasks, those with complete runs "
                f"of every method; without {', '.join(left_out)}"
            )
    return (
        pd.DataFrame(aggregates, columns=[
            "method", "statistic", "value", "low", "high", "tasks", "runs"]),
        pd.DataFrame(profiles, columns=["method", "threshold", "share", "low", "high"]),
        pd.DataFrame(pairs, columns=["ours", "theirs", "value", "low", "high"]),
        notes,
    )  # fmt: skip


def _aggregate_rows(method: str, groups: list[np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    for name, statistic in aggregate.STATISTICS.items():
        low, high = aggregate.bootstrap_interval(groups, statistic)
        rows.append(
            dict(method=method, statistic=name, value=float(statistic(groups)), low=float(low),
                 high=float(high), tasks=len(groups), runs=sum(len(group) for group in groups))
        )  # fmt: skip
    return rows


def _profile_rows(method: str, groups: list[np.ndarray]) -> list[dict[str, Any]]:
    share = aggregate.performance_profile(groups, THRESHOLDS)
    low, high = aggregate.bootstrap_interval(
        groups, lambda drawn: aggregate.performance_profile(drawn, THRESHOLDS), resamples=500
    )
    low, high = np.broadcast_to(low, share.shape), np.broadcast_to(high, share.shape)
    return [
        dict(method=method, threshold=float(t), share=float(s), low=float(a), high=float(b))
        for t, s, a, b in zip(THRESHOLDS, share, low, high, strict=True)
    ]


def run_progress(
    binned: pd.DataFrame, runs: pd.DataFrame, widths: Mapping[str, int]
) -> pd.DataFrame:
    """Per run: area under its binned curve, and env_steps to reach 100, 500 and 900."""
    target = runs.set_index("run_id")["target_env_steps"]
    rows = []
    for run_id, group in binned[binned["run_id"].isin(target.index)].groupby("run_id"):
        steps, values = group["env_steps"].to_numpy(), group["value"].to_numpy()
        until = target[run_id] // widths[run_id] * widths[run_id]
        rows.append(
            {
                "run_id": run_id,
                "area_under_curve": aggregate.area_under_curve(steps, values, until),
                **{
                    f"env_steps_to_{score}": aggregate.time_to_reach(steps, values, score)
                    for score in (100, 500, 900)
                },
            }
        )
    columns = ["run_id", "area_under_curve", *(f"env_steps_to_{s}" for s in (100, 500, 900))]
    return pd.DataFrame(rows, columns=columns)


# --- what a reader must know -----------------------------------------------------------------


def run_problems(runs: pd.DataFrame) -> list[str]:
    """Missing and short runs, one line per method and task: nothing is left out in silence."""
    lines = []
    bad = runs[runs["state"] != "complete"]
    for (state, task, method), group in bad.groupby(["state", "task", "method"], sort=True):
        at = sorted({f"{steps:,}" for steps in group["last_env_steps"]})
        where = f", at {' and '.join(at)} env_steps" if state == "short" else ""
        seeds = ", ".join(str(seed) for seed in sorted(set(group["seed"])))
        said = ", ".join(sorted({str(status) for status in group["status"]} - {"MISSING"}))
        x = f", {group['x'].nunique()} settings of x" if runs["x"].nunique() > 1 else ""
        word = f" ({said.lower()})" if said else ""
        lines.append(f"{state}: {task}, {method}, seed {seeds}{x}{where}{word}")
    return lines


def commit_problems(runs: pd.DataFrame) -> list[str]:
    """More than one version of the code behind a suite's runs is worth knowing."""
    found: dict[str, int] = {}
    for commits in runs["commits"]:
        if isinstance(commits, dict):
            for commit in set(commits.values()):
                found[commit or "unknown"] = found.get(commit or "unknown", 0) + 1
    if len(found) < 2:
        return []
    words = ", ".join(f"{commit} ({count} runs)" for commit, count in sorted(found.items()))
    return [f"several versions of the code: {words}"]
