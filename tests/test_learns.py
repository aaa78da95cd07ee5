"""It learns: on the toy environment a seeded tiny agent comes near the optimal policy."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from dreamer.config import Config, make_config
from dreamer.envs import ToyDot, make_environment
from dreamer.episodes import random_action
from dreamer.seeding import numpy_generator, stream_seed
from dreamer.train import train

SETTINGS = {"task": "toy_dot", "env_steps": 12_000, "eval_every_env_steps": 2000,
            "eval_episodes": 10}  # fmt: skip


def config(**overrides: float) -> Config:
    return make_config("tiny", {**SETTINGS, **overrides})


def train_alone(config: Config, run_dir: Path) -> None:
    train(config, run_dir)


def last_evaluations(run_dir: Path, count: int) -> list[float]:
    """Returns of every episode of the last `count` evaluations."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line["evaluate_returns"] for line in lines if line["kind"] == "evaluate"]
    return [value for returns in evaluations[-count:] for value in returns]


def returns_of(policy: str, indices: range) -> list[float]:
    """What the random or the optimal policy gets in the same evaluation episodes."""
    env = make_environment(config())
    assert isinstance(env.simulator, ToyDot)
    returns = []
    for index in indices:
        generator = numpy_generator(0, "evaluate", index)
        step, total = env.reset(stream_seed(0, "evaluate", index)), 0.0
        while not step.truncated:
            if policy == "random":
                action = random_action(generator, 2, discrete=False)
            else:
                action = env.simulator.optimal_action(env.action_repeat)
            step = env.step(action)
            total += step.reward
        returns.append(total)
    return returns


@pytest.mark.slow
def test_it_learns_and_without_an_actor_update_it_does_not(tmp_path):
    """80 % of the way from random to optimal. The two runs train side by side."""
    context = multiprocessing.get_context("forkserver")
    configs = {"learns": config(), "fixed actor": config(actor_learning_rate=0.0)}
    processes = [
        context.Process(target=train_alone, args=(settings, tmp_path / name))
        for name, settings in configs.items()
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    # Evaluations at 250 env_steps (after the seeds), 2000, 4000, ..., 12000: seven of them.
    indices = range(5 * 10, 7 * 10)
    random, optimal = (np.mean(returns_of(name, indices)) for name in ("random", "optimal"))
    covered = {
        name: (np.mean(last_evaluations(tmp_path / name, 2)) - random) / (optimal - random)
        for name in configs
    }
    assert covered["learns"] >= 0.8, covered
    assert covered["fixed actor"] < 0.4, covered
