"""The lock of a run, the state that it is in, and a folder for its next attempt.

Reads small files only and imports nothing heavy, so that a status is quick.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamer import run_folder
from dreamer.errors import UserError
from dreamer.run_folder import State, Status, StatusRecord

LOCK_WAIT_S = 0.5
DEAD_AFTER_S = 120.0  # without a heartbeat, which comes every few seconds
STATES = {
    Status.COMPLETED: State.DONE,
    Status.FAILED: State.FAILED,
    Status.INTERRUPTED: State.STOPPED,
    Status.QUEUED: State.QUEUED,
}


class BusyError(UserError):
    """Another process is executing this run."""


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written: permission denied")


def state_of(
    folder: Path, status: StatusRecord | None, config: Mapping[str, Any] | None = None
) -> State:
    """The state of a run whose status.json is `status`. FAILED only if the status says so.

    With the settings that a suite asks for, the state is seen from its budget: a run that ended
    at a smaller one is STOPPED, one that is past the budget is DONE unless it is RUNNING.
    """
    state = _state_of(folder, status)
    ended = (State.DONE, State.STOPPED, State.FAILED, State.DEAD)
    if status is None or config is None or state not in ended:
        return state
    # An episode that begins before the budget ends before this.
    past = config["env_steps"] + config["time_limit_env_steps"]
    if run_folder.is_complete(status, config["env_steps"]) or (status.get("env_steps") or 0) > past:
        return State.DONE
    return State.STOPPED if state == State.DONE else state


def _state_of(folder: Path, status: StatusRecord | None) -> State:
    if status is None:
        return State.MISSING
    recorded = status.get("status")
    if recorded == Status.RUNNING:
        here = status.get("host") == socket.gethostname()
        if here and not is_locked(folder):
            return State.DEAD  # a lock is released at once when its process ends
        dead = run_folder.age_s(status.get("heartbeat")) > DEAD_AFTER_S
        return State.DEAD if dead else State.RUNNING
    return next((state for s, state in STATES.items() if s == recorded), State.UNKNOWN)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the run's lock."""
    try:
        with open(folder / run_folder.LOCK, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run's lock while the block runs; raises BusyError if another process holds it. The
    lock is released when the process ends, however it ends."""
    deadline = time.monotonic() + LOCK_WAIT_S  # `is_locked` holds the lock for a moment
    with open(folder / run_folder.LOCK, "ab+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    text = f"{folder.name}: another process is executing this run"
                    raise BusyError(text) from None
                time.sleep(0.02)
        yield


def new_attempt(results: Path, run_id: str) -> int:
    """Makes the folder of the next attempt and returns its number. No number is used twice, even
    for a run that was started afresh, because Sacred's records (RUN_ID-ATTEMPT) outlive it."""
    folder = run_folder.run_path(results, run_id)
    number = max(run_folder.attempts(folder), default=0) + 1
    while run_folder.sacred_run_path(results, run_id, number).exists():
        number += 1
    make_folder(run_folder.attempt_path(folder, number))
    return number
