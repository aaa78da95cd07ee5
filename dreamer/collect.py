"""Collecting: rounds of training episodes, played in this process or in worker processes.

Episodes depend only on the weights and on their `Round`. So both ways play the same ones, and a
round that was lost with its processes is played again from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.envs.environment import Environment, make_environment
from dreamer.episodes import play_episode
from dreamer.replay import Episode
from dreamer.schedule import Round
from dreamer.workers import Workers

Played = list[tuple[Episode, int]]  # episodes in their order, each with its env_steps


class Collector(Protocol):
    round: Round | None  # that was prepared and not taken yet

    def prepare(self, round: Round) -> None:
        """Keeps a round, and for it the agent's weights as they are now."""

    def begin(self, episodes: int) -> None:
        """Begins the first `episodes` of the prepared round."""

    def take(self, before_step: Callable[[int], None]) -> Played:
        """The round, once it is over. `before_step` is called again and again until then, with the
        env_steps so far where they are known, else 0; it may raise to leave."""

    def state_dict(self) -> dict[str, Any] | None:
        """What `load_state_dict` needs to prepare the round again."""

    def load_state_dict(self, state: dict[str, Any] | None) -> None: ...

    def close(self) -> None: ...


def make_collector(config: Config, agent: Agent) -> Collector:
    alone = config.collect == "interleaved" and config.environments == 1
    return InProcess(config, agent) if alone else WorkerProcesses(config, agent)


class InProcess:
    """Plays in this process, when the round is taken."""

    def __init__(self, config: Config, agent: Agent):
        self.config, self.agent = config, agent
        self.env = make_environment(config)
        self.round: Round | None = None

    def prepare(self, round: Round) -> None:
        self.round = round

    def begin(self, episodes: int) -> None:
        pass

    def take(self, before_step: Callable[[int], None]) -> Played:
        round, self.round = self.round, None
        assert round is not None
        assert round.episodes == 1
        return [_play(self.env, self.agent, before_step, round, round.first)]

    def state_dict(self) -> None:
        """Nothing is under way between two stages."""

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        pass

    def close(self) -> None:
        self.env.close()


class WorkerProcesses:
    """Plays in `environments` processes, which start with the first round."""

    def __init__(self, config: Config, agent: Agent):
        self.agent = agent
        self.round: Round | None = None
        self.weights: list[Tensor] = []  # that play it
        self.workers = Workers(config, "collect")

    def prepare(self, round: Round) -> None:
        self.round, self.weights = round, self.agent.policy_weights()

    def begin(self, episodes: int) -> None:
        assert self.round is not None
        self.round = round = self.round._replace(episodes=episodes)
        numbers = range(round.first, round.first + episodes)
        tasks = [partial(_play, round=round, number=number) for number in numbers]
        self.workers.begin(tasks, self.weights)

    def take(self, before_step: Callable[[int], None]) -> Played:
        """Raises what stopped a process: see `Workers.results`."""
        played = self.workers.results(lambda: before_step(0), block=True)
        assert played is not None
        self.round = None
        return played

    def state_dict(self) -> dict[str, Any] | None:
        if self.round is None:
            return None
        return {"round": self.round._asdict(), "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.round = Round(**state["round"])
            self.weights = [weight.cpu() for weight in state["weights"]]

    def close(self) -> None:
        self.workers.close()


def _play(
    env: Environment,
    agent: Agent,
    before_step: Callable[[int], None],
    round: Round,
    number: int,
) -> tuple[Episode, int]:
    """Training episode `number`."""
    return play_episode(
        env,
        agent,
        agent.config.seed,
        "train",
        number,
        explore=round.explore,
        random=round.random,
        before_step=before_step,
    )
