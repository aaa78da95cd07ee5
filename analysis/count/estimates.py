"""Means of few seeds and their differences: intervals, p-values, and how many seeds would decide.

Everything is Student's t with Satterthwaite's degrees of freedom: of one mean, of a difference
(Welch), and of a mean over tasks, whose standard errors add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
POWER = 0.8  # of `seeds_needed`
MAX_SEEDS = 100  # more are not searched


class Interval(NamedTuple):
    low: float
    high: float


NO_INTERVAL = Interval(float("nan"), float("nan"))


class Sample(NamedTuple):
    """Scores of several seeds."""

    mean: float
    sd: float
    n: int


class Estimate(NamedTuple):
    """A combination of independent means, with Satterthwaite's degrees of freedom.

    Without a standard error (NaN, where one of the means is of a single value) there is no
    interval, and p-values are NaN.
    """

    value: float
    se: float
    freedom: float

    def interval(self, level: float = LEVEL) -> Interval:
        if not np.isfinite(self.se):
            return NO_INTERVAL
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.se
        return Interval(self.value - half, self.value + half)

    def p_above(self, bound: float) -> float:
        """One-sided p-value for: the true value is above `bound`."""
        if self.se == 0:
            return 0.0 if self.value > bound else 1.0
        return float(stdtr(self.freedom, (bound - self.value) / self.se))

    def p_different(self) -> float:
        """Two-sided p-value for: the true value is not 0."""
        smaller = np.minimum(self.p_above(0), self._negative().p_above(0))  # NaN stays NaN
        return float(np.minimum(1, 2 * smaller))

    def p_equivalent(self, margin: float) -> float:
        """Two one-sided tests (Schuirmann, 1987) for: the true value lies within +- `margin`.

        At most 0.05 where, and only where, the 90 % interval lies within the margin.
        """
        return float(np.maximum(self.p_above(-margin), self._negative().p_above(-margin)))

    def _negative(self) -> Estimate:
        return self._replace(value=-self.value)


def sample(values: Sequence[float] | np.ndarray) -> Sample:
    """Of the finite values; SD with n - 1."""
    given = np.asarray(values, float)
    finite = given[np.isfinite(given)]
    n = len(finite)
    mean = float(finite.mean()) if n else float("nan")
    return Sample(mean, float(finite.std(ddof=1)) if n > 1 else float("nan"), n)


def combine(value: float, terms: Sequence[tuple[float, int]]) -> Estimate:
    """`terms`: (variance, n) of each independent mean that `value` is a sum of."""
    variance = sum(term for term, _ in terms)
    if any(n < 2 for _, n in terms):
        return Estimate(value, float("nan"), float("nan"))
    if variance == 0:
        return Estimate(value, 0.0, 1.0)
    freedom = variance**2 / sum(term**2 / (n - 1) for term, n in terms)
    return Estimate(value, variance**0.5, freedom)


def difference(ours: Sample, theirs: Sample) -> Estimate:
    """ours - theirs, as Welch does it."""
    return mean_difference([(ours, theirs)])


def mean_difference(pairs: Sequence[tuple[Sample, Sample]]) -> Estimate:
    """Mean over tasks of ours - theirs. Tasks are fixed, seeds are drawn."""
    value = float(np.mean([ours.mean - theirs.mean for ours, theirs in pairs]))
    samples = [one for pair in pairs for one in pair]
    return combine(value, [(_variance(one) / len(pairs) ** 2, one.n) for one in samples])


def mean_estimate(strata: Sequence[np.ndarray]) -> Estimate:
    """Mean over tasks. Tasks are fixed, seeds are drawn."""
    tasks = [sample(task) for task in strata]
    value = float(np.mean([one.mean for one in tasks]))
    return combine(value, [(_variance(one) / len(tasks) ** 2, one.n) for one in tasks])


def _variance(one: Sample) -> float:
    """Of its mean; NaN for fewer than two values."""
    return one.sd**2 / one.n if one.n > 1 else float("nan")


def best_of(methods: Mapping[str, Sequence[Sample]]) -> str:
    """The method with the highest mean over tasks, if it differs from every other one at the 5 %
    level; else "". `methods`: samples of the same tasks.

    As all of the tests must succeed, their number needs no correction.
    """
    if len(methods) < 2:
        return ""
    means = {name: np.mean([one.mean for one in tasks]) for name, tasks in methods.items()}
    best = max(means, key=lambda name: means[name])
    others = [tasks for name, tasks in methods.items() if name != best]
    p = [
        mean_difference(list(zip(methods[best], one, strict=True))).p_different() for one in others
    ]
    return best if all(one <= 0.05 for one in p) else ""  # NaN is not below


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979): at most 5 % of families have a false claim.

    NaN stays NaN and is not counted.
    """
    p = np.asarray(p_values, float)
    corrected = np.full(len(p), np.nan)
    largest = 0.0
    count = int(np.isfinite(p).sum())
    for rank, place in enumerate(np.argsort(p, kind="stable")[:count]):  # NaN comes last
        largest = max(largest, min(1.0, (count - rank) * p[place]))
        corrected[place] = largest
    return corrected.tolist()


def seeds_needed(
    pairs: Sequence[tuple[Sample, Sample]],
    *,
    margin: float | None = None,
    tests: int = 1,
    both: bool = False,
) -> int | None:
    """How many seeds of ours on each task would decide with 80 % power, if the samples show the
    truth.

    Decided is a mean difference from 0, or where the difference is below `margin`, equivalence.
    `both`: theirs grow as ours; else their number stays. `tests`: how many are corrected for (the
    first of Holm's steps). None where more than 100 seeds are needed, or a side has fewer than two.
    """
    if any(one.n < 2 for pair in pairs for one in pair):
        return None
    value = abs(float(np.mean([ours.mean - theirs.mean for ours, theirs in pairs])))
    n = np.arange(2, MAX_SEEDS + 1)
    terms = [
        (one.sd**2 / seeds / len(pairs) ** 2, seeds - 1)
        for ours, theirs in pairs
        for one, seeds in ((ours, n), (theirs, n if both else np.full_like(n, theirs.n)))
    ]
    variance = np.sum([term for term, _ in terms], axis=0)
    if not variance.any():
        return 2 if margin is not None or value else None
    freedom = variance**2 / np.sum([term**2 / less for term, less in terms], axis=0)
    enough = n[_power(value, variance**0.5, freedom, margin, 0.05 / tests) >= POWER]
    return int(enough[0]) if len(enough) else None


def _power(
    value: float, se: np.ndarray, freedom: np.ndarray, margin: float | None, alpha: float
) -> np.ndarray:
    """Chance of a decision where the true difference is `value` >= 0, by shifted t."""
    if margin is None or value >= margin:
        return stdtr(freedom, value / se - stdtrit(freedom, 1 - alpha / 2))
    critical = stdtrit(freedom, 1 - alpha)
    near, far = (stdtr(freedom, (margin + s * value) / se - critical) for s in (-1, 1))
    return near + far - 1
