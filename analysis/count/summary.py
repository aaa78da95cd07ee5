"""All numbers of a suite, from its plan and its records.

    plan (expanded suite) + records -> runs with method and completeness -> bins -> curves
            -> final scores -> score table -> across tasks;  curves and seeds -> verdict

`summarise` is pure. Figures, tables, verdict and report take their numbers from the `Summary` that
it returns and load nothing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.count import statistics
from analysis.count.averages import across_tasks, normalised
from analysis.count.estimates import best_of, sample
from analysis.count.methods import Style, styles, with_methods
from analysis.count.published import baselines
from analysis.count.statistics import GROUP
from analysis.count.verdict import MARGIN, Verdict, counts_text, judge_suite
from analysis.read.frame import Loaded
from analysis.read.source import UNKNOWN_ATTEMPT
from dreamer.errors import counted
from dreamer.run_folder import Status
from suites.language.figures import Axis, Scale
from suites.language.suite import Suite
from suites.record.scores import WINDOW_WORDS

MAX_BINS = 50
METRIC_WORDS = {"evaluate_return": "evaluations", "episode_return": "training episodes"}


class Completeness(StrEnum):
    """How much of a planned run there is."""

    COMPLETE = "complete"
    SHORT = "short"
    MISSING = "missing"


class Summary(NamedTuple):
    """All numbers of one suite."""

    name: str
    about: str
    metric: str
    band: str  # name in statistics.BANDS
    last: int | None  # values that a final score averages; None: those in its window
    x: Axis | None  # the setting on the x-axis of a sweep
    scale: Scale
    runs: pd.DataFrame  # per planned run: method, x, state, target_env_steps, n_expected, ...
    styles: dict[str, Style]  # per method, in the order of the paper
    binned: pd.DataFrame  # per run and bin: run_id, env_steps, value, count, attempt
    curves: pd.DataFrame  # task, method, env_steps, statistics, low, high, run_ids, ...
    finals: pd.DataFrame  # per run: score, task, method, x, at, partial, normalised
    scores: pd.DataFrame  # per task, method, x: statistics, low, high, at, partial, best, run_ids
    aggregates: pd.DataFrame  # method, statistic, value, low, high, tasks, runs, coverage
    profiles: pd.DataFrame  # method, threshold, share, low, high
    improvements: pd.DataFrame  # ours, theirs, value, low, high
    averages: pd.DataFrame  # group, title, method, published, mean, low, high
    progress: pd.DataFrame  # per run: area under the curve, env_steps to reach scores
    published: pd.DataFrame  # method, task, score_mean: published scores on the suite's tasks
    published_methods: tuple[str, ...]  # in the order of the suite
    reference: pd.DataFrame | None  # given curves: task, env_steps, statistics, low, high
    verdict: Verdict
    problems: list[str]  # missing, short and odd runs, one line each
    synthetic: bool

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(self.runs["task"]))

    @property
    def is_sweep(self) -> bool:
        """Several values on the x-axis."""
        return self.runs["x"].nunique() > 1

    def final_words(self) -> str:
        """What a seed's final score is, and how many values it is the mean of."""
        if self.last is not None:
            return f"the mean of its last {self.last} {self.metric_words}"
        count = counts_text(self.finals["evaluations"]) or "none"
        return f"the mean of its {self.metric_words} in {WINDOW_WORDS} ({count} of them)"

    @property
    def metric_words(self) -> str:
        """What the metric's values are, in the plural."""
        return METRIC_WORDS.get(self.metric, f"values of {self.metric}")

    def methods_with_scores(self) -> list[str]:
        present = set(self.scores["method"])
        return [method for method in self.styles if method in present]


def summarise(
    suite: Suite,
    loaded: Loaded,
    *,
    metric: str = "evaluate_return",
    band: str = "sd",
    last: int | None = None,
    until: int | None = None,
    reference: pd.DataFrame | None = None,
    method: str | None = None,
    margin: float = MARGIN,
) -> Summary:
    """The numbers of a suite's planned runs.

    last: average so many values for a final score, instead of those in its window.
    until: ignore everything after so many env_steps, as if the budget had been smaller.
    reference: curves to compare with, as `read_curves` gives them.
    method: what the verdict compares with the released scores; default: the suite's Dreamer.
    margin: the smallest difference, in points, that matters to the verdict.
    """
    runs, notes = planned_runs(suite, loaded, until)
    scale = suite.shown.scale
    chosen = styles(list(dict.fromkeys(runs["method"])))
    widths = bin_widths(runs, loaded.frame, metric)
    binned = statistics.bin_runs(loaded.frame, metric=metric, width=widths, last=until)
    origin = ("run_id", "attempt", "commit")
    curves = statistics.curves(_with_origin(binned, runs), runs, origin)
    finals = final_scores(loaded.frame, runs, metric, last, until, scale)
    published = baselines(suite.published)
    published = published[published["task"].isin(set(runs["task"]))].reset_index(drop=True)
    across = across_tasks(finals, runs, list(chosen), scale, published)
    problems = [*notes, *run_problems(runs), *across.notes, *loaded.warnings]
    return Summary(
        name=suite.name,
        about=suite.about,
        metric=metric,
        band=band,
        last=last,
        x=suite.shown.x,
        scale=scale,
        runs=runs,
        styles=chosen,
        binned=binned,
        curves=statistics.with_band(curves, band),
        finals=finals,
        scores=score_table(finals, runs, band),
        aggregates=across.aggregates,
        profiles=across.profiles,
        improvements=across.improvements,
        averages=across.averages,
        progress=run_progress(binned, runs, widths),
        published=published,
        published_methods=tuple(m for m in suite.published if m in set(published["method"])),
        reference=None if reference is None else _reference_statistics(reference, runs, band),
        verdict=judge_suite(
            suite.name, runs, loaded.frame,
            reference=reference, metric=metric, method=method, margin=margin, at=until,
        ),
        problems=problems + commit_problems(runs) + environment_problems(runs),
        synthetic=bool(runs["synthetic"].any()),
    )  # fmt: skip


def planned_runs(suite: Suite, loaded: Loaded, until: int | None) -> tuple[pd.DataFrame, list[str]]:
    """A row for every planned run with what the records say of it, and notes on methods.

    `state` is its Completeness. A run is complete when its status is COMPLETED and its own budget
    reaches its target, or when its values do, to within one interval of evaluations.
    """
    x = suite.shown.x
    keys = ("task", "behaviour", "representation", "seed", "preset")
    rows = [
        {"run_id": run.run_id, **{key: run.config[key] for key in keys}, "config": run.config}
        for run in suite.runs
    ]
    runs, notes = with_methods(pd.DataFrame(rows), x.settings if x else ())
    runs["x"] = [config[x.setting_of(config["behaviour"])] if x else 0 for config in runs["config"]]
    budgets = [int(config["env_steps"]) for config in runs["config"]]
    runs["target_env_steps"] = [min(b, until) if until else b for b in budgets]
    known = ["budget_env_steps", "last_env_steps", "attempts", "commits", "synthetic", "provenance",
             "status", "error"]  # fmt: skip
    runs = runs.merge(loaded.runs[["run_id", *known]], on="run_id", how="left")
    runs["status"] = runs["status"].astype(object).fillna("MISSING")
    runs["synthetic"] = runs["synthetic"].fillna(False).astype(bool)
    runs["last_env_steps"] = runs["last_env_steps"].fillna(0).astype(int)
    runs["state"] = [_completeness(row) for row in runs.itertuples()]
    group = runs.groupby(list(GROUP), sort=False)
    runs["n_expected"] = group["run_id"].transform("size")
    return runs, notes


def _completeness(run: Any) -> Completeness:
    if run.status == "MISSING" or run.last_env_steps == 0:
        return Completeness.MISSING
    near = run.target_env_steps - int(run.config["eval_every_env_steps"])
    completed = run.status == Status.COMPLETED and run.budget_env_steps >= run.target_env_steps
    done = completed or run.last_env_steps > near
    return Completeness.COMPLETE if done else Completeness.SHORT


def _reference_statistics(reference: pd.DataFrame, runs: pd.DataFrame, band: str) -> pd.DataFrame:
    """Statistics over the seeds of given curves, up to the first point at or after our budget."""
    budget = runs.groupby("task")["target_env_steps"].max()
    here = reference[reference["task"].isin(budget.index)]
    after = here[here["env_steps"] >= here["task"].map(budget)]
    last = after.groupby("task")["env_steps"].min().reindex(budget.index).fillna(budget)
    here = here[here["env_steps"] <= here["task"].map(last)]
    return statistics.reference_statistics(here, band)


def bin_widths(runs: pd.DataFrame, frame: pd.DataFrame, metric: str) -> dict[str, int]:
    """Bins of env_steps per run, one width per task.

    Where all runs of a task were evaluated at the same env_steps, at most 50 of them, each of these
    is a bin (width 1). Otherwise there are at most 50 bins, none narrower than the interval between
    evaluations.
    """
    points = frame[(frame["metric"] == metric).to_numpy()]
    distinct = points.groupby("task", observed=True)["env_steps"].nunique()
    of_run = points.groupby("run_id", observed=True).size()
    widths: dict[str, int] = {}
    for task, group in runs.groupby("task", sort=False):
        places = distinct.get(task, 0)
        aligned = places == of_run.reindex(group["run_id"], fill_value=0).max()
        every = max(int(config["eval_every_env_steps"]) for config in group["config"])
        budget = int(group["target_env_steps"].max())
        width = every * max(1, math.ceil(budget / every / MAX_BINS))
        width = 1 if aligned and places <= MAX_BINS else min(width, budget)
        widths |= dict.fromkeys(group["run_id"], width)
    return widths


def _with_origin(binned: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`binned` with `attempt` and `commit` as texts."""
    commits = dict(zip(runs["run_id"], runs["commits"], strict=True))
    points = zip(binned["run_id"], binned["attempt"], strict=True)
    found = [_origin(commits[run_id], attempt) for run_id, attempt in points]
    return binned.assign(attempt=[a for a, _ in found], commit=[c for _, c in found])


def _origin(commits: dict[str, str], attempt: int) -> tuple[str, str]:
    """An attempt's number and its version of the code. Where the attempt is unknown, those of all
    attempts of the run, joined by `|`."""
    if attempt != UNKNOWN_ATTEMPT:
        return str(attempt), commits.get(str(attempt)) or "?"
    versions = dict.fromkeys(commit or "?" for commit in commits.values())
    return "|".join(commits) or "?", "|".join(versions) or "?"


# --- final scores ----------------------------------------------------------------------------


def final_scores(
    frame: pd.DataFrame,
    runs: pd.DataFrame,
    metric: str,
    last: int | None,
    until: int | None,
    scale: Scale,
) -> pd.DataFrame:
    """Each run's final score, of runs that can be compared.

    In a group (task, method, x) with complete runs only these count, at their end. In a group
    without complete runs all count, at the env_steps that all of them have reached, and their rows
    are marked `partial`.
    """
    present = runs[runs["state"] != Completeness.MISSING]
    complete = present["state"] == Completeness.COMPLETE
    groups = [present[column] for column in GROUP]
    partial = ~complete.groupby(groups).transform("any")
    reached = present["last_env_steps"].groupby(groups).transform("min")
    end = np.where(partial, np.minimum(reached, until or math.inf), until or math.inf)
    counted = present.assign(at=end, partial=partial)[complete | partial]
    scores = statistics.final_scores(frame, counted, metric=metric, last=last)
    scores = scores.rename(columns={"env_steps": "at"})
    columns = ["run_id", *GROUP, "seed", "n_expected", "partial"]
    scores = scores.merge(counted[columns], on="run_id").astype({"partial": bool})
    scores["normalised"] = normalised(scores["score"], scores["task"], scale)
    return scores


def score_table(finals: pd.DataFrame, runs: pd.DataFrame, band: str) -> pd.DataFrame:
    """Statistics of final scores per task, method and x, in the order of the plan."""
    groups = finals.groupby(list(GROUP), sort=False)
    table = statistics.over_runs(finals, GROUP, "score").assign(
        at=groups["at"].min().to_numpy(int),
        evaluations=[counts_text(counts) for _, counts in groups["evaluations"]],
        partial=groups["partial"].any().to_numpy(bool),
        scores=[list(scores[np.isfinite(scores)]) for _, scores in groups["score"]],
    )
    table = runs[list(GROUP)].drop_duplicates().merge(table, on=list(GROUP))
    best = {
        key: best_of({m: [sample(s)] for m, s in zip(one["method"], one["scores"], strict=True)})
        for key, one in table[~table["partial"]].groupby(["task", "x"])
    }
    keys = zip(table["task"], table["x"], table["method"], strict=True)
    table["best"] = [best.get((task, x)) == method for task, x, method in keys]
    return statistics.with_band(table, band)


def run_progress(
    binned: pd.DataFrame, runs: pd.DataFrame, widths: Mapping[str, int]
) -> pd.DataFrame:
    """Per run: area under its binned curve, and env_steps to reach 100, 500 and 900."""
    target = runs.set_index("run_id")["target_env_steps"]
    reached = (100, 500, 900)
    rows = []
    for run_id, group in binned.groupby("run_id"):
        steps, values = group["env_steps"].to_numpy(), group["value"].to_numpy()
        until = target[run_id] // widths[run_id] * widths[run_id]
        area = statistics.area_under_curve(steps, values, until)
        times = [statistics.time_to_reach(steps, values, score) for score in reached]
        rows.append((run_id, area, *times))
    names = ["run_id", "area_under_curve", *(f"env_steps_to_{score}" for score in reached)]
    return pd.DataFrame(rows, columns=names)


# --- problems --------------------------------------------------------------------------------


def run_problems(runs: pd.DataFrame) -> list[str]:
    """Missing and short runs, one line per method and task."""
    lines = []
    bad = runs[runs["state"] != Completeness.COMPLETE]
    for (state, task, method), group in bad.groupby(["state", "task", "method"], sort=True):
        at = sorted({f"{steps:,}" for steps in group["last_env_steps"]})
        where = f", at {' and '.join(at)} env_steps" if state == Completeness.SHORT else ""
        seeds = ", ".join(str(seed) for seed in sorted(set(group["seed"])))
        statuses = ", ".join(sorted({str(status) for status in group["status"]} - {"MISSING"}))
        x = f", {group['x'].nunique()} settings of x" if runs["x"].nunique() > 1 else ""
        word = f" ({statuses.lower()})" if statuses else ""
        lines.append(f"{state}: {task}, {method}, seed {seeds}{x}{where}{word}")
    return lines


def commit_problems(runs: pd.DataFrame) -> list[str]:
    """One line if several versions of the code made the suite's runs."""
    of_runs = [set(commits.values()) for commits in runs["commits"] if isinstance(commits, dict)]
    found = Counter(commit or "unknown" for commits in of_runs for commit in commits)
    return [f"several versions of the code: {_versions_text(found)}"] if len(found) > 1 else []


def environment_problems(runs: pd.DataFrame) -> list[str]:
    """A line for each task whose runs were made in several versions of a user's own environment."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for task, provenance in zip(runs["task"], runs["provenance"], strict=True):
        own = (provenance.get("own") or {}) if isinstance(provenance, dict) else {}
        if "task" in own:
            found[task][own["task"]["version"]] += 1
    return [
        f"{task}: several versions of the environment: {_versions_text(versions)}"
        for task, versions in found.items()
        if len(versions) > 1
    ]


def _versions_text(runs: Mapping[str, int]) -> str:
    return ", ".join(f"{version} ({counted(n, 'run')})" for version, n in sorted(runs.items()))
