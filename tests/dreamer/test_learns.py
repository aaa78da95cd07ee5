"""They learn: on toys, seeded tiny agents come near the optimal policy, and where a variant's own
part is taken away they do not."""

import json
import multiprocessing
import multiprocessing.pool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamer.config import Config, make_config
from dreamer.envs.environment import make_environment
from dreamer.episodes import random_action
from dreamer.seeding import numpy_generator, stream_seed
from dreamer.train import train

EPISODES = 20  # of the last evaluation, which is looked at

pytestmark = pytest.mark.slow


def learner(task: str, env_steps: int, **overrides: Any) -> Config:
    settings = dict(task=task, env_steps=env_steps, eval_every_env_steps=env_steps)
    return make_config("tiny", {**settings, "eval_episodes": EPISODES, **overrides})


def learn(run_dir: Path, configs: dict[str, Config]) -> dict[str, float]:
    """Trains two at a time, in processes of their own, and says how much of the way each covered in
    its last evaluation."""
    context = multiprocessing.get_context("forkserver")
    with multiprocessing.pool.ThreadPool(2) as threads:  # each waits for one process
        work = [(context, config, run_dir / name) for name, config in configs.items()]
        threads.starmap(_train_in_process, work, chunksize=1)
    return {name: covered(config, run_dir / name) for name, config in configs.items()}


def _train_in_process(context: Any, config: Config, run_dir: Path) -> None:
    process = context.Process(target=train, args=(config, run_dir))
    process.start()
    process.join()
    assert process.exitcode == 0, run_dir


def covered(config: Config, run_dir: Path) -> float:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line["evaluate_returns"] for line in lines if line["kind"] == "evaluate"]
    episodes = range((len(evaluations) - 1) * EPISODES, len(evaluations) * EPISODES)
    reached = np.mean(evaluations[-1])
    random, optimal = (
        np.mean(returns_of(name, config, episodes)) for name in ("random", "optimal")
    )
    return float((reached - random) / (optimal - random))


def returns_of(policy: str, config: Config, episodes: range) -> list[float]:
    """What the random or the optimal policy gets in the same evaluation episodes."""
    env = make_environment(config, evaluation=True)
    toy: Any = env.simulator
    returns = []
    for index in episodes:
        generator = numpy_generator(config.seed, "evaluate", index)
        step, total = env.reset(stream_seed(config.seed, "evaluate", index)), 0.0
        while not (step.terminal or step.truncated):
            if policy == "random":
                action = random_action(generator, *env.action_space)
            else:
                action = toy.optimal_action(env.action_repeat)
            step = env.step(action)
            total += step.reward
        returns.append(total)
    return returns


# A horizon far shorter than the way to the light, and noise enough to see it now and then.
FAR = dict(horizon=3, action_repeat=1, discount=0.97, exploration_noise=1.0, free_nats=0.3)

# States told apart by pictures alone hold no 3 nats a step: with those free, no prior is learned.
# And contrast needs pictures that differ: not an actor that soon stays in a corner.
HOME = dict(free_nats=0.3, probe_decoder=False, exploration_noise=1.0, actor_learning_rate=2.5e-4)

LEARNERS = {  # what takes longest goes first
    "dreamer": learner("toy_dot", 12_000),
    "discrete": learner("toy_discrete", 8000, free_nats=0.3),
    "planet": learner("toy_dot", 5000, behaviour="planet"),
    "home, contrastive": learner("toy_home", 6000, **HOME, representation="contrastive"),
    "far, value": learner("toy_far", 3000, **FAR),
    "far, no value": learner("toy_far", 3000, **FAR, behaviour="no_value"),
    "home, reconstruction": learner("toy_home", 4000, **HOME),
    "end, head": learner("toy_end", 3000, discount_head=True),
    "end, no head": learner("toy_end", 3000),
    "fixed actor": learner("toy_dot", 3000, actor_learning_rate=0.0),
}


@pytest.fixture(scope="module")
def way(tmp_path_factory) -> dict[str, float]:
    """How much of the way each has covered from the random policy's return to the optimal one."""
    ways = learn(tmp_path_factory.mktemp("learns"), LEARNERS)
    print({name: round(way, 2) for name, way in ways.items()})
    return ways


def test_dreamer_learns_from_pictures(way):
    assert way["dreamer"] >= 0.8, way


def test_states_from_reconstruction_and_from_contrast_show_where_home_is(way):
    """Blind, the best way found covers 0.59: to two walls, and back to the middle."""
    assert way["home, reconstruction"] >= 0.7, way
    assert way["home, contrastive"] >= 0.7, way


def test_without_updates_of_the_actor_it_does_not(way):
    assert way["fixed actor"] < 0.4, way


def test_a_value_sees_beyond_the_horizon(way):
    assert way["far, value"] >= 0.8, way
    assert way["far, no value"] < 0.6, way  # who starts near the light goes there


def test_planning_solves_what_needs_no_foresight(way):
    assert way["planet"] >= 0.5, way


def test_moves_are_learned(way):
    assert way["discrete"] >= 0.5, way


def test_who_does_not_know_of_ends_goes_over_the_edge(way):
    assert way["end, head"] >= 0.8, way
    assert way["end, no head"] < 0.5, way
