"""Algorithm 1 as pure functions: what a run does next, given its counters.

Nothing here computes or reads anything else, so a run that was killed repeats the same decisions.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import NamedTuple

from dreamer.config import MAX_INT, Config


class Stage(StrEnum):
    """What a run does, one at a time. After each of them its state is whole."""

    COLLECT = "collect"
    UPDATE = "update"
    EVALUATE = "evaluate"
    SAVE = "save"


class Counters(NamedTuple):
    """Where a run is. Counted here and nowhere else."""

    env_steps: int = 0  # simulated for training, seed episodes included
    agent_steps: int = 0
    updates: int = 0
    episodes: int = 0  # of training
    evaluations: int = 0
    seed_env_steps: int = 0  # env_steps of the seed episodes
    evaluated_env_steps: int = -1  # env_steps at the last evaluation; -1: none yet
    saved_env_steps: int = 0  # env_steps at the last checkpoint in order


class Round(NamedTuple):
    """Training episodes that are played at once, by the same weights."""

    first: int  # number of the first one in the run
    episodes: int
    explore: float  # as in `Agent.policy`
    random: bool  # uniform actions instead
    updates: int  # that the weights have seen


def endless(config: Config) -> Config:
    """The same run without a budget: what is due by it does not depend on where the budget ends."""
    enough = min(config.seed_min_env_steps, config.env_steps)
    return dataclasses.replace(config, env_steps=MAX_INT, seed_min_env_steps=enough)


def seeding(config: Config, counters: Counters) -> bool:
    """Whether random actions are due: until there are both `seed_episodes` and
    `seed_min_env_steps`, so that episodes which end early do not leave too little to learn from."""
    enough = min(config.seed_min_env_steps, config.env_steps)
    return counters.episodes < config.seed_episodes or counters.env_steps < enough


def updates_due(config: Config, counters: Counters) -> int:
    """Updates that belong to the env_steps so far: none while seeding, then `first_updates`, then
    `updates_per_1000_env_steps` for what came after the seed episodes."""
    if seeding(config, counters):
        return 0
    since = counters.env_steps - counters.seed_env_steps
    return config.first_updates + since * config.updates_per_1000_env_steps // 1000


def next_stage(config: Config, counters: Counters) -> Stage | None:
    """What comes next: COLLECT an episode, UPDATE once, EVALUATE, SAVE; None when all is done.

    The first evaluation follows the first updates, then one each `eval_every_env_steps`, and one at
    the end.
    """
    c = counters
    if seeding(config, c):
        return Stage.COLLECT
    if c.updates < updates_due(config, c):
        return Stage.UPDATE
    over = c.env_steps >= config.env_steps
    every = config.eval_every_env_steps
    passed = c.evaluated_env_steps < 0 or c.env_steps // every > c.evaluated_env_steps // every
    if passed or (over and c.evaluated_env_steps < c.env_steps):
        return Stage.EVALUATE
    unsaved = c.env_steps - c.saved_env_steps
    if unsaved >= config.checkpoint_every_env_steps or (over and unsaved > 0):
        return Stage.SAVE
    return None if over else Stage.COLLECT


def next_round(config: Config, counters: Counters, discrete: bool) -> Round:
    """The training episodes that are due, `environments` at once: no more than the seed episodes
    that are left, and after them no more than the budget has room for."""
    c = counters
    random, limit = seeding(config, c), config.time_limit_env_steps
    left = -(-(config.env_steps - c.env_steps) // limit)
    if random:
        enough = min(config.seed_min_env_steps, config.env_steps)
        left = max(config.seed_episodes - c.episodes, -(-(enough - c.env_steps) // limit))
    explore = exploration(config, c.env_steps, discrete)
    return Round(c.episodes, min(config.environments, left), explore, random, c.updates)


def exploration(config: Config, env_steps: int, discrete: bool) -> float:
    """Amount of exploration: a std for continuous actions; for discrete ones the probability of a
    random action, falling linearly with env_steps."""
    if not discrete:
        return config.exploration_noise
    done = min(1.0, env_steps / config.epsilon_env_steps)
    return config.epsilon_start + done * (config.epsilon_end - config.epsilon_start)
