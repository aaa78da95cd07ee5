"""A trained agent, to act with from Python: `load_player(run_dir)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamer.agent import Agent, Memory
from dreamer.config import Config
from dreamer.envs.environment import Environment, make_environment
from dreamer.evaluate import load_newest, restored
from dreamer.seeding import torch_generator


class Player:
    """An agent and its memory of the running episode. Acts as in evaluations: no noise."""

    def __init__(self, config: Config, agent: Agent):
        self.config, self.agent = config, agent
        self._episodes = 0
        self.reset()

    def make_environment(self) -> Environment:
        """The environment of the agent's task, as in evaluations."""
        return make_environment(self.config, evaluation=True)

    def reset(self) -> None:
        """Forget the episode so far: call it at the beginning of each."""
        self._memory: Memory = self.agent.initial_memory(1)
        self._generator = torch_generator(
            self.config.seed, "score", self._episodes, self.agent.device
        )
        self._episodes += 1

    def act(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The action [A] for the next image of the episode, uint8 [64, 64, 3]."""
        actions, self._memory = self.agent.policy(image[None], self._memory, self._generator, None)
        return actions[0]


def load_player(run_dir: Path | str) -> Player:
    """The agent of a run's newest checkpoint, on the CPU.

    Raises UserError if there is no checkpoint. The run may still be going on.
    """
    loaded = load_newest(Path(run_dir))
    env = make_environment(loaded.config, evaluation=True)
    agent = restored(loaded, env.action_space)
    env.close()
    return Player(loaded.config, agent)
