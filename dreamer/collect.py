"""Collecting: rounds of training episodes, played in this process or in worker processes.

Episodes depend only on the weights and on their `Round`. So both ways play the same ones, and a
round that was lost with its processes is played again from the same weights.

A worker process (`python -m dreamer.collect`) has one environment. It acts on the CPU, where a step
costs less than waiting for a busy GPU, unless its behaviour plans. It ends within a step when the
other end of its connection closes, for whatever reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.envs.environment import make_environment
from dreamer.episodes import play_episode
from dreamer.errors import KilledError, UserError, describe
from dreamer.machine import prepare_machine
from dreamer.replay import Episode
from dreamer.schedule import Round
from dreamer.variants import behaviour_card

POLL_S = 0.1  # between two looks at whether to stop, while waiting for episodes
END_S = 10.0  # for a process to end by itself, before it is killed

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
        return [_play(self.env, self.agent, round.first, round.explore, round.random, before_step)]

    def state_dict(self) -> None:
        """Nothing is under way between two stages."""

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        pass

    def close(self) -> None:
        self.env.close()


class WorkerProcesses:
    """Plays in `environments` processes, which start with the first round."""

    def __init__(self, config: Config, agent: Agent):
        self.config, self.agent = config, agent
        self.round: Round | None = None
        self.weights: list[Tensor] = []  # that play it
        self.players: list[tuple[subprocess.Popen, Connection]] = []

    def prepare(self, round: Round) -> None:
        self.round, self.weights = round, self.agent.policy_weights()

    def begin(self, episodes: int) -> None:
        assert self.round is not None
        self.round = round = self.round._replace(episodes=episodes)
        while len(self.players) < episodes:
            self.players.append(_new_player(self.config))
        arrays = [weight.numpy() for weight in self.weights]
        for number, (_, connection) in enumerate(self.players[: round.episodes]):
            with contextlib.suppress(ConnectionError):  # `take` raises what went wrong
                connection.send((round.first + number, round.explore, round.random, arrays))

    def take(self, before_step: Callable[[int], None]) -> Played:
        """Raises what stopped a process: UserError, RuntimeError with its traceback, or
        KilledError, after which the run can be continued."""
        assert self.round is not None
        playing = {
            connection: process for process, connection in self.players[: self.round.episodes]
        }
        done: dict[Connection, tuple[Episode, int]] = {}
        while len(done) < len(playing):
            before_step(0)
            for connection in wait(set(playing) - set(done), POLL_S):
                assert isinstance(connection, Connection)
                try:
                    done[connection] = _result(connection.recv())
                except (EOFError, OSError):  # also in the middle of a message
                    before_step(0)  # perhaps both were asked to stop
                    code = playing[connection].wait()
                    if code == -signal.SIGKILL:
                        text = "a process that collects was killed by SIGKILL (out of memory?)"
                        raise KilledError(text) from None
                    raise RuntimeError(f"a process that collects ended with {code}") from None
        self.round = None
        return [done[connection] for connection in playing]

    def state_dict(self) -> dict[str, Any] | None:
        if self.round is None:
            return None
        return {"round": self.round._asdict(), "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.round = Round(**state["round"])
            self.weights = [weight.cpu() for weight in state["weights"]]

    def close(self) -> None:
        for _, connection in self.players:
            connection.close()
        for process, _ in self.players:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _play(
    env: Any,
    agent: Agent,
    number: int,
    explore: float,
    random: bool,
    before_step: Callable[[int], None],
) -> tuple[Episode, int]:
    """Training episode `number`."""
    seed = agent.config.seed
    return play_episode(
        env, agent, seed, "train", number, explore=explore, random=random, before_step=before_step
    )


def _new_player(config: Config) -> tuple[subprocess.Popen, Connection]:
    """A process in a session of its own: Ctrl-C at a terminal does not reach it."""
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "dreamer.collect", str(theirs.fileno())]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    ours.send(config)
    return process, ours


def _result(answer: tuple[str, Any]) -> tuple[Episode, int]:
    kind, content = answer
    if kind == "user error":
        raise UserError(content)
    if kind == "error":
        raise RuntimeError(f"a process that collects failed:\n{content}")
    return content


# --- The process ----------------------------------------------------------------------------------

PR_SET_PDEATHSIG = 1  # prctl: the signal that a process gets when its parent dies


def main() -> None:
    """Plays the episodes that are asked for, until the connection closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the training process decides when to end
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # for one that hangs in a driver
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    connection = Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            _serve(connection)
        except UserError as error:
            connection.send(("user error", str(error)))
        except (EOFError, ConnectionError):
            raise
        except SystemExit as error:
            connection.send(("user error", f"the environment ended its process: {describe(error)}"))
        except Exception:
            connection.send(("error", traceback.format_exc()))


def _serve(connection: Connection) -> None:
    config = connection.recv()
    env = make_environment(config)
    try:
        agent = _light_agent(config, env.action_space)

        def listen(env_steps: int) -> None:
            if connection.poll():  # nothing is sent during an episode: the other end has closed
                raise EOFError

        while True:
            number, explore, random, arrays = connection.recv()
            agent.load_policy_weights([torch.from_numpy(array) for array in arrays])
            connection.send(("episode", _play(env, agent, number, explore, random, listen)))
    finally:
        env.close()


def _light_agent(config: Config, space: Any) -> Agent:
    """On one core, unless acting is planning."""
    if behaviour_card(config.behaviour).plans:
        return Agent(config, space, prepare_machine(config))
    prepare_machine(dataclasses.replace(config, device="cpu"))
    torch.set_num_threads(1)
    return Agent(config, space)


if __name__ == "__main__":
    main()
