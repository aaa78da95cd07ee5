"""Simulate how often the intervals hold the true value, and how often the verdict is wrong.

    python -m analysis.coverage --out results/measured/coverage.csv

Scores are drawn for tasks whose levels lie evenly between 0.1 and 0.9. `normal`: a standard
deviation of 0.1 over seeds. `fails`: a quarter of the seeds come to nothing. Against them another
method is drawn that is 0.1 better. A 95 % interval should hold the true value in 0.95 of the
experiments. The last rows are of the verdict on one task, released with 5 seeds: how often
`reproduced` is said of an agent that is so many points worse (margin 100, SD 60).

Figures and tables warn of intervals that hold the true value in less than 0.9.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.count import statistics
from analysis.count.estimates import difference, mean_difference, sample
from dreamer.errors import UserError
from dreamer.run_folder import write_text
from suites import command

TASKS, SEEDS = (1, 2, 4, 8, 20), (2, 3, 5, 10)
SD, BETTER, FAILURES = 0.1, 0.1, 0.25
MANY = 20_000  # seeds that show the true value
MARGIN, SD_POINTS, RELEASED_SEEDS = 100.0, 60.0, 5
COLUMNS = ("what", "tasks", "seeds", "data", "aimed_at", "simulated", "experiments")


def draw(tasks: int, seeds: int, data: str, shift: float, generator: np.random.Generator) -> Any:
    """Scores [seeds] for each of the tasks."""
    levels = np.linspace(0.1, 0.9, tasks) if tasks > 1 else np.array([0.5])
    scores = generator.normal(levels[:, None] + shift, SD, (tasks, seeds))
    if data == "fails":
        scores *= generator.uniform(size=scores.shape) >= FAILURES
    return list(scores)


def intervals(ours: statistics.Strata, theirs: statistics.Strata) -> dict[str, tuple[Any, Any]]:
    """Each statistic with its 95 % interval."""
    found: dict[str, tuple[Any, Any]] = {
        name: (statistic(ours), statistics.interval_over_tasks(name, ours, resamples=500))
        for name, statistic in statistics.STATISTICS.items()
    }
    pairs = [(sample(x), sample(y)) for x, y in zip(ours, theirs, strict=True)]
    gap = mean_difference(pairs)
    found["difference"] = gap.value, gap.interval()
    found["improvement"] = (
        statistics.probability_of_improvement(ours, theirs),
        statistics.improvement_interval(ours, theirs),
    )
    return found


def true_values(tasks: int, data: str) -> dict[str, float]:
    """Of very many seeds. Slow parts, the intervals, are left out."""
    generator = np.random.default_rng(0)
    ours = draw(tasks, MANY, data, BETTER, generator)
    theirs = draw(tasks, MANY, data, 0, generator)
    found = {name: float(statistic(ours)) for name, statistic in statistics.STATISTICS.items()}
    found["difference"] = float(np.mean(ours) - np.mean(theirs))
    wins = [(x > y).mean() + 0.5 * (x == y).mean() for x, y in zip(ours, theirs, strict=True)]
    found["improvement"] = float(np.mean(wins))
    return found


def simulate(experiments: int) -> Iterator[dict[str, Any]]:
    for data in ("normal", "fails"):
        for tasks in TASKS:
            truth = true_values(tasks, data)
            for seeds in SEEDS:
                held = dict.fromkeys(truth, 0)
                for number in range(experiments):
                    generator = np.random.default_rng([tasks, seeds, number])
                    ours = draw(tasks, seeds, data, BETTER, generator)
                    theirs = draw(tasks, seeds, data, 0, generator)
                    for name, (_, (low, high)) in intervals(ours, theirs).items():
                        held[name] += low - 1e-9 <= truth[name] <= high + 1e-9
                for name, count in held.items():
                    yield dict(what=name, tasks=tasks, seeds=seeds, data=data, aimed_at=0.95,
                               simulated=count / experiments, experiments=experiments)  # fmt: skip
    for worse, aim in ((0, 1.0), (100, 0.05), (150, 0.0)):
        for seeds in SEEDS:
            generator = np.random.default_rng([worse, seeds])
            said = 0
            for _ in range(experiments):
                ours = sample(generator.normal(-worse, SD_POINTS, seeds))
                theirs = sample(generator.normal(0, SD_POINTS, RELEASED_SEEDS))
                said += difference(ours, theirs).p_equivalent(MARGIN) <= 0.05
            yield dict(
                what=f"reproduced, {worse} worse", tasks=1, seeds=seeds, data="normal",
                aimed_at=aim, simulated=said / experiments, experiments=experiments,
            )  # fmt: skip


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.Parser("python -m analysis.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a CSV file")
    parser.add_argument("--experiments", type=int, default=2000, help="of each kind; default: 2000")
    options = parser.parse_args(arguments)
    if options.experiments < 1:
        raise UserError(f"--experiments {options.experiments}: at least 1")
    if not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: no such folder")
    return options


def write(options: argparse.Namespace) -> int:
    table = pd.DataFrame(simulate(options.experiments), columns=list(COLUMNS))
    write_text(options.out, table.to_csv(index=False))
    wide = table.pivot_table(index=["what", "data", "tasks"], columns="seeds", values="simulated")
    print(wide.round(2).to_string())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 for bad input."""
    return command.main(parse, write, arguments)


if __name__ == "__main__":
    sys.exit(main())
