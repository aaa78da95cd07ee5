"""Playing one episode: for training, evaluations and scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dreamer.agent import Agent
from dreamer.envs.environment import Environment
from dreamer.replay import Episode
from dreamer.seeding import numpy_generator, stream_seed, torch_generator


def play_episode(
    env: Environment,
    agent: Agent,
    seed: int,
    purpose: str,
    index: int,
    *,
    explore: float | None = None,
    random: bool = False,
    before_step: Callable[[int], None] = lambda env_steps: None,
) -> tuple[Episode, int]:
    """Episode number `index` of a purpose (seeding.py), and its env_steps.

    A function of the agent's weights, the seed, the purpose and the index. `explore` as in
    `Agent.policy`; `random` plays uniform actions instead. `before_step` is called before each
    decision with the episode's env_steps so far, and may raise to drop the episode.
    """
    generator = torch_generator(seed, purpose, index, agent.device)
    random_actions = numpy_generator(seed, purpose, index)
    memory = agent.initial_memory(1)
    step = env.reset(stream_seed(seed, purpose, index))
    action = np.zeros(agent.space.size, np.float32)
    rows = [(step.image, action, step.reward, step.terminal)]
    env_steps = 0
    while not (step.terminal or step.truncated):
        before_step(env_steps)
        if random:
            action = random_action(random_actions, agent.space.size, agent.space.discrete)
        else:
            actions, memory = agent.policy(step.image[None], memory, generator, explore)
            action = actions[0]
        step = env.step(action)
        env_steps += step.env_steps
        rows.append((step.image, action, step.reward, step.terminal))
    image, taken, reward, terminal = zip(*rows, strict=True)
    episode = Episode(
        np.stack(image),
        np.stack(taken).astype(np.float32),
        np.array(reward, np.float32),
        np.array(terminal, np.float32),
    )
    return episode, env_steps


def random_action(generator: np.random.Generator, size: int, discrete: bool) -> np.ndarray:
    """A uniform action float32 [A] of the seed episodes."""
    if discrete:
        return np.eye(size, dtype=np.float32)[generator.integers(size)]
    return generator.uniform(-1, 1, size).astype(np.float32)
