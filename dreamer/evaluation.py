"""Evaluations of a run: its episodes, played in this process or in worker processes.

Episodes depend only on the weights and on when the evaluation was due. So both ways give the same
returns, and an evaluation that was lost with its processes is played again from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.envs.environment import Environment
from dreamer.episodes import play_episode
from dreamer.prediction import predicted
from dreamer.schedule import Counters
from dreamer.seeding import torch_generator
from dreamer.workers import Workers


class Scores(NamedTuple):
    """Of one evaluation."""

    returns: list[float]  # of its episodes
    prediction: tuple[np.ndarray, np.ndarray] | None  # of the first: see `predicted`


class Evaluator(Protocol):
    due: Counters | None  # where the run was when the evaluation under way began

    def begin(self, due: Counters, check_stop: Callable[[], None]) -> None:
        """Begins an evaluation of the agent's weights as they are now. `check_stop` is called again
        and again if that takes long; it may raise to leave, and then nothing has begun."""

    def take(self, check_stop: Callable[[], None], block: bool) -> Scores | None:
        """The result of the evaluation under way, once it is over; None before, unless `block`."""

    def state_dict(self) -> dict[str, Any] | None:
        """What `load_state_dict` needs to begin the evaluation under way again."""

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Begins the evaluation again that was under way, if there was one."""

    def close(self) -> None: ...


def make_evaluator(config: Config, agent: Agent, env: Environment) -> Evaluator:
    """`env` is the evaluator's from then on."""
    if config.collect == "parallel":
        env.close()
        return ParallelEvaluator(config, agent)
    return InProcessEvaluator(agent, env)


class InProcessEvaluator:
    """Plays in this process, while training waits."""

    def __init__(self, agent: Agent, env: Environment):
        self.agent, self.env = agent, env
        self.due: Counters | None = None
        self.scores: Scores | None = None

    def begin(self, due: Counters, check_stop: Callable[[], None]) -> None:
        numbers = range(self.agent.config.eval_episodes)
        self.scores = _play(self.env, self.agent, lambda _: check_stop(), due, numbers)
        self.due = due

    def take(self, check_stop: Callable[[], None], block: bool) -> Scores | None:
        self.due = None
        return self.scores

    def state_dict(self) -> None:
        """Nothing is under way between two stages."""

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        pass

    def close(self) -> None:
        self.env.close()


class ParallelEvaluator:
    """Plays in up to `environments` processes, which start with the first evaluation, while
    training goes on."""

    def __init__(self, config: Config, agent: Agent):
        self.config, self.agent = config, agent
        self.due: Counters | None = None
        self.weights: list[Tensor] = []  # that are evaluated
        self.workers = Workers(config, "evaluate")

    def begin(self, due: Counters, check_stop: Callable[[], None]) -> None:
        self._begin(due, self.agent.policy_weights(predicting=True))

    def _begin(self, due: Counters, weights: list[Tensor]) -> None:
        self.due, self.weights = due, weights
        self.workers.begin([partial(_play, due=due, numbers=n) for n in self._shares()], weights)

    def _shares(self) -> list[range]:
        """Numbers of the episodes that each process plays."""
        episodes = self.config.eval_episodes
        processes = min(episodes, self.config.environments)
        return [range(first, episodes, processes) for first in range(processes)]

    def take(self, check_stop: Callable[[], None], block: bool) -> Scores | None:
        """Raises what stopped a process: see `Workers.results`."""
        parts = self.workers.results(check_stop, block)
        if parts is None:
            return None
        self.due = None
        returns = [0.0] * self.config.eval_episodes
        for numbers, part in zip(self._shares(), parts, strict=True):
            returns[numbers.start :: numbers.step] = part.returns
        return Scores(returns, parts[0].prediction)

    def state_dict(self) -> dict[str, Any] | None:
        if self.due is None:
            return None
        return {"due": self.due._asdict(), "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self._begin(Counters(**state["due"]), [weight.cpu() for weight in state["weights"]])

    def close(self) -> None:
        self.workers.close()


def _play(
    env: Environment,
    agent: Agent,
    before_step: Callable[[int], None],
    due: Counters,
    numbers: range,
) -> Scores:
    """Some of an evaluation's episodes: the mode action without noise; and an open-loop prediction
    of the first one, number 0."""
    config, returns, prediction = agent.config, [], None
    for number in numbers:
        index = due.evaluations * config.eval_episodes + number
        episode, _ = play_episode(
            env, agent, config.seed, "evaluate", index, before_step=before_step
        )
        returns.append(float(episode.reward.sum()))
        if number == 0:
            generator = torch_generator(config.seed, "predict", due.evaluations, agent.device)
            prediction = predicted(agent, episode, generator)
    return Scores(returns, prediction)
