"""The lock of a run, the state that it is in, and a folder for its next attempt.

Reads small files only and imports nothing heavy, so that a status is quick.

Two processes never write one run, also where locks are not seen on other machines: a run whose
status.json was written lately is executed by another machine, and a process that finds a later
attempt than its own stops without writing (`taken_over`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from dreamer import run_folder
from dreamer.errors import UserError
from dreamer.run_folder import State, Status, StatusRecord

LOCK_WAIT_S = 0.5
DEAD_AFTER_S = 120.0  # without a heartbeat, which comes every few seconds
STATES: dict[str, State] = {
    Status.COMPLETED: State.DONE,
    Status.FAILED: State.FAILED,
    Status.INTERRUPTED: State.STOPPED,
    Status.QUEUED: State.QUEUED,
}


class BusyError(UserError):
    """This process may not execute the run, and has written nothing: another process executes it,
    or its files belong to someone else."""


class NoLocksError(UserError):
    """The file system has no file locks."""


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written: permission denied")


def check_writable(folder: Path) -> None:
    """Raises BusyError if a file that the next attempt continues cannot be written."""
    for path in (folder, *folder.iterdir(), *(folder / run_folder.REPLAY).glob("*")):
        if not os.access(path, os.W_OK):
            todo = f"its owner can allow it: chmod -R g+w {folder}"
            raise BusyError(f"{path}: cannot be written: permission denied; {todo}")


def largest_budgets(results: Path, budgets: Mapping[str, int]) -> dict[str, int]:
    """{run id: the largest budget that `budgets`, or any suite of the results folder, asks of the
    run}. Raises UserError if a suite's list cannot be read."""
    largest = dict(budgets)
    for path in sorted(results.glob(run_folder.suite_runs_path(Path(), "*").as_posix())):
        try:
            wanted = {
                row["run_id"]: row["env_steps"] for row in json.loads(run_folder.read_bytes(path))
            }
            for run_id in largest.keys() & wanted.keys():
                largest[run_id] = max(largest[run_id], wanted[run_id])
        except (OSError, ValueError, KeyError, TypeError):
            text = f"{path}: cannot be read, so what that suite still needs is not known"
            raise UserError(f"{text}; start it once with suites.run, or remove the file") from None
    return largest


# --- States ---------------------------------------------------------------------------------------


def look(
    folder: Path, config: Mapping[str, Any] | None = None, *, holding: bool = False
) -> tuple[State, StatusRecord | None]:
    """The state of a run and its status.json. If the state cannot be seen from here it is UNKNOWN,
    with the reason as `unsure` in the status. `holding`: this process has the run's lock.

    With the settings that a suite asks for, the state is seen from its budget: a run that ended
    at a smaller one is STOPPED, one that is past the budget is DONE unless it is RUNNING.
    """
    status = run_folder.read_status(folder)
    state, reason = _judge(folder, status, holding)
    if config is not None and status is not None:
        state = _seen_from_budget(state, status, config)
    return state, {**(status or {}), "unsure": reason} if reason else status


def _seen_from_budget(state: State, status: StatusRecord, config: Mapping[str, Any]) -> State:
    if state not in (State.DONE, State.STOPPED, State.FAILED, State.DEAD):
        return state
    # An episode that begins before the budget ends before this.
    past = config["env_steps"] + config["time_limit_env_steps"]
    if run_folder.is_complete(status, config["env_steps"]) or (status.get("env_steps") or 0) > past:
        return State.DONE
    return State.STOPPED if state == State.DONE else state


def _judge(folder: Path, status: StatusRecord | None, holding: bool) -> tuple[State, str | None]:
    """(state, why it cannot be seen)"""
    if status is None:
        return State.MISSING, None
    recorded = status.get("status")
    if recorded != Status.RUNNING:
        reason = None if status else _unreadable(folder / run_folder.STATUS)
        return STATES.get(str(recorded), State.UNKNOWN), reason
    if status.get("host") == socket.gethostname():
        locked_here = False if holding else is_locked(folder)
        if locked_here is not None:  # a lock is released at once when its process ends
            return State.RUNNING if locked_here else State.DEAD, None
    age_s = _heartbeat_age_s(folder)
    if age_s is not None:
        return State.RUNNING if abs(age_s) < DEAD_AFTER_S else State.DEAD, None
    if abs(run_folder.age_s(status.get("heartbeat"))) < DEAD_AFTER_S:
        return State.RUNNING, None
    text = f"whether {status.get('host')} still executes it can be seen only with write permission"
    return State.UNKNOWN, f"{text} in {folder}"


def _unreadable(path: Path) -> str | None:
    """Why a file cannot be read; None if only its content is damaged."""
    try:
        run_folder.read_bytes(path)
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return None


def _heartbeat_age_s(folder: Path) -> float | None:
    """Seconds since status.json was written, by the clock that also stamps a file written now: that
    of the disk, not those of two machines. None if nothing can be written in the folder."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:  # has no name, so that nobody sees it
            probe.write(b".")
            probe.flush()
            os.fsync(probe.fileno())
            now_s = os.fstat(probe.fileno()).st_mtime
        return now_s - (folder / run_folder.STATUS).stat().st_mtime
    except OSError:
        return None


def taken_over(folder: Path, attempt: int) -> bool:
    """Whether a later attempt has the run, or `--fresh` has moved it away: then this attempt must
    write no more. Numbers of attempts only grow, and each is given once."""
    try:
        later = max(run_folder.attempts(folder), default=0) > attempt
        moved = not run_folder.attempt_path(folder, attempt).is_dir()
    except OSError:  # cannot be seen now, as when a server is away; what is written will fail too
        return False
    named = (run_folder.read_status(folder) or {}).get("attempt")
    return later or moved or (isinstance(named, int) and named > attempt)


# --- Locks ----------------------------------------------------------------------------------------


def is_locked(folder: Path) -> bool | None:
    """Whether a process holds the run's lock; None if that cannot be seen. Needs no permission to
    write."""
    try:
        with run_folder.reading(folder / run_folder.LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False


def flock(file: IO[bytes], path: Path, wait: bool = False) -> bool:
    """Locks the file at `path`, which is open for writing, until it is closed; False if another
    process has the lock. Raises NoLocksError."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise NoLocksError(
            f"{path.parent}: this file system has no file locks ({error.strerror}): "
            "mount it with `flock` (Lustre) or lockd (NFS), or choose another --results"
        ) from None
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run's lock while the block runs; raises BusyError if another process holds it, and
    NoLocksError. The lock is released when the process ends, however it ends."""
    deadline = time.monotonic() + LOCK_WAIT_S  # `is_locked` holds the lock for a moment
    while True:
        make_folder(folder)
        path = folder / run_folder.LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was moved away a moment ago
            continue
        except OSError as error:
            raise BusyError(f"{path}: cannot be written: {error.strerror}") from None
        with os.fdopen(descriptor, "rb+") as file:
            if flock(file, path):
                if _is_at(file, path):
                    yield
                    return
                continue  # what was locked is the file of a run that `--fresh` has moved away
        if time.monotonic() > deadline:
            raise BusyError(f"{folder.name}: another process is executing this run")
        time.sleep(0.02)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


# --- Attempts -------------------------------------------------------------------------------------


def new_attempt(results: Path, run_id: str) -> int:
    """Makes the folder of the next attempt and returns its number. No number is used twice: not by
    two machines at the same time, and not by a run that was started afresh, because Sacred's
    records (RUN_ID-ATTEMPT) outlive it."""
    folder = run_folder.run_path(results, run_id)
    make_folder(folder / run_folder.ATTEMPTS)
    number = max(run_folder.attempts(folder), default=0) + 1
    while True:
        path = run_folder.attempt_path(folder, number)
        if not run_folder.sacred_run_path(results, run_id, number).exists():
            try:
                path.mkdir()
                return number
            except FileExistsError:  # another process was first
                pass
            except OSError as error:
                raise UserError(f"{path}: cannot be written: {error.strerror}") from None
        number += 1
