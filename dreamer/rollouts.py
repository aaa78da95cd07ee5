"""A run's episodes: rounds to train on, and evaluations.

They are played in this process or in worker processes (workers.py), with the same result, since it
depends only on the weights and on the `Round`, or on when the evaluation was due. What is under way
is saved with its weights, and played again if it was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.envs.environment import Environment, make_environment
from dreamer.episodes import play_episode
from dreamer.prediction import predicted
from dreamer.replay import Episode
from dreamer.schedule import Counters, Round
from dreamer.seeding import torch_generator
from dreamer.workers import InProcess, Workers

Played = list[tuple[Episode, int]]  # episodes in their order, each with its env_steps


class Scores(NamedTuple):
    """Of one evaluation."""

    returns: list[float]  # of its episodes
    prediction: tuple[np.ndarray, np.ndarray] | None  # of the first: see `predicted`


def make_collector(config: Config, agent: Agent) -> Collector:
    if config.collect == "interleaved" and config.environments == 1:
        return Collector(agent, InProcess(make_environment(config), agent))
    return Collector(agent, Workers(config, "collect"))


def make_evaluator(config: Config, agent: Agent, env: Environment) -> Evaluator:
    """`env` is the evaluator's from then on."""
    if config.collect == "interleaved":
        return Evaluator(agent, InProcess(env, agent))
    env.close()
    processes = min(config.eval_episodes, config.environments)
    return Evaluator(agent, Workers(config, "evaluate"), processes)


class Collector:
    """Plays rounds of training episodes."""

    def __init__(self, agent: Agent, players: InProcess | Workers):
        self.agent, self.players = agent, players
        self.round: Round | None = None  # that was prepared and not taken yet
        self.weights: list[Tensor] = []  # that play it

    def prepare(self, round: Round) -> None:
        """Keeps a round, and for it the agent's weights as they are now."""
        self.round, self.weights = round, self.agent.policy_weights()

    def begin(self, episodes: int) -> None:
        """Begins the first `episodes` of the prepared round."""
        assert self.round is not None
        self.round = round = self.round._replace(episodes=episodes)
        numbers = range(round.first, round.first + episodes)
        play = partial(
            play_episode,
            seed=self.agent.config.seed,
            purpose="train",
            explore=round.explore,
            random=round.random,
        )
        self.players.begin([partial(play, index=number) for number in numbers], self.weights)

    def take(self, before_step: Callable[[int], None]) -> Played:
        """The round, once it is over. `before_step` as of `Workers.results`, which also says what
        is raised."""
        played = self.players.results(before_step, block=True)
        assert played is not None
        self.round = None
        return played

    def state_dict(self) -> dict[str, Any] | None:
        """What `load_state_dict` needs to prepare the round again; None if there is none."""
        if self.round is None:
            return None
        return {"round": self.round._asdict(), "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.round = Round(**state["round"])
            self.weights = [weight.cpu() for weight in state["weights"]]

    def close(self) -> None:
        self.players.close()


class Evaluator:
    """Plays evaluations: episodes of the mode action without noise, shared by `processes`; and an
    open-loop prediction of the first."""

    def __init__(self, agent: Agent, players: InProcess | Workers, processes: int = 1):
        self.agent, self.players = agent, players
        self.due: Counters | None = None  # where the run was when the one under way began
        self.weights: list[Tensor] = []  # that are evaluated
        episodes = agent.config.eval_episodes
        self.shares = [range(first, episodes, processes) for first in range(processes)]

    def begin(self, due: Counters, weights: list[Tensor] | None = None) -> None:
        """Begins an evaluation of `weights`, by default the agent's as they are now."""
        self.due = due
        self.weights = weights or self.agent.policy_weights(predicting=True)
        tasks = [partial(_play_evaluation, due=due, numbers=numbers) for numbers in self.shares]
        self.players.begin(tasks, self.weights)

    def take(self, check_stop: Callable[[], None], block: bool) -> Scores | None:
        """The result of the evaluation under way, once it is over; None before, unless `block`.
        Raises like `Workers.results`."""
        parts = self.players.results(lambda env_steps: check_stop(), block)
        if parts is None:
            return None
        self.due = None
        returns = [0.0] * self.agent.config.eval_episodes
        for numbers, part in zip(self.shares, parts, strict=True):
            returns[numbers.start :: numbers.step] = part.returns
        return Scores(returns, parts[0].prediction)

    def state_dict(self) -> dict[str, Any] | None:
        """What `load_state_dict` needs to begin the evaluation under way again, if there is one."""
        if self.due is None:
            return None
        return {"due": self.due._asdict(), "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.begin(Counters(**state["due"]), [weight.cpu() for weight in state["weights"]])

    def close(self) -> None:
        self.players.close()


def _play_evaluation(
    env: Environment,
    agent: Agent,
    *,
    due: Counters,
    numbers: range,
    before_step: Callable[[int], None],
) -> Scores:
    """Some of an evaluation's episodes; the prediction is of number 0."""
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
