"""Measure the returns of uniform random actions: what a score is worth where nothing was learned.

    python -m suites.random_scores --out results/measured/random.csv

An action is drawn uniformly from [-1, 1] and held for the action repeat, in episodes of 1000
env_steps. Episodes start as those of `python -m dreamer.evaluate` with the same seed.
Pictures are not drawn, which takes most of the time otherwise. The same command gives the same
numbers.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamer import run_folder
from dreamer.errors import UserError, nearest
from suites import command
from suites.language.figures import scales

COLUMNS = ("task", "score_mean", "score_sd", "episodes", "source")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 for bad input."""
    return command.main(parse, measure, arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.Parser("python -m suites.random_scores", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("tasks", nargs="*", metavar="TASK", help="default: the 20 control tasks")
    add("--episodes", type=int, default=20, help="per task; default: 20")
    add("--seed", type=int, default=0, help="default: 0")
    add("--action-repeat", type=int, default=2, help="env_steps per action; default: 2")
    add("--out", type=Path, required=True, help="a CSV file; replaced when all is measured")
    options = parser.parse_args(arguments)
    known = list(scales()["control"])
    for task in options.tasks:
        if task not in known:
            raise UserError(f"{task}: no control task; {nearest(task, known)}")
    options.tasks = options.tasks or known
    if options.episodes < 2:
        raise UserError(f"--episodes {options.episodes}: at least 2")
    if options.action_repeat < 1 or options.seed < 0:
        raise UserError("--action-repeat is at least 1, and --seed at least 0")
    if not options.out.parent.is_dir():
        raise UserError(f"--out {options.out}: no such folder")
    return options


def measure(options: argparse.Namespace) -> int:
    import numpy as np

    found = io.StringIO()
    writer = csv.writer(found, lineterminator="\n")
    writer.writerow(COLUMNS)
    how = f"seed {options.seed}, action repeat {options.action_repeat}"
    for task in options.tasks:
        returns = random_returns(task, options.episodes, options.seed, options.action_repeat)
        row = [task, f"{np.mean(returns):.2f}", f"{np.std(returns, ddof=1):.2f}", len(returns)]
        writer.writerow([*row, f"python -m suites.random_scores, {how}"])
        print(*row[:3], flush=True)
    run_folder.write_text(options.out, found.getvalue())
    return 0


def random_returns(
    task: str, episodes: int, seed: int, action_repeat: int, time_limit_env_steps: int = 1000
) -> list[float]:
    """The return of each episode of a control task."""
    import numpy as np

    from dreamer.config import IMAGE_SHAPE
    from dreamer.envs.environment import Environment
    from dreamer.envs.tasks import make_simulator
    from dreamer.episodes import random_action
    from dreamer.seeding import numpy_generator, stream_seed

    simulator, black = make_simulator(task), np.zeros(IMAGE_SHAPE, np.uint8)
    simulator.image = lambda: black  # type: ignore[method-assign]
    env = Environment(simulator, action_repeat, time_limit_env_steps)
    returns = []
    for index in range(episodes):
        generator = numpy_generator(seed, "score", index)
        step, total = env.reset(stream_seed(seed, "score", index)), 0.0
        while not (step.terminal or step.truncated):
            space = env.action_space
            step = env.step(random_action(generator, space.size, space.discrete))
            total += step.reward
        returns.append(total)
    env.close()
    return returns


if __name__ == "__main__":
    sys.exit(main())
