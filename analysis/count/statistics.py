"""Statistics over runs: pure functions of arrays and frames.

The values of each run are averaged first, within bins of env_steps (`bin_runs`) or over its last
evaluations (`final_scores`). Then runs of different seeds are combined. Each result says how many
runs it is computed from. NaN is never averaged away: a bin with a NaN is missing for that run.

Intervals are 95 % intervals. There are few seeds, so those of means and of differences of means,
within a task and over tasks, are Student's t (`Estimate`). Median and interquartile mean have a
stratified bootstrap interval: seeds are resampled within each task, n - 1 of n, because n of n
makes the variance too small by (n - 1) / n (Rao and Wu, 1988): by a third for 3. How often each
interval holds the true value is simulated by `python -m analysis.coverage`.

Over tasks, every task weighs the same, however many seeds it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from analysis.count.estimates import LEVEL, NO_INTERVAL, Interval, mean_estimate, sample
from suites.record import scores

RESAMPLES = 2000
GROUP = ("task", "method", "x")  # runs that differ in their seeds only
DESCRIBED = ("n", "mean", "sd", "se", "median", "iqm", "min", "max", "ci_low", "ci_high")


# --- a handful of values ---------------------------------------------------------------------


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis, without floor(n / 4) values at either end."""
    ordered = np.sort(np.asarray(values, float), axis=-1)
    n = ordered.shape[-1]
    return ordered[..., n // 4 : n - n // 4].mean(-1)


def describe(values: np.ndarray) -> dict[str, float]:
    """DESCRIBED of the finite values: sd has n - 1, ci is Student's 95 % interval of the mean.

    One value has no spread: NaN. With no values everything is NaN.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    mean, sd, n = sample(values)
    if n == 0:
        return {"n": 0, **dict.fromkeys(DESCRIBED[1:], math.nan)}
    se = sd / n**0.5
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * se
    return {
        "n": n,
        "mean": mean,
        "sd": sd,
        "se": se,
        "median": float(np.median(values)),
        "iqm": float(interquartile_mean(values)),
        "min": float(values.min()),
        "max": float(values.max()),
        "ci_low": mean - half,
        "ci_high": mean + half,
    }


# Name on the command line -> (words for the figure, lower and upper edge of the band).
BANDS: dict[str, tuple[str, Callable[[pd.DataFrame], tuple[pd.Series, pd.Series]]]] = {
    "sd": ("one standard deviation", lambda c: (c["mean"] - c["sd"], c["mean"] + c["sd"])),
    "se": ("one standard error", lambda c: (c["mean"] - c["se"], c["mean"] + c["se"])),
    "ci": ("95 % Student's t interval of the mean", lambda c: (c["ci_low"], c["ci_high"])),
    "range": ("range from minimum to maximum", lambda c: (c["min"], c["max"])),
}


def with_band(table: pd.DataFrame, band: str) -> pd.DataFrame:
    """`table` (rows of `describe`) with `low` and `high`, the edges of the band."""
    low, high = BANDS[band][1](table)
    return table.assign(low=low, high=high)


# --- one run over env_steps ------------------------------------------------------------------


def bin_runs(
    frame: pd.DataFrame, *, metric: str, width: int | Mapping[str, int], last: int | None = None
) -> pd.DataFrame:
    """Each run's mean value in bins (k w, (k + 1) w] of env_steps, named by their right edge.

    `width` w is one number or one per run_id. Returns `run_id, env_steps, value, count, attempt`
    (the latest one with a value), a sorted row for each run and bin with values. A bin with
    a NaN among its values is NaN. Values after `last` env_steps are left out.
    """
    run_ids = frame["run_id"].cat.categories
    by_run = [width[run_id] if isinstance(width, Mapping) else width for run_id in run_ids]
    widths = np.array(by_run, np.int64)
    chosen = (frame["metric"] == metric).to_numpy()
    if last is not None:
        chosen = chosen & (frame["env_steps"] <= last).to_numpy()
    codes = frame["run_id"].cat.codes.to_numpy()[chosen].astype(np.int64)
    steps = frame["env_steps"].to_numpy()[chosen]
    value = frame["value"].to_numpy()[chosen]
    attempts = frame["attempt"].to_numpy()[chosen]
    index = np.maximum(-(-steps // widths[codes]), 1)
    bins = int(index.max(initial=0)) + 1
    keys, place = np.unique(codes * bins + index, return_inverse=True)
    count = np.bincount(place, minlength=len(keys))
    total = np.bincount(place, weights=value, minlength=len(keys))
    latest = np.zeros(len(keys), np.int64)
    np.maximum.at(latest, place, attempts)
    of_run = (keys // bins).astype(int)
    return pd.DataFrame(
        {
            "run_id": run_ids.to_numpy()[of_run],
            "env_steps": keys % bins * widths[of_run],
            "value": total / count,
            "count": count,
            "attempt": latest,
        }
    )


def time_to_reach(env_steps: np.ndarray, values: np.ndarray, score: float) -> float:
    """env_steps of the first value at or above `score`; NaN if none is."""
    reached = np.flatnonzero(np.asarray(values) >= score)
    return float(np.asarray(env_steps)[reached[0]]) if len(reached) else math.nan


def area_under_curve(env_steps: np.ndarray, values: np.ndarray, until: float) -> float:
    """Average height of the piecewise linear curve from its first point to `until`.

    NaN where the curve ends before `until` or has a NaN.
    """
    x, y = np.asarray(env_steps, float), np.asarray(values, float)
    if len(x) < 2 or x[-1] < until or x[0] >= until:
        return math.nan
    inside = x < until
    x_all = np.append(x[inside], until)
    y_all = np.append(y[inside], np.interp(until, x, y))
    return float(np.trapezoid(y_all, x_all) / (until - x[0]))


def final_scores(
    frame: pd.DataFrame, runs: pd.DataFrame, *, metric: str, last: int | None = None
) -> pd.DataFrame:
    """The final score (suites/record/scores.py) of each run that has one.

    `runs`: run_id, config, and `at`, env_steps after which nothing counts. Returns `run_id, score,
    evaluations, env_steps` (of the last value used). A NaN among the values makes the score NaN.
    """
    rows = frame.loc[(frame["metric"] == metric).to_numpy(), ["run_id", "env_steps", "value"]]
    rows = rows.sort_values(["run_id", "env_steps"], kind="stable")
    known = {run.run_id: run for run in runs.itertuples()}
    found = []
    for run_id, group in rows.groupby("run_id", observed=True, sort=True):
        if run_id in known:
            columns = group["env_steps"].to_numpy(), group["value"].to_numpy()
            run = known[run_id]
            score = scores.final_score(*columns, run.config, run.at, last)
            found += [] if score is None else [(run_id, *score)]
    table = pd.DataFrame(found, columns=["run_id", "score", "evaluations", "env_steps"])
    return table.astype({"score": float, "evaluations": int, "env_steps": int})


# --- seeds of one task and method ------------------------------------------------------------


def over_runs(
    table: pd.DataFrame, by: Sequence[str], value: str, joined: Sequence[str] = ("run_id",)
) -> pd.DataFrame:
    """Statistics of the column `value` in each group, in the order of the table: `by`, DESCRIBED,
    `n_expected` (seeds that the group should have), and each column of `joined` in the plural
    (`run_ids`): its texts of the runs with a finite value, joined by `;`."""
    rows = []
    for key, group in table.groupby(list(by), sort=False, observed=True):
        values = group[value].to_numpy(float)
        finite = np.isfinite(values)
        texts = [";".join(group[column].to_numpy(object)[finite]) for column in joined]
        rows.append((*key, *describe(values).values(), group["n_expected"].iloc[0], *texts))
    names = [*by, *DESCRIBED, "n_expected", *(f"{column}s" for column in joined)]
    return pd.DataFrame(rows, columns=names).astype(dict(table[list(by)].dtypes))


def curves(
    binned: pd.DataFrame, runs: pd.DataFrame, joined: Sequence[str] = ("run_id",)
) -> pd.DataFrame:
    """`over_runs` for each group and bin. `binned` is from `bin_runs`; `runs` has `run_id`, GROUP
    and `n_expected`."""
    table = binned.merge(runs[["run_id", *GROUP, "n_expected"]], on="run_id", how="inner")
    table = table.sort_values([*GROUP, "env_steps", "run_id"], kind="stable")
    return over_runs(table, [*GROUP, "env_steps"], "value", joined)


def reference_statistics(given: pd.DataFrame, band: str) -> pd.DataFrame:
    """Statistics over seeds of given curves: task, env_steps, DESCRIBED, low, high.

    Values stay at the env_steps at which they were logged: released curves share one grid.
    """
    rows = [
        {"task": task, "env_steps": env_steps, **describe(group["episode_return"].to_numpy(float))}
        for (task, env_steps), group in given.groupby(["task", "env_steps"], sort=True)
    ]
    return with_band(pd.DataFrame(rows, columns=["task", "env_steps", *DESCRIBED]), band)


# --- many tasks ------------------------------------------------------------------------------

Strata = Sequence[np.ndarray]  # per task: scores [seeds], or resampled [resamples, draws]


def mean_over_tasks(strata: Strata) -> np.ndarray:
    """Mean over tasks of the mean over seeds (last axis): tasks have equal weights."""
    return np.mean([np.asarray(task).mean(-1) for task in strata], axis=0)


def median_over_tasks(strata: Strata) -> np.ndarray:
    """Median over tasks of the mean over seeds."""
    return np.median([np.asarray(task).mean(-1) for task in strata], axis=0)


def iqm_over_runs(strata: Strata) -> np.ndarray:
    """Interquartile mean over the runs of all tasks together.

    With unequal numbers of seeds a run weighs 1 / n of its task, and the middle half is by weight.
    """
    tasks = [np.asarray(task, float) for task in strata]
    values = np.concatenate(tasks, axis=-1)
    counts = np.array([task.shape[-1] for task in tasks])
    if len(set(counts)) == 1:
        return interquartile_mean(values)
    weights = np.repeat(1 / counts / len(tasks), counts)
    order = np.argsort(values, axis=-1)
    upper = np.cumsum(weights[order], axis=-1)
    lower = upper - weights[order]
    inside = np.clip(upper, 0.25, 0.75) - np.clip(lower, 0.25, 0.75)
    return (np.take_along_axis(values, order, axis=-1) * inside).sum(-1) / inside.sum(-1)


def optimality_gap(strata: Strata) -> np.ndarray:
    """Mean over tasks of how far runs stay below the highest score of the scale; less is better."""
    return mean_over_tasks(_gaps(strata))


def _gaps(strata: Strata) -> list[np.ndarray]:
    return [np.maximum(0, 1 - np.asarray(task, float)) for task in strata]


STATISTICS: dict[str, Callable[[Strata], np.ndarray]] = {
    "mean": mean_over_tasks,
    "median": median_over_tasks,
    "iqm": iqm_over_runs,
    "optimality_gap": optimality_gap,
}


def interval_over_tasks(name: str, strata: Strata, **options: int) -> Interval:
    """95 % interval of a statistic in STATISTICS. No interval where a task has a single seed."""
    if name in ("mean", "optimality_gap"):
        return mean_estimate(strata if name == "mean" else _gaps(strata)).interval()
    low, high = bootstrap_interval(strata, STATISTICS[name], **options)
    return Interval(float(low), float(high))


def draw_strata(strata: Strata, resamples: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Seeds resampled within each task: n - 1 of n, with replacement. [resamples, n - 1] each."""
    drawn = []
    for task in strata:
        n = len(task)
        if n < 2:
            raise ValueError("a task with one seed cannot be resampled")
        drawn.append(np.asarray(task, float)[generator.integers(0, n, (resamples, n - 1))])
    return drawn


def bootstrap_interval(
    strata: Strata,
    statistic: Callable[[Strata], np.ndarray],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval of `statistic` under stratified resampling; seeded.

    No interval (NaN) where a task has fewer than two seeds.
    """
    if not strata or any(len(task) < 2 for task in strata):
        return NO_INTERVAL
    samples = statistic(draw_strata(strata, resamples, np.random.default_rng(seed)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(samples, (tail, 1 - tail), axis=0)
    return Interval(low, high)


def performance_profile(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score above each threshold; tasks have equal weights. [..., K]"""
    shares = [(np.asarray(task)[..., None] > np.asarray(thresholds)).mean(-2) for task in strata]
    return np.mean(shares, axis=0)


def probability_of_improvement(ours: Strata, theirs: Strata) -> np.ndarray:
    """Chance that a run of ours beats one of theirs on the same task; a tie counts half."""
    chances = []
    for x, y in zip(ours, theirs, strict=True):
        a, b = np.asarray(x)[..., :, None], np.asarray(y)[..., None, :]
        chances.append((a > b).mean((-2, -1)) + 0.5 * (a == b).mean((-2, -1)))
    return np.mean(chances, axis=0)


def improvement_interval(ours: Strata, theirs: Strata) -> Interval:
    """95 % interval of `probability_of_improvement`, honest near 0 and 1.

    All values theta that are not rejected, (observed - theta)^2 <= z^2 V(theta), with the variance
    of Newcombe (2006, method 5) in each task. A bootstrap would say [1, 1] where every run wins.
    """
    observed = float(probability_of_improvement(ours, theirs))
    sizes = np.array([(len(x), len(y)) for x, y in zip(ours, theirs, strict=True)], float)
    more, pairs = sizes.mean(-1) - 1, sizes.prod(-1)
    z = float(ndtri((1 + LEVEL) / 2))

    def excess(theta: float) -> float:
        part = (1 - theta) / (2 - theta) + theta / (1 + theta)
        variance = (theta * (1 - theta) * (1 + more * part) / pairs).sum() / len(pairs) ** 2
        return (observed - theta) ** 2 - z**2 * variance

    tiny = 1e-9  # excess is 0 at an observed 0 or 1, which is not the other end
    low = brentq(excess, 0, observed - tiny) if observed > tiny else 0.0
    high = brentq(excess, observed + tiny, 1) if observed < 1 - tiny else 1.0
    return Interval(low, high)
