"""Do our runs reproduce the released Dreamer? The mean difference over tasks, a verdict for each.

Our seeds are compared with the released ones at the same env_steps, by final scores. Without
reference curves the released means and standard deviations in results/published/scores.csv are
used, at the largest of their env_steps that our runs have reached; with them, single seeds, where
our runs end.

`reproduced` is a claim that needs evidence: two one-sided tests, that our mean is above the
released one minus the margin and below it plus the margin. They succeed where the 90 % interval of
the difference lies within the margin. `below` and `above`: the difference is not 0 and at least the
margin. Both kinds of p-values are corrected for the number of tasks (Holm). All else is
`cannot tell yet`, with the number of seeds that would decide.

A margin means something only where there is more to learn: what is learned is the released score
minus that of random actions (results/measured/random.csv). Where this is less than the margin, the
verdict is `cannot tell yet`; and the margin is never more than half of it, so that an agent that
acts at random reproduces nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import pandas as pd

from analysis.count.estimates import (
    MAX_SEEDS,
    Interval,
    Sample,
    difference,
    holm,
    mean_difference,
    sample,
    seeds_needed,
)
from analysis.count.methods import pair_of
from analysis.count.published import published_scores, random_scores
from analysis.count.statistics import final_scores
from analysis.variants import DREAMER

REFERENCE_EVERY_ENV_STEPS = 100_000
MARGIN = 100.0  # points
MIN_SEEDS = 2  # fewer have no spread
LEVEL_OF_TESTS = 0.05
CAVEAT = (
    "The released curves come from an earlier hyper-parameter setting than the paper's, by its "
    "author's own words."
)
TESTS = (
    "Reproduced: the 90 % interval of the difference lies within the margin (two one-sided tests); "
    "p-values are corrected for the number of tasks (Holm). Seeds that would decide: 80 % power, "
    "if means and standard deviations stay as they are."
)


class Outcome(StrEnum):
    REPRODUCED = "reproduced"
    BELOW = "below"
    ABOVE = "above"
    CANNOT_TELL = "cannot tell yet"
    NOT_RELEASED = "no released score"


@dataclass(frozen=True)
class Compared:
    """What is known of one task before the number of tasks is corrected for."""

    task: str
    env_steps: int
    evaluations: str  # that a score of ours averages: `10`, or `9 to 10`
    ours: Sample
    theirs: Sample
    learned: float  # released - random; NaN where one of them is unknown
    margin: float
    run_ids: list[str]
    obstacle: str = ""  # why there is nothing to compare


@dataclass(frozen=True, kw_only=True)
class TaskVerdict(Compared):
    """One task."""

    difference: float  # ours - theirs
    interval: Interval  # 95 %
    interval_90: Interval  # within the margin: reproduced, before tasks are corrected for
    p_equivalent: float  # both corrected for the number of tasks
    p_different: float
    seeds_needed: int | None  # of ours, for a decision; None: none up to 100, or unknown
    verdict: Outcome
    reason: str


class Verdict(NamedTuple):
    """A method of a suite, judged; without tasks `reason` says why."""

    method: str
    margin: float
    tasks: list[TaskVerdict]
    reason: str = ""


def judge(compared: Sequence[Compared]) -> list[TaskVerdict]:
    """The verdicts, all tasks together."""
    estimates = [difference(one.ours, one.theirs) for one in compared]
    equivalent = holm([e.p_equivalent(c.margin) for e, c in zip(estimates, compared, strict=True)])
    different = holm([estimate.p_different() for estimate in estimates])
    tests = max(1, sum(math.isfinite(p) for p in different))
    found = []
    for one, estimate, p_same, p_other in zip(
        compared, estimates, equivalent, different, strict=True
    ):
        needed = seeds_needed([(one.ours, one.theirs)], margin=one.margin, tests=tests)
        outcome, reason = _outcome(one, estimate.value, p_same, p_other, needed)
        found.append(
            TaskVerdict(
                **vars(one),
                difference=estimate.value,
                interval=estimate.interval(),
                interval_90=estimate.interval(0.9),
                p_equivalent=p_same,
                p_different=p_other,
                seeds_needed=needed,
                verdict=outcome,
                reason=reason,
            )
        )
    return found


def _outcome(
    one: Compared, value: float, p_equivalent: float, p_different: float, needed: int | None
) -> tuple[Outcome, str]:
    """A task's verdict and the reason for it."""
    if one.obstacle:
        return (Outcome.CANNOT_TELL if one.theirs.n else Outcome.NOT_RELEASED), one.obstacle
    if min(one.ours.n, one.theirs.n) < MIN_SEEDS:
        who = "ours" if one.ours.n < MIN_SEEDS else "released"
        return Outcome.CANNOT_TELL, f"{min(one.ours.n, one.theirs.n)} {who}: at least 2 seeds"
    if p_different <= LEVEL_OF_TESTS and abs(value) >= one.margin:
        return (Outcome.BELOW if value < 0 else Outcome.ABOVE), f"p = {p_different:.2g}"
    if math.isfinite(one.learned) and 2 * one.margin > one.learned:
        return Outcome.CANNOT_TELL, f"released is only {one.learned:.0f} above random actions"
    if p_equivalent <= LEVEL_OF_TESTS:
        return Outcome.REPRODUCED, f"within {one.margin:.0f} points, p = {p_equivalent:.2g}"
    if needed is None:
        reason = f"not even {MAX_SEEDS} seeds of ours would decide"
        return Outcome.CANNOT_TELL, f"{reason} with {one.theirs.n} released ones"
    return Outcome.CANNOT_TELL, f"about {needed} seeds would decide"


def margin_of(margin: float, learned: float) -> float:
    """The margin of a task on which so much is learned: at most half of it, where that is known."""
    return min(margin, learned / 2) if learned >= margin else margin


def released_seeds(reference: pd.DataFrame, task: str, at: int) -> list[float]:
    """Each released seed's score nearest to `at`, if it is within 5e4 env_steps."""
    rows = reference[(reference["task"] == task) & reference["episode_return"].notna()]
    distance = (rows["env_steps"] - at).abs()
    distance = distance[distance <= REFERENCE_EVERY_ENV_STEPS / 2]
    places = distance.groupby(rows["seed"]).idxmin()
    return rows.loc[places, "episode_return"].astype(float).tolist()


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
    compared = []
    for task, group in runs.groupby("task", sort=False):
        present = group[group["state"] != "missing"]
        reached = int(present["last_env_steps"].min()) if len(present) else 0
        end = min(reached, at) if at else reached
        end, theirs, missing = _released(str(task), end, reference)
        scores = final_scores(frame, present.assign(at=end), metric=metric)
        scores = scores[scores["score"].notna()]
        ours = sample(scores["score"].to_numpy())
        learned = theirs.mean - random_scores().get(str(task), math.nan)
        nothing = "" if ours.n else f"no score of ours at {end:,} env_steps"
        compared.append(
            Compared(
                task=str(task),
                env_steps=end,
                evaluations=counts_text(scores["evaluations"]),
                ours=ours,
                theirs=theirs,
                learned=learned,
                margin=margin_of(margin, learned),
                run_ids=list(scores["run_id"]),
                obstacle=missing or nothing,
            )
        )
    return judge(compared)


def counts_text(counts: pd.Series) -> str:
    """`10`, or `9 to 10`; empty for none."""
    return " to ".join(str(n) for n in sorted({counts.min(), counts.max()})) if len(counts) else ""


def _released(task: str, end: int, reference: pd.DataFrame | None) -> tuple[int, Sample, str]:
    """(env_steps to compare at, released scores there, what is missing)."""
    none = Sample(math.nan, math.nan, 0)
    if reference is not None:
        theirs = sample(released_seeds(reference, task, end))
        return end, theirs, "" if theirs.n else f"none released near {end:,} env_steps"
    published = published_scores()
    rows = published[(published["method"] == "dreamer") & (published["task"] == task)]
    if rows.empty:
        return end, none, "the task is not one of the released ones"
    rows = rows[rows["env_steps"] <= end].sort_values("env_steps")
    if rows.empty:
        return end, none, "none released at so few env_steps"
    row = rows.iloc[-1]
    theirs = Sample(float(row["score_mean"]), float(row["score_sd"]), int(row["seeds"]))
    return int(row["env_steps"]), theirs, ""


def overall(found: Sequence[TaskVerdict]) -> dict[str, Any]:
    """The mean difference over the tasks with two seeds on both sides; and counts."""
    counts = Counter(one.verdict for one in found)
    usable = [one for one in found if math.isfinite(one.interval.low)]
    result: dict[str, Any] = {
        "tasks": len(found), **{word: counts.get(word, 0) for word in Outcome},
        "compared": len(usable),
    }  # fmt: skip
    statement = ""
    if usable:
        estimate = mean_difference([(one.ours, one.theirs) for one in usable])
        interval = estimate.interval()
        result |= {"mean_difference": estimate.value, "low": interval.low, "high": interval.high}
        many = f"{len(usable)} tasks" if len(usable) > 1 else "1 task"
        statement = (
            f"Mean difference over {many}: {estimate.value:+.0f} points "
            f"[{interval.low:+.0f}, {interval.high:+.0f}] (95 %). "
        )
    words = ", ".join(f"{counts[word]} {word}" for word in Outcome if counts.get(word))
    result["statement"] = f"{statement}Of {len(found)} tasks: {words}."
    return result


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
    """Everything, with NaN where there is no number. source: where released scores are from."""
    return {
        **({"synthetic": True} if synthetic else {}),
        "reference": source,
        "margin": verdict.margin,
        "overall": overall(verdict.tasks),
        "tasks": [
            {key: value for key, value in vars(one).items() if key != "obstacle"}
            for one in verdict.tasks
        ],
    }
