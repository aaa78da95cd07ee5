"""Run folders: where things are, who may write, and what state a run is in.

Reads and writes small files only; imports nothing heavy, so that a status is quick.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import math
import operator
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer.config import UserError

LOCK_WAIT_S = 0.5
DEAD_AFTER_S = 120.0  # a heartbeat comes every few seconds; older means that nobody is there

# The states that a run can be in, in the order in which they are shown.
DONE, RUNNING, QUEUED, STOPPED, FAILED, DEAD, MISSING, UNKNOWN = STATES = (
    "done",
    "running",
    "queued",
    "stopped",  # in order, by a signal or Ctrl-C; the next run continues it
    "failed",
    "dead",  # it was running, and its heartbeat has stopped; the next run continues it
    "missing",
    "unknown",  # its status cannot be read
)

COUNTERS = ("kind", "env_steps", "agent_steps", "updates")  # in every record of metrics.jsonl
# Files of a run that its records keep a copy of, as run_config.json and so on.
ARTIFACTS = ("config.json", "curves.csv", "prediction.npz", "prediction.mp4")

Status = dict[str, Any]
Values = dict[str, list[tuple[int, float]]]  # {metric: [(env_steps, value)]}


class BusyError(UserError):
    """Another process is executing this run."""


def run_folder(results: Path, run_id: str) -> Path:
    return results / "runs" / run_id


def now() -> str:
    """UTC, ISO 8601, seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def age_s(time: Any) -> float:
    """Seconds since a time as `now` writes it; infinite for anything else."""
    try:
        then = datetime.datetime.fromisoformat(time)
        return (datetime.datetime.now(datetime.UTC) - then).total_seconds()
    except (TypeError, ValueError):
        return float("inf")


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """All or nothing: readers see the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        partial.write_text(json.dumps(value, indent=indent, default=str) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written: permission denied")


def read_status(folder: Path) -> Status | None:
    """The run's status.json; None if there is none, {} if it cannot be read."""
    try:
        with open(folder / "status.json", "rb") as file:
            status = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def state_of(folder: Path, status: Status | None) -> str:
    """The state that a status means now. Never `failed` unless the record says so."""
    if status is None:
        return MISSING
    recorded = status.get("status")
    if recorded == "RUNNING":
        here = status.get("host") == socket.gethostname()
        if here and not is_locked(folder):
            return DEAD  # the lock goes with its process, at once
        return DEAD if age_s(status.get("heartbeat")) > DEAD_AFTER_S else RUNNING
    known = {"COMPLETED": DONE, "FAILED": FAILED, "INTERRUPTED": STOPPED, "QUEUED": QUEUED}
    return known.get(recorded, UNKNOWN) if isinstance(recorded, str) else UNKNOWN


def is_locked(folder: Path) -> bool:
    """Whether a process holds the run's lock."""
    try:
        with open(folder / "lock", "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run's lock; raises BusyError if someone else does. It ends with the process."""
    deadline = time.monotonic() + LOCK_WAIT_S  # `is_locked` holds it for a moment
    with open(folder / "lock", "ab+") as file:
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


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """(records of a metrics.jsonl, what is wrong with its lines)"""
    import orjson

    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return [], []
    try:  # all at once, which is quick; numbers that are not finite are no JSON
        found = orjson.loads(b"[" + b",".join(lines) + b"]")
        if len(found) == len(lines) and _are_records(found):
            return found, []
    except orjson.JSONDecodeError:
        pass
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not _are_records([record]):
            problems.append(f"line {number} of metrics.jsonl cannot be read")
            continue
        found.append(record)
        problems += [
            f"{name} is {value} at {record['env_steps']} env_steps"
            for name, value in record.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
    return found, problems


_counters = operator.itemgetter(*COUNTERS)


def _are_records(found: Sequence[Any]) -> bool:
    """Whether all are objects with counters of the right types; quick for thousands."""
    try:
        kinds, *counts = zip(*map(_counters, found), strict=True)
    except (KeyError, TypeError, ValueError):
        return not found
    return set(map(type, kinds)) == {str} and all(set(map(type, c)) == {int} for c in counts)


def values_of(metrics: Iterable[dict[str, Any]]) -> Values:
    """The numbers that records hold, without their counters; each metric's in order."""
    values: Values = {}
    for record in metrics:
        for name, value in record.items():
            if type(value) in (int, float) and name not in COUNTERS:
                values.setdefault(name, []).append((record["env_steps"], value))
    return values


def values_by_attempt(
    values: Values, attempts: Sequence[int], stories: Mapping[int, Mapping[str, Any]]
) -> dict[int, Values]:
    """Which attempt made which values.

    An attempt says in `from_values` how many of each metric there were when it began; what comes
    behind is its own, as far as no later attempt went back. One that says nothing made nothing, but
    for the first, which began with nothing.
    """
    made: dict[int, Values] = {number: {} for number in attempts}
    left = dict(values)
    for number in sorted(attempts, reverse=True):
        start = stories.get(number, {}).get("from_values")
        if start is None and number != attempts[0]:
            continue
        for name, points in left.items():
            count = (start or {}).get(name, 0)
            if points[count:]:
                made[number][name] = points[count:]
            left[name] = points[:count]
    return made


def origin(story: Mapping[str, Any]) -> dict[str, Any]:
    """What Sacred's record keeps of an attempt's story; configuration and packages have places of
    their own there."""
    return {key: value for key, value in story.items() if key not in ("config", "packages")}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def attempts(folder: Path) -> list[int]:
    """The numbers of a run's attempts, ascending."""
    names = [p.name for p in (folder / "attempts").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def new_attempt(results: Path, run_id: str) -> int:
    """The next attempt's number, its folder made. No number is used twice, even for a run that was
    started afresh: Sacred's records, under `<run_id>-<attempt>`, outlive it."""
    folder = run_folder(results, run_id)
    number = max(attempts(folder), default=0) + 1
    while (results / "sacred" / f"{run_id}-{number}").exists():
        number += 1
    make_folder(folder / "attempts" / str(number))
    return number
