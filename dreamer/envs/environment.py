"""What agents act in: a simulator with action repeat, time limit and a count of env_steps.

A simulator knows its physics and its picture, nothing else. `Environment` wraps it and is the one
place for action repeat, the time limit and the count of env_steps, so that these mean the same
for every task:

    reset(seed)   o_0                      reward 0, env_steps 0
    step(a)       a held for R env_steps   reward summed; fewer env_steps if the episode ends inside

An episode is a function of the seed given to `reset` and of the actions: a run is resumed exactly
by replaying them, without saving a simulator.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dreamer.config import Config
from dreamer.envs.checked import as_reward, in_short, seed_global_generators
from dreamer.envs.simulators import ActionSpace, Simulator
from dreamer.envs.tasks import make_simulator
from dreamer.errors import UserError


class Step(NamedTuple):
    """What one call of `reset` or `step` gives."""

    image: NDArray[np.uint8]  # [64, 64, 3] height, width, colour
    reward: float  # summed over the repeat
    terminal: bool  # the task ended: discount 0
    truncated: bool  # a time limit cut the episode: the discount stays
    env_steps: int  # simulator steps of this call: R or fewer, 0 for a reset


def make_environment(config: Config, evaluation: bool = False) -> Environment:
    """The environment of `config.task`, with its action repeat and time limit.

    `evaluation`: as scores are taken, where that differs (Atari: full games instead of lives).
    Raises ConfigError for a task that does not exist, and UserError where no renderer works or
    something is not installed.
    """
    if ":" in config.task:  # its maker may draw a world: the same one in every process of a run
        seed_global_generators(config.seed)
    simulator = make_simulator(
        config.task,
        config.camera,
        config.shadow_size,
        evaluation,
        config.environment_arguments,
        config.observation,
    )
    limit = config.time_limit_env_steps
    return Environment(simulator, config.action_repeat, limit, config.task)


class Environment:
    """A simulator seen in decisions: action repeat, time limit, count of env_steps."""

    def __init__(
        self,
        simulator: Simulator,
        action_repeat: int,
        time_limit_env_steps: int,
        task: str = "of no name",
    ):
        self.simulator, self.task = simulator, task
        self.action_repeat = action_repeat
        self.time_limit_env_steps = time_limit_env_steps
        self._env_steps_left = 0  # of the running episode; 0: there is none

    @property
    def action_space(self) -> ActionSpace:
        return self.simulator.action_space

    def reset(self, seed: int) -> Step:
        """Starts the episode that belongs to `seed` (any whole number from 0)."""
        self.simulator.reset(seed)
        self._env_steps_left = self.time_limit_env_steps
        return Step(self.simulator.image(), 0.0, terminal=False, truncated=False, env_steps=0)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Holds `action` [A] for R env_steps, or until the episode ends.

        Raises RuntimeError outside an episode, ValueError for an action out of its space, and
        UserError for a reward that is not one finite number.
        """
        if self._env_steps_left == 0:
            raise RuntimeError("the episode is over: reset the environment before the next step")
        action = self._checked(action)
        reward, env_steps = 0.0, 0
        terminal = truncated = False
        while env_steps < self.action_repeat and not terminal and not truncated:
            outcome = self.simulator.advance(action)
            env_steps += 1
            self._env_steps_left -= 1
            reward += self._reward(outcome.reward)
            terminal = outcome.terminal
            cut = outcome.truncated or self._env_steps_left == 0
            truncated = cut and not terminal  # a task that ended in its last step has ended
        if terminal or truncated:
            self._env_steps_left = 0
        return Step(self.simulator.image(), reward, terminal, truncated, env_steps)

    def close(self) -> None:
        self._env_steps_left = 0
        self.simulator.close()

    def _reward(self, given: Any) -> float:
        reward = as_reward(given)
        if reward is None:
            env_step = self.time_limit_env_steps - self._env_steps_left
            raise UserError(
                f"task: {self.task}: reward {in_short(repr(given))} at env_step {env_step} of an "
                "episode; one finite number is expected"
            )
        return reward

    def _checked(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        action = np.asarray(action, np.float32)
        space = self.action_space
        if action.shape != (space.size,):
            raise ValueError(f"an action has shape ({space.size},), not {action.shape}")
        if space.discrete:
            valid = np.count_nonzero(action) == 1 and action.max() == 1
        else:
            valid = bool(np.all(np.abs(action) <= 1))  # false for NaN
        if not valid:
            kind = "one-hot" if space.discrete else "in [-1, 1]"
            raise ValueError(f"an action is {kind}, not {action.tolist()}")
        return action
