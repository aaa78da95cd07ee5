"""A run's folder: the names of its files, how they are written, and what its records say.

    results/runs/RUN_ID/
        config.json                  every setting of the run
        status.json                  its status, counters, heartbeat, host; rewritten while it runs
        metrics.jsonl                every number, one record a line: the truth about a run
        metrics.discarded.jsonl      lines after the last checkpoint, cut when a run resumed
        checkpoints/                 the last two checkpoints, each ends with its SHA-256
        replay/                      the episodes, packed: images, actions, rewards
        replay.discarded.json        when and why replay was removed, after the run was done
        curves.csv                   evaluation and training returns of a finished run
        prediction.npz, .mp4         the last open-loop prediction, as arrays and as a video
        lock                         held by the process that executes the run
        attempts/N/provenance.json   code, packages, machine and command of attempt N
        attempts/N/log.txt           stdout and stderr of attempt N
        attempts/N/error.txt         the traceback, if attempt N failed
        attempts/N/slurm.json        which SLURM job executed attempt N, and why it ended
    results/sacred/RUN_ID-N/         Sacred's record of attempt N, a copy
    results/discarded/RUN_ID-N/      the folder of a run that `suites.run --fresh` started anew
    results/suites/SUITE/runs.json   the runs of a suite; origin.json: the file that it is
    results/cache/                   values that figures read; can be made again

Only this module knows these names. It needs hardly more than the standard library, so that every
package, a SLURM job and a notebook can use it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Mapping
from enum import StrEnum
from io import BufferedReader
from pathlib import Path
from typing import Any

from dreamer.errors import UserError, one_line

RESULTS = Path("results")  # of every command: in the folder where it is typed
CONFIG = "config.json"
STATUS = "status.json"
METRICS = "metrics.jsonl"
DISCARDED_METRICS = "metrics.discarded.jsonl"
CHECKPOINTS = "checkpoints"
REPLAY = "replay"
REPLAY_DISCARDED = "replay.discarded.json"
CURVES = "curves.csv"
PREDICTION = "prediction.npz"
PREDICTION_VIDEO = "prediction.mp4"
LOCK = "lock"
ATTEMPTS = "attempts"
# In the folder of an attempt.
PROVENANCE = "provenance.json"
LOG = "log.txt"
ERROR = "error.txt"
SLURM = "slurm.json"
# In a copy of the code: the version that it is a copy of.
CODE = "code.json"
# Files that Sacred's record and MongoDB keep a copy of, as run_config.json and so on.
ARTIFACTS = (CONFIG, CURVES, PREDICTION, PREDICTION_VIDEO)

SHA256_DIGITS = 64

StatusRecord = dict[str, Any]  # what status.json holds


class Status(StrEnum):
    """What a run or an attempt says of itself, in status.json and in Sacred's records."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


class State(StrEnum):
    """What a run is found to be, in the order in which states are shown."""

    DONE = "done"
    RUNNING = "running"
    QUEUED = "queued"
    STOPPED = "stopped"  # by a signal; the next `suites.run` continues it
    FAILED = "failed"
    DEAD = "dead"  # its heartbeat stopped; the next `suites.run` continues it
    MISSING = "missing"
    UNKNOWN = "unknown"  # its status cannot be read, or its executor cannot be asked


# --- Places ---------------------------------------------------------------------------------------


def runs_path(results: Path) -> Path:
    """The folder of all runs."""
    return results / "runs"


def run_path(results: Path, run_id: str) -> Path:
    """The folder of a run."""
    return results / "runs" / run_id


def discarded_path(results: Path, run_id: str, attempt: int) -> Path:
    """Where `--fresh` moves the folder of a run whose last attempt had this number."""
    return results / "discarded" / f"{run_id}-{attempt}"


def cache_path(results: Path) -> Path:
    """The folder of values that figures read."""
    return results / "cache"


def suite_runs_path(results: Path, suite: str) -> Path:
    """The list of a suite's runs, as it was last expanded."""
    return results / "suites" / suite / "runs.json"


def suite_origin_path(results: Path, suite: str) -> Path:
    """Which file the suite of this name is."""
    return results / "suites" / suite / "origin.json"


def sacred_path(results: Path) -> Path:
    """The folder of Sacred's records."""
    return results / "sacred"


def sacred_run_path(results: Path, run_id: str, attempt: int) -> Path:
    """Sacred's record of an attempt."""
    return results / "sacred" / sacred_id(run_id, attempt)


def sacred_id(run_id: str, attempt: int) -> str:
    """The name of an attempt in Sacred's records and in MongoDB."""
    return f"{run_id}-{attempt}"


def attempt_path(folder: Path, attempt: Any) -> Path:
    """The folder of an attempt at the run in `folder`."""
    return folder / ATTEMPTS / str(attempt)


def attempts(folder: Path | str) -> list[int]:
    """The numbers of a run's attempts, ascending; the first is 1."""
    try:
        names = os.listdir(os.path.join(folder, ATTEMPTS))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def see(folder: Path, attempt: Any, name: str = "") -> str:
    """`; see PATH`: a file of an attempt, or its folder where there is no such file; "" if there
    was no attempt."""
    path = attempt_path(folder, attempt)
    return f"; see {path / name if (path / name).exists() else path}" if attempt else ""


def checkpoint_name(env_steps: int, updates: int, common: bool = False) -> str:
    """Names sort as the checkpoints were saved. `common`: the last one that a run with a larger
    budget has too."""
    return f"checkpoint-{env_steps:010d}-{updates:09d}{'.common' if common else ''}.pt"


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in the folder of checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def checkpoint_env_steps(path: Path) -> int:
    """The env_steps in a checkpoint's name; 0 if there are none."""
    count = path.name.split("-")[1]
    return int(count) if count.isdecimal() else 0


def checksum_path(path: Path) -> Path:
    """The file that holds the SHA-256 of a checkpoint of earlier code."""
    return path.with_name(f"{path.name}.sha256")


# --- Reading and writing --------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends: readers see the old file or
    the whole new one. An error in the block leaves the old file; a folder or a device is never
    replaced."""
    if path.exists() and not path.is_file():
        number = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(number, "not a file that can be written", str(path))
    partial = path.with_name(f".partial-{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(partial):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(path: Path | str) -> Iterator[BufferedReader]:
    """The file, open for reading. Raises OSError, also for what is no file: a pipe or a device
    could keep a reader for ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a null character in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with open(descriptor, "rb") as file:
        yield file


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises OSError as `reading` does."""
    with reading(path) as file:
        return file.read()


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or nothing, as UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Writes the whole file or nothing; values that JSON does not know become text."""
    write_text(path, json.dumps(value, indent=indent, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file, or no object in it."""
    try:
        value = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# The types of what status.json holds; None is allowed everywhere, and other keys hold anything.
_WHOLE = ("attempt", "pid", "budget_env_steps", "env_steps", "updates", "updates_due")
_NUMBERS = (*_WHOLE, "seconds_left", "episode_return", "evaluate_return", "env_steps_per_second")
_TEXTS = (
    *("run_id", "status", "started", "ended", "heartbeat", "host", "executor", "device", "code"),
    *("error", "unsure"),
)
_MOST = 1e13  # of any number in it; more is damage


def read_status(folder: Path) -> StatusRecord | None:
    """The run's status.json; None if there is none, {} if it cannot be read or a value has another
    type than attempts write. Its texts are lines that can be printed."""
    try:
        status = json.loads(read_bytes(folder / STATUS))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(status, dict):
        return {}
    whole = all(type(status.get(key)) in (int, type(None)) for key in _WHOLE)
    numbers = all(_is_number(status.get(key)) for key in _NUMBERS)
    texts = {key: status[key] for key in _TEXTS if status.get(key) is not None}
    names = status.get("suites") or []
    if not (whole and numbers and isinstance(names, list)):
        return {}
    if not all(isinstance(text, str) for text in (*texts.values(), *names)):
        return {}
    return status | {key: one_line(text) for key, text in texts.items()}


def _is_number(value: Any) -> bool:
    kinds = (int, float, type(None))
    return type(value) in kinds and (value is None or (math.isfinite(value) and abs(value) < _MOST))


def is_complete(status: StatusRecord, env_steps: int) -> bool:
    """Whether a run with this status is complete up to this budget."""
    if status.get("status") != Status.COMPLETED:
        return False
    steps = [status.get(key) for key in ("budget_env_steps", "env_steps")]
    known = [count for count in steps if count is not None]
    return not known or max(known) >= env_steps


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(path: Path) -> None:
    """Appends to a zip file, which checkpoints are, the SHA-256 of all that is before it, as the
    zip's comment: the file stays one that every reader of zip files opens."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(SHA256_DIGITS.to_bytes(2, "little"))  # the comment's length
        file.seek(0)
        digits = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(digits.encode())
        file.flush()
        os.fsync(file.fileno())


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was saved, by its seal, or by the file that earlier code wrote
    beside it. Raises OSError if it cannot be read."""
    digest = hashlib.sha256()
    with reading(path) as file:
        left = os.fstat(file.fileno()).st_size - SHA256_DIGITS
        while left > 0 and (part := file.read(min(left, 2**20))):
            digest.update(part)
            left -= len(part)
        end = file.read()
    if digest.hexdigest().encode() == end:
        return True
    digest.update(end)
    try:
        beside = read_bytes(checksum_path(path)).decode("ascii").split()
    except (OSError, ValueError):
        return False
    return beside[:1] == [digest.hexdigest()]


def discard_replay(folder: Path, why: str) -> int:
    """Removes the replay of the run in `folder`, which nobody may be executing, after a record
    that says so; returns the bytes that became free.

    The run can still be evaluated, drawn and audited, but not trained further.
    """
    replay = folder / REPLAY
    if not replay.is_dir():
        return 0
    size_bytes = sum(path.stat().st_size for path in replay.iterdir())
    if discarded_replay(folder) is None:
        write_json(folder / REPLAY_DISCARDED, {"time": now(), "why": why, "bytes": size_bytes})
    shutil.rmtree(replay)
    return size_bytes


def discarded_replay(folder: Path) -> dict[str, Any] | None:
    """The record (time, why, bytes) of a run whose replay was discarded in order, else None."""
    return read_json(folder / REPLAY_DISCARDED)


def require_replay(folder: Path) -> None:
    """Raises UserError for a run whose replay was discarded: it cannot be trained further."""
    gone = discarded_replay(folder)
    if gone is not None:
        raise UserError(
            f"{folder}: {gone.get('why')}, so its replay was discarded; "
            "it can be evaluated and drawn, but to train it further, start it anew with --fresh"
        )


def size_text(size_bytes: float) -> str:
    """So many bytes for people: "3.2 GB", "12.3 MB"."""
    unit = next((u for u in (("GB", 1e9), ("MB", 1e6)) if size_bytes >= u[1]), ("kB", 1e3))
    return f"{size_bytes / unit[1]:,.1f} {unit[0]}"


def now() -> str:
    """The time in UTC as ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def age_s(time: Any) -> float:
    """Seconds since a time that `now` gave; infinite for anything else."""
    try:
        then = datetime.datetime.fromisoformat(time)
        return (datetime.datetime.now(datetime.UTC) - then).total_seconds()
    except (TypeError, ValueError):
        return float("inf")


# --- Attempts -------------------------------------------------------------------------------------


def made_by(
    metric: str, count: int, from_values: Mapping[int, Mapping[str, int] | None]
) -> list[tuple[int, slice]]:
    """Which attempt made which of a metric's `count` values, as (attempt, slice), last first.

    `from_values` holds, for each attempt, how many values of each metric existed when it began
    (`from_values` in its provenance.json). An attempt made the values after these, up to those of
    a later attempt. None means that the attempt ended before it made a value, except for the first
    attempt, which began with no values.
    """
    spans = []
    first = min(from_values, default=None)
    end = count
    for attempt in sorted(from_values, reverse=True):
        counts = from_values[attempt]
        if counts is None and attempt != first:
            continue
        begin = (counts or {}).get(metric, 0)
        if begin < end:
            spans.append((attempt, slice(begin, end)))
            end = begin
    return spans
