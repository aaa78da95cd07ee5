"""Do our runs reproduce the released Dreamer? A verdict per task, and one over all.

    python analysis/reproduction.py --suite suites/figure6.yaml [--reference scores.json] [--json]

Our seeds are set against the released ones at the same env_steps. A seed's score is its mean return
over the last 1e5 env_steps up to there, as in the released file. Without `--reference` the released
means and standard deviations in results/published/scores.csv are used, at the largest of their
env_steps that our runs have reached; with it, single seeds, wherever our runs end.

The difference has Welch's 95 % interval. `below` and `above`: the interval leaves out 0 and the
difference is at least the margin (100 points). `reproduced`: the difference is smaller than the
margin, and the interval is narrow enough to say so (at most twice the margin to either side).
Everything else is `too few seeds`: what we have cannot tell.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.count import statistics as aggregate
from analysis.count.published import published_scores
from analysis.count.statistics import Interval
from analysis.count.summary import planned_runs
from analysis.read import curves as exchange
from analysis.read.frame import Source, load_suite
from analysis.read.mongo import opened
from dreamer.config import UserError
from suites import command
from suites.expand import expand

ROOT = Path(__file__).resolve().parents[2]
METHOD = "dreamer/reconstruction"
WINDOW_ENV_STEPS = 100_000
MARGIN = 100.0
MIN_SEEDS = 2  # fewer have no spread
VERDICTS = ("reproduced", "below", "above", "too few seeds")


class Sample(NamedTuple):
    """Scores of several seeds, as far as they are known."""

    mean: float
    sd: float
    n: int


class Verdict(NamedTuple):
    """One task."""

    task: str
    env_steps: int
    ours: Sample
    theirs: Sample
    difference: float  # ours - theirs
    interval: Interval
    verdict: str  # one of VERDICTS
    reason: str
    run_ids: list[str]


def sample(values: Sequence[float]) -> Sample:
    found = aggregate.describe(np.asarray(values, float))
    return Sample(found["mean"], found["sd"], int(found["n"]))


def judge(ours: Sample, theirs: Sample, margin: float = MARGIN) -> tuple[float, Interval, str, str]:
    """(difference, interval, verdict, reason) of two samples."""
    difference, interval, _ = aggregate.welch(*ours, *theirs)
    if min(ours.n, theirs.n) < MIN_SEEDS:
        who = "ours" if ours.n < MIN_SEEDS else "released"
        return difference, interval, "too few seeds", f"{min(ours.n, theirs.n)} {who}"
    half = (interval.high - interval.low) / 2
    if abs(difference) >= margin:
        if interval.high < 0:
            return difference, interval, "below", "the interval is below 0"
        if interval.low > 0:
            return difference, interval, "above", "the interval is above 0"
        return difference, interval, "too few seeds", "a large difference, but its interval has 0"
    if half > 2 * margin:
        return difference, interval, "too few seeds", f"the interval is ± {half:.0f} wide"
    return difference, interval, "reproduced", f"within {margin:.0f} points"


def window_scores(frame: pd.DataFrame, metric: str, at: int) -> pd.Series:
    """Each run's mean value in the last 1e5 env_steps up to `at`; NaN values make it NaN."""
    chosen = frame[(frame["metric"] == metric).to_numpy()]
    steps = chosen["env_steps"]
    chosen = chosen[(steps > at - WINDOW_ENV_STEPS) & (steps <= at)]
    grouped = chosen.groupby(chosen["run_id"].astype(object), sort=True)["value"]
    return grouped.agg(lambda values: values.mean(skipna=False))


def released_seeds(reference: pd.DataFrame, task: str, at: int) -> list[float]:
    """Each released seed's score nearest to `at`; seeds without one within 5e4 are left out."""
    rows = reference[(reference["task"] == task) & reference["episode_return"].notna()]
    rows = rows.assign(distance=(rows["env_steps"] - at).abs())
    rows = rows[rows["distance"] <= WINDOW_ENV_STEPS / 2].sort_values("distance", kind="stable")
    return [float(group["episode_return"].iloc[0]) for _, group in rows.groupby("seed")]


def verdicts(
    runs: pd.DataFrame,
    frame: pd.DataFrame,
    *,
    reference: pd.DataFrame | None = None,
    metric: str = "evaluate_return",
    margin: float = MARGIN,
    at: int | None = None,
) -> list[Verdict]:
    """A verdict for each task of `runs` (one method), in their order.

    All seeds of a task are compared at one number of env_steps, which the shortest that is there
    has reached; missing seeds are simply not there, and n says so.
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
        difference, interval, word, reason = judge(ours, theirs, margin)
        runs_used = list(scores.index)
        found.append(
            Verdict(str(task), end, ours, theirs, difference, interval, word, reason, runs_used)
        )
    return found


def _nothing(task: str, end: int, reason: str) -> Verdict:
    none = Sample(math.nan, math.nan, 0)
    interval = aggregate.NO_INTERVAL
    return Verdict(task, end, none, none, math.nan, interval, "too few seeds", reason, [])


def overall(found: Sequence[Verdict]) -> dict[str, Any]:
    """Counts, and the mean difference over the tasks with two seeds on both sides.

    Tasks are fixed and seeds are drawn: the standard errors of the tasks' differences add up.
    """
    counts = Counter(one.verdict for one in found)
    usable = [one for one in found if math.isfinite(one.interval.low)]
    result: dict[str, Any] = {
        "tasks": len(found), **{word: counts.get(word, 0) for word in VERDICTS},
        "compared": len(usable),
    }  # fmt: skip
    if usable:
        difference, interval = mean_difference(usable)
        result |= {"mean_difference": difference, "low": interval.low, "high": interval.high}
    words = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts.get(word))
    result["statement"] = f"Of {len(found)} tasks: {words}."
    if usable:
        result["statement"] += (
            f" Mean difference over the {len(usable)} tasks with an interval: "
            f"{difference:+.0f} [{interval.low:+.0f}, {interval.high:+.0f}]."
        )
    return result


def mean_difference(found: Sequence[Verdict]) -> tuple[float, Interval]:
    """Mean of the tasks' differences; Welch and Satterthwaite's 95 % interval."""
    samples = [one for verdict in found for one in (verdict.ours, verdict.theirs)]
    terms = [(one.sd**2 / one.n, one.n - 1) for one in samples]
    variance = sum(term for term, _ in terms)
    mean = float(np.mean([verdict.difference for verdict in found]))
    if variance == 0:
        return mean, Interval(mean, mean)
    freedom = variance**2 / sum(term**2 / degrees for term, degrees in terms)
    half = aggregate.t_quantile(freedom + 1) * variance**0.5 / len(found)
    return mean, Interval(mean - half, mean + half)


# --- words -----------------------------------------------------------------------------------


def table(found: Sequence[Verdict]) -> str:
    """The verdicts as aligned text."""
    head = ("task", "env_steps", "ours", "released", "difference", "verdict")
    rows = [
        (
            one.task, f"{one.env_steps:,}", _sample_text(one.ours), _sample_text(one.theirs),
            _difference_text(one), f"{one.verdict} ({one.reason})",
        )
        for one in found
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
             for row in [head, *rows]]  # fmt: skip
    return "\n".join(lines)


def _sample_text(one: Sample) -> str:
    if not one.n:
        return "-"
    spread = f" ± {one.sd:.0f}" if math.isfinite(one.sd) else ""
    return f"{one.mean:.0f}{spread} (n={one.n})"


def _difference_text(one: Verdict) -> str:
    if not math.isfinite(one.difference):
        return "-"
    low, high = one.interval
    return f"{one.difference:+.0f}" + (f" [{low:+.0f}, {high:+.0f}]" if math.isfinite(low) else "")


def as_json(
    found: Sequence[Verdict], source: str, margin: float, synthetic: bool
) -> dict[str, Any]:
    """Everything, with null where a number does not exist."""

    def clean(value: Any) -> Any:
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return {key: clean(part) for key, part in value._asdict().items()}
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    return {
        **({"synthetic": True} if synthetic else {}),
        "reference": source,
        "margin": margin,
        "overall": {key: clean(value) for key, value in overall(found).items()},
        "tasks": [clean(one) for one in found],
    }


CAVEAT = (
    "The released curves come from an earlier hyper-parameter setting than the paper's, by its "
    "author's own words."
)


def suite_verdicts(
    path: Path,
    source: Source,
    reference: pd.DataFrame | None,
    *,
    metric: str = "evaluate_return",
    method: str | None = None,
    margin: float = MARGIN,
    at: int | None = None,
) -> tuple[list[Verdict], bool]:
    """The verdicts on a suite file's runs, and whether their records are synthetic."""
    suite = expand(path)
    records = load_suite(source, suite, metric)
    if records.frame.empty:
        raise UserError(f"no results of {suite.name} in {source}")
    runs, _ = planned_runs(suite.name, suite.runs, records, None)
    methods = [m for m in dict.fromkeys(runs["method"]) if m.split(" ")[0] == METHOD]
    wanted = method or (methods[0] if len(methods) == 1 else None)
    if wanted is None and methods:
        raise UserError(f"{suite.name} has several Dreamers: --method {' | '.join(methods)}")
    if wanted not in set(runs["method"]):
        raise UserError(f"{suite.name} has no runs of {wanted or METHOD}")
    runs = runs[runs["method"] == wanted]
    found = verdicts(runs, records.frame, reference=reference, metric=metric, margin=margin, at=at)
    return found, bool(runs["synthetic"].any())


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--mongo", metavar="URL", help="read from this MongoDB")
    parser.add_argument("--reference", type=Path, help="released curves, JSON or CSV")
    parser.add_argument("--metric", default="evaluate_return")
    parser.add_argument("--method", help=f"default: the suite's {METHOD}")
    parser.add_argument("--margin", type=float, default=MARGIN, help="points; default 100")
    parser.add_argument("--at", type=float, help="compare at so many env_steps at most (1e6)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(argv)
    if not options.margin > 0:
        raise UserError(f"--margin {options.margin}: more than 0")
    return options


def run(options: argparse.Namespace) -> int:
    reference = exchange.read_curves(options.reference) if options.reference else None
    released = str(options.reference or "results/published/scores.csv")
    with opened(options.results, options.mongo) as source:
        found, synthetic = suite_verdicts(
            options.suite, source, reference, metric=options.metric, method=options.method,
            margin=options.margin, at=int(options.at) if options.at else None,
        )  # fmt: skip
    if options.json:
        print(json.dumps(as_json(found, released, options.margin, synthetic), indent=2))
        return 0
    if synthetic:
        print("SYNTHETIC DATA: drawn by a random generator, no agent was trained.")
    print(table(found))
    print(f"\n{overall(found)['statement']}\nReleased scores: {released}. {CAVEAT}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(arguments, run, argv)
