"""Do our runs reproduce the released Dreamer? A verdict for each task, and one over all tasks.

Our seeds are compared with the released ones at the same env_steps. A seed's score is its mean
return over the last 1e5 env_steps before that, as in the released file. Without reference curves
the released means and standard deviations in results/published/scores.csv are used, at the largest
of their env_steps that our runs have reached; with them, single seeds, where our runs end.

The difference has Welch's 95 % interval. `below` and `above`: the interval leaves out 0 and the
difference is at least the margin (100 points). `reproduced`: the difference is smaller than the
margin, and the interval is narrow enough (at most twice the margin to either side). Everything
else is `too few seeds`: the runs cannot tell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.count import statistics
from analysis.count.methods import pair_of
from analysis.count.published import published_scores
from analysis.count.statistics import NO_INTERVAL, Interval
from analysis.variants import DREAMER

WINDOW_ENV_STEPS = 100_000
MARGIN = 100.0  # points
MIN_SEEDS = 2  # fewer have no spread
CAVEAT = (
    "The released curves come from an earlier hyper-parameter setting than the paper's, by its "
    "author's own words."
)


class Outcome(StrEnum):
    REPRODUCED = "reproduced"
    BELOW = "below"
    ABOVE = "above"
    TOO_FEW_SEEDS = "too few seeds"


class Sample(NamedTuple):
    """Scores of several seeds."""

    mean: float
    sd: float
    n: int


class Judgement(NamedTuple):
    """Two samples compared."""

    difference: float  # ours - theirs
    interval: Interval
    outcome: Outcome
    reason: str


class TaskVerdict(NamedTuple):
    """One task."""

    task: str
    env_steps: int
    ours: Sample
    theirs: Sample
    difference: float  # ours - theirs
    interval: Interval
    verdict: Outcome
    reason: str
    run_ids: list[str]


class Verdict(NamedTuple):
    """A method of a suite, judged; without tasks `reason` says why."""

    method: str
    margin: float
    tasks: list[TaskVerdict]
    reason: str = ""


def sample(values: Sequence[float]) -> Sample:
    found = statistics.describe(np.asarray(values, float))
    return Sample(found["mean"], found["sd"], int(found["n"]))


def judge(ours: Sample, theirs: Sample, margin: float = MARGIN) -> Judgement:
    """Compares two samples."""
    difference, interval, _ = statistics.welch(*ours, *theirs)
    if min(ours.n, theirs.n) < MIN_SEEDS:
        who = "ours" if ours.n < MIN_SEEDS else "released"
        reason = f"{min(ours.n, theirs.n)} {who}"
        return Judgement(difference, interval, Outcome.TOO_FEW_SEEDS, reason)
    half = (interval.high - interval.low) / 2
    if abs(difference) >= margin:
        if interval.high < 0:
            return Judgement(difference, interval, Outcome.BELOW, "the interval is below 0")
        if interval.low > 0:
            return Judgement(difference, interval, Outcome.ABOVE, "the interval is above 0")
        reason = "a large difference, but 0 is in its interval"
        return Judgement(difference, interval, Outcome.TOO_FEW_SEEDS, reason)
    if half > 2 * margin:
        reason = f"the interval is ± {half:.0f} wide"
        return Judgement(difference, interval, Outcome.TOO_FEW_SEEDS, reason)
    return Judgement(difference, interval, Outcome.REPRODUCED, f"within {margin:.0f} points")


def window_scores(frame: pd.DataFrame, metric: str, at: int) -> pd.Series:
    """Each run's mean value in the 1e5 env_steps before `at`; NaN where one of them is NaN."""
    chosen = frame[(frame["metric"] == metric).to_numpy()]
    steps = chosen["env_steps"]
    chosen = chosen[(steps > at - WINDOW_ENV_STEPS) & (steps <= at)]
    grouped = chosen.groupby(chosen["run_id"].astype(object), sort=True)["value"]
    return grouped.agg(lambda values: values.mean(skipna=False))


def released_seeds(reference: pd.DataFrame, task: str, at: int) -> list[float]:
    """Each released seed's score nearest to `at`, if it is within 5e4 env_steps."""
    rows = reference[(reference["task"] == task) & reference["episode_return"].notna()]
    rows = rows.assign(distance=(rows["env_steps"] - at).abs())
    rows = rows[rows["distance"] <= WINDOW_ENV_STEPS / 2].sort_values("distance", kind="stable")
    return [float(group["episode_return"].iloc[0]) for _, group in rows.groupby("seed")]


def judge_tasks(
    runs: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    reference: pd.DataFrame | None = None,
    metric: str = "evaluate_return",
    margin: float = MARGIN,
    at: int | None = None,
) -> list[TaskVerdict]:
    """A verdict for each task of `runs` (one method), in their order.

    All seeds of a task are compared at the env_steps that the shortest of them has reached.
    Missing seeds are not counted in n.
    """
    published = published_scores()
    published = published[published["method"] == "dreamer"]
    found = []
    for task, group in runs.groupby("task", sort=False):
        present = group[group["state"] != "missing"]
        reached = int(present["last_env_steps"].min()) if len(present) else 0
        end = min(reached, at) if at else reached
        if reference is None:
            rows = published[(published["task"] == task) & (published["env_steps"] <= end)]
            if rows.empty:
                found.append(_nothing(str(task), end, "no released score at so few env_steps"))
                continue
            row = rows.sort_values("env_steps").iloc[-1]
            end = int(row["env_steps"])
            theirs = Sample(float(row["score_mean"]), float(row["score_sd"]), int(row["seeds"]))
        else:
            theirs = sample(released_seeds(reference, str(task), end))
        mine = frame[frame["run_id"].isin(present["run_id"])]
        scores = window_scores(mine, metric, end)
        scores = scores[np.isfinite(scores)]
        ours = sample(scores.to_numpy())
        if not ours.n or not theirs.n:
            who = "of ours" if not ours.n else "released"
            found.append(_nothing(str(task), end, f"no score {who} at {end:,} env_steps"))
            continue
        found.append(_verdict(str(task), end, ours, theirs, judge(ours, theirs, margin), scores))
    return found


def _verdict(
    task: str, env_steps: int, ours: Sample, theirs: Sample, found: Judgement, scores: pd.Series
) -> TaskVerdict:
    """`scores`: those of our runs, by run_id."""
    return TaskVerdict(
        task=task,
        env_steps=env_steps,
        ours=ours,
        theirs=theirs,
        difference=found.difference,
        interval=found.interval,
        verdict=found.outcome,
        reason=found.reason,
        run_ids=list(scores.index),
    )


def _nothing(task: str, end: int, reason: str) -> TaskVerdict:
    none = Sample(math.nan, math.nan, 0)
    found = Judgement(math.nan, NO_INTERVAL, Outcome.TOO_FEW_SEEDS, reason)
    return _verdict(task, end, none, none, found, pd.Series(dtype=float))


def overall(found: Sequence[TaskVerdict]) -> dict[str, Any]:
    """Counts, and the mean difference over the tasks with two seeds on both sides.

    Tasks are fixed and seeds are drawn: the standard errors of the tasks' differences add up.
    """
    counts = Counter(one.verdict for one in found)
    usable = [one for one in found if math.isfinite(one.interval.low)]
    result: dict[str, Any] = {
        "tasks": len(found), **{word: counts.get(word, 0) for word in Outcome},
        "compared": len(usable),
    }  # fmt: skip
    if usable:
        difference, interval = mean_difference(usable)
        result |= {"mean_difference": difference, "low": interval.low, "high": interval.high}
    words = ", ".join(f"{counts[word]} {word}" for word in Outcome if counts.get(word))
    result["statement"] = f"Of {len(found)} tasks: {words}."
    if usable:
        result["statement"] += (
            f" Mean difference over the {len(usable)} tasks with an interval: "
            f"{difference:+.0f} [{interval.low:+.0f}, {interval.high:+.0f}]."
        )
    return result


def mean_difference(found: Sequence[TaskVerdict]) -> tuple[float, Interval]:
    """Mean of the tasks' differences; Welch and Satterthwaite's 95 % interval."""
    samples = [one for verdict in found for one in (verdict.ours, verdict.theirs)]
    terms = [(one.sd**2 / one.n, one.n - 1) for one in samples]
    variance = sum(term for term, _ in terms)
    mean = float(np.mean([verdict.difference for verdict in found]))
    if variance == 0:
        return mean, Interval(mean, mean)
    freedom = variance**2 / sum(term**2 / degrees for term, degrees in terms)
    half = statistics.t_quantile(freedom + 1) * variance**0.5 / len(found)
    return mean, Interval(mean - half, mean + half)


def judge_suite(
    suite: str,
    runs: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    reference: pd.DataFrame | None,
    metric: str,
    method: str | None,
    margin: float,
    at: int | None,
) -> Verdict:
    """The verdict on the suite's Dreamer, or on `method`."""
    found = dict.fromkeys(runs["method"])
    dreamers = [one for one in found if pair_of(one) == DREAMER]
    wanted = method or (dreamers[0] if len(dreamers) == 1 else "")
    if not wanted and dreamers:
        reason = f"{suite} has several Dreamers: --method {' | '.join(dreamers)}"
        return Verdict(DREAMER, margin, [], reason)
    if wanted not in found:
        return Verdict(DREAMER, margin, [], f"{suite} has no runs of {wanted or DREAMER}")
    chosen = runs[runs["method"] == wanted]
    tasks = judge_tasks(chosen, frame, reference=reference, metric=metric, margin=margin, at=at)
    return Verdict(wanted, margin, tasks)


def as_json(verdict: Verdict, source: str, synthetic: bool) -> dict[str, Any]:
    """Everything, with null where there is no number. source: where released scores are from."""

    def clean(value: Any) -> Any:
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return {key: clean(part) for key, part in value._asdict().items()}
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    return {
        **({"synthetic": True} if synthetic else {}),
        "reference": source,
        "margin": verdict.margin,
        "overall": {key: clean(value) for key, value in overall(verdict.tasks).items()},
        "tasks": [clean(one) for one in verdict.tasks],
    }
