"""Who plays a run's episodes: the training process itself, or processes beside it.

A worker process (`python -m dreamer.workers`) has one environment. It acts on the CPU, where a step
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
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.envs.environment import Environment, make_environment
from dreamer.envs.simulators import ActionSpace
from dreamer.errors import KilledError, UserError, describe
from dreamer.machine import prepare_machine
from dreamer.variants import behaviour_card

POLL_S = 0.1  # between two looks at whether to stop, while waiting for a result
END_S = 10.0  # for a process to end by itself, before it is killed

Role = Literal["collect", "evaluate"]
Task = Callable[..., Any]  # of environment, agent and the keyword before_step: see `play_episode`


class InProcess:
    """Does tasks in this process with the agent's own weights, when their results are asked for."""

    def __init__(self, env: Environment, agent: Agent):
        self.env, self.agent = env, agent
        self.tasks: Sequence[Task] = ()

    def begin(self, tasks: Sequence[Task], weights: Sequence[Tensor]) -> None:
        """`weights` are those of the agent, also when the results are asked for."""
        self.tasks = tasks

    def results(self, before_step: Callable[[int], None], block: bool) -> list[Any]:
        return [task(self.env, self.agent, before_step=before_step) for task in self.tasks]

    def close(self) -> None:
        self.env.close()


class Workers:
    """Processes with one role, which start when they are first needed."""

    def __init__(self, config: Config, role: Role):
        self.config, self.role = config, role
        self.processes: list[tuple[subprocess.Popen, Connection]] = []
        self._working: dict[Connection, subprocess.Popen] = {}
        self._results: dict[Connection, Any] = {}

    def begin(self, tasks: Sequence[Task], weights: Sequence[Tensor]) -> None:
        """Begins each task in a process of its own, with these weights (`Agent.policy_weights`).
        Earlier ones have ended."""
        while len(self.processes) < len(tasks):
            self.processes.append(_start(self.config, self.role))
        chosen = self.processes[: len(tasks)]
        self._working = {connection: process for process, connection in chosen}
        self._results = {}
        arrays = [weight.numpy() for weight in weights]
        for task, connection in zip(tasks, self._working, strict=True):
            with contextlib.suppress(ConnectionError):  # `results` raises what went wrong
                connection.send((task, arrays))

    def results(self, before_step: Callable[[int], None], block: bool) -> list[Any] | None:
        """The tasks' results in their order, once all have ended; None before, unless `block`.

        `before_step` is called again and again until then, with the env_steps of the episode so far
        where they are known, else 0; it may raise to leave. Raises what stopped a process:
        UserError, RuntimeError with its traceback, or KilledError, after which the run can be
        continued.
        """
        while True:
            before_step(0)
            self._receive(before_step, POLL_S if block else 0)
            if len(self._results) == len(self._working):
                return [self._results[connection] for connection in self._working]
            if not block:
                return None

    def _receive(self, before_step: Callable[[int], None], wait_s: float) -> None:
        for connection in wait(set(self._working) - set(self._results), wait_s):
            assert isinstance(connection, Connection)
            try:
                answer = connection.recv()
            except (EOFError, OSError):  # also in the middle of a message
                before_step(0)  # perhaps both were asked to stop
                code = self._working[connection].wait()
                if code == -signal.SIGKILL:
                    text = f"a process that {self.role}s was killed by SIGKILL (out of memory?)"
                    raise KilledError(text) from None
                raise RuntimeError(f"a process that {self.role}s ended with {code}") from None
            self._results[connection] = self._result(*answer)

    def _result(self, kind: str, content: Any) -> Any:
        if kind == "user error":
            raise UserError(content)
        if kind == "error":
            raise RuntimeError(f"a process that {self.role}s failed: {content}")
        return content

    def close(self) -> None:
        for _, connection in self.processes:
            connection.close()
        for process, _ in self.processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(config: Config, role: Role) -> tuple[subprocess.Popen, Connection]:
    """A process in a session of its own: Ctrl-C at a terminal does not reach it."""
    ours, theirs = Pipe()
    command = [sys.executable, "-m", "dreamer.workers", role, str(theirs.fileno())]
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


# --- The process ----------------------------------------------------------------------------------

PR_SET_PDEATHSIG = 1  # prctl: the signal that a process gets when its parent dies


def main() -> None:
    """Does the tasks that are asked for, until the connection closes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the training process decides when to end
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # for one that hangs in a driver
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    evaluation = sys.argv[1] == "evaluate"
    connection = Connection(int(sys.argv[2]))
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            _serve(connection, evaluation)
        except UserError as error:
            connection.send(("user error", str(error)))
        except (EOFError, ConnectionError):
            raise
        except SystemExit as error:
            connection.send(("user error", f"the environment ended its process: {describe(error)}"))
        except Exception as error:
            connection.send(("error", f"{describe(error)}\n{traceback.format_exc()}"))


def _serve(connection: Connection, evaluation: bool) -> None:
    config = connection.recv()
    env = make_environment(config, evaluation)
    try:
        agent = _light_agent(config, env.action_space)

        def listen(env_steps: int) -> None:
            if connection.poll():  # nothing is sent during an episode: the other end has closed
                raise EOFError

        while True:
            task, arrays = connection.recv()
            weights = [torch.from_numpy(array) for array in arrays]
            agent.load_policy_weights(weights, predicting=evaluation)
            connection.send(("result", task(env, agent, before_step=listen)))
    finally:
        env.close()


def _light_agent(config: Config, space: ActionSpace) -> Agent:
    """On one core, unless acting is planning."""
    if behaviour_card(config.behaviour).plans:
        return Agent(config, space, prepare_machine(config))
    prepare_machine(dataclasses.replace(config, device="cpu"))
    torch.set_num_threads(1)
    return Agent(config, space)


if __name__ == "__main__":
    main()
