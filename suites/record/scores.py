"""A run's final score: one definition for the log, status, tables, figures, verdict and report.

It is the mean of a metric's values in a window before the run's end: the last 1e5 env_steps, as in
the score file released with Dreamer, or the last tenth of a run of less than 1e6. The window is at
least as wide as the distance of evaluations. What was measured up to the end of the seed episodes
is in no final score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suites.record.metrics import read_metrics, values_of

WINDOW_ENV_STEPS = 100_000
WINDOW_WORDS = "the last 1e5 env_steps, or the last tenth of fewer than 1e6"


class FinalScore(NamedTuple):
    score: float  # NaN where one of the values is NaN
    values: int  # how many it is the mean of
    env_steps: int  # of the last of them


def final_score(
    env_steps: Sequence[int], values: Sequence[float], config: Mapping[str, Any],
    at: float = float("inf"), last: int | None = None,
) -> FinalScore | None:  # fmt: skip
    """The score of a run at its last value at or before `at` env_steps; None if it has none yet.

    `env_steps` is sorted. With `last` it is the mean of so many values, whatever their distance.
    """
    steps = np.asarray(env_steps)
    seeded = config["seed_episodes"] * config["time_limit_env_steps"]
    first = int(np.searchsorted(steps, seeded, side="right"))
    stop = int(np.searchsorted(steps, at, side="right"))
    if stop <= first:
        return None
    end = int(steps[stop - 1])
    if last is None:
        width = max(min(WINDOW_ENV_STEPS, end // 10), config["eval_every_env_steps"])
        start = int(np.searchsorted(steps, end - width, side="right"))
    else:
        start = stop - last
    chosen = np.asarray(values, float)[max(first, start) : stop]
    return FinalScore(float(chosen.mean()), len(chosen), end)


def recorded_score(path: Path, config: Mapping[str, Any]) -> FinalScore | None:
    """The final score of the evaluations in a metrics.jsonl."""
    points = values_of(read_metrics(path)[0]).get("evaluate_return", [])
    return final_score([steps for steps, _ in points], [value for _, value in points], config)
