"""One attempt at a run: training, recorded so that its numbers can be traced.

An attempt locks the run's folder, writes its provenance, keeps `status.json` up to date and ends
as COMPLETED, INTERRUPTED (SIGTERM, SIGINT, or its parent's death) or FAILED (with the traceback in
`error.txt`). The next attempt continues from the last checkpoint. Copies of the record go to
Sacred's files and to MongoDB, which can neither stop nor slow down training.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from dreamer import run_folder
from dreamer.config import Config, config_from_dict
from dreamer.errors import KilledError, UserError, describe
from dreamer.run_folder import State, Status, StatusRecord
from suites.execution.heartbeat import StatusFile
from suites.execution.signals import handled
from suites.execution.spec import Spec
from suites.record import provenance
from suites.record.folder import (
    BusyError,
    NoLocksError,
    check_writable,
    largest_budgets,
    locked,
    look,
    make_folder,
    new_attempt,
    taken_over,
)
from suites.record.scores import recorded_score
from suites.record.secrets import hide

LOOK_EVERY_S = 1.0  # at whether another attempt has taken the run over


def execute(
    spec: Spec,
    should_stop: Callable[[], bool] = lambda: False,
    on_status: Callable[[StatusRecord], None] = lambda status: None,
    own_log: bool = False,
) -> StatusRecord:
    """Executes the next attempt in this process and returns its last status.

    `should_stop` asks for an orderly stop, as do SIGTERM and SIGINT (if called in the main thread;
    a second SIGINT stops at once). `on_status` is called with every status that is written.
    `own_log` redirects stdout and stderr of this process to the attempt's log from then on. A
    finished run is skipped. An exception in training becomes status FAILED. Raises BusyError if
    another process executes the run or takes it over, or if its files cannot be written, and
    UserError if the run cannot start.
    """
    config = config_from_dict(spec.config)
    results = Path(spec.results)
    make_folder(spec.folder)
    with _locked(spec.folder):
        state, before = look(spec.folder, holding=True)
        if before and run_folder.is_complete(before, config.env_steps):
            return before
        if before and state == State.RUNNING:  # where locks are not seen on other machines
            raise BusyError(f"{spec.run_id}: {before['host']} executes it, by its heartbeat")
        check_writable(spec.folder)
        _check_folder(spec.folder)
        attempt = new_attempt(results, spec.run_id)
        if own_log:
            _redirect(run_folder.attempt_path(spec.folder, attempt) / run_folder.LOG)
        code = provenance.code()
        _close_earlier(results, spec.run_id, attempt)
        status_file = StatusFile(spec, config, attempt, code.version, before or {}, on_status)
        with status_file.beating(), _signals() as stopped:
            mine = _guarded(spec, attempt, lambda: stopped() or should_stop())
            _attempt(spec, config, attempt, code, status_file, mine)
        return status_file.status


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The run's lock. Where there are no locks the run has failed, and its status says why; nobody
    else can have it there."""
    try:
        with locked(folder):
            yield
    except NoLocksError as error:
        state, status = look(folder)
        if state not in (State.DONE, State.RUNNING):
            failed = {"status": Status.FAILED, "error": str(error)}
            record = {"run_id": folder.name, **(status or {}), **failed}
            run_folder.write_json(folder / run_folder.STATUS, record)
        raise


def _guarded(spec: Spec, attempt: int, should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """`should_stop`, which raises BusyError soon after another attempt has taken the run over."""
    looked_s = time.monotonic()

    def asked() -> bool:
        nonlocal looked_s
        if time.monotonic() - looked_s > LOOK_EVERY_S:
            looked_s = time.monotonic()
            if taken_over(spec.folder, attempt):
                raise BusyError(f"{spec.run_id}: another process has taken it over; stopped here")
        return should_stop()

    return asked


def _attempt(
    spec: Spec,
    config: Config,
    attempt: int,
    code: provenance.Code,
    status_file: StatusFile,
    should_stop: Callable[[], bool],
) -> None:
    """Trains and writes the last status, whatever happens."""
    from suites.execution.sacred_run import train_recorded

    try:
        summary = train_recorded(spec, config, attempt, code, status_file, should_stop)
    except BusyError:  # the other attempt's status stays
        raise
    except KilledError as error:
        status_file.finish(Status.INTERRUPTED, error=str(error))
    except KeyboardInterrupt:
        status_file.finish(Status.INTERRUPTED)
    except BaseException as error:
        path = run_folder.attempt_path(spec.folder, attempt) / run_folder.ERROR
        trace = hide(traceback.format_exc())
        with contextlib.suppress(OSError):  # the disk may be full, which is the error then
            path.write_text(trace, encoding="utf-8", errors="backslashreplace")
        status_file.finish(Status.FAILED, error=hide(describe(error)))
        if not isinstance(error, UserError):
            print(trace, end="", file=sys.stderr)
        if not isinstance(error, (Exception, SystemExit)):  # an environment may call exit()
            raise
    else:
        counts: dict[str, Any] = {"env_steps": summary.env_steps, "updates": summary.updates}
        counts["evaluate_return"] = summary.evaluate_return
        if summary.status != Status.COMPLETED:
            status_file.finish(Status(summary.status), **counts)
            return
        final = recorded_score(spec.folder / run_folder.METRICS, spec.config)
        score, evaluations, _ = final or (None, 0, None)
        counts |= {"final_score": score, "final_evaluations": evaluations}
        status_file.finish(Status.COMPLETED, **counts)
        if config.keep_replay == "until_done":
            _discard_replay(spec, config.env_steps)


def _discard_replay(spec: Spec, budget: int) -> None:
    """Removes the replay of a run that is done, unless a suite wants more env_steps of it."""
    try:
        if largest_budgets(Path(spec.results), {spec.run_id: budget})[spec.run_id] <= budget:
            run_folder.discard_replay(spec.folder, "the run was done")
    except (OSError, UserError) as error:  # the run is done all the same
        print(f"warning: replay was not removed: {describe(error)}", file=sys.stderr)


def _check_folder(folder: Path) -> None:
    """Raises UserError if the run's config.json was damaged, or its replay discarded."""
    run_folder.require_replay(folder)
    path = folder / run_folder.CONFIG
    if path.exists() and run_folder.read_json(path) is None:
        raise UserError(f"{path}: damaged; restore it, or start this run anew with --fresh")


def _close_earlier(results: Path, run_id: str, attempt: int) -> None:
    """Marks earlier attempts that were killed, and are still RUNNING in Sacred's records, as
    INTERRUPTED. They cannot be running: this process holds the lock.
    """
    for number in set(run_folder.attempts(run_folder.run_path(results, run_id))) - {attempt}:
        path = run_folder.sacred_run_path(results, run_id, number) / "run.json"
        record = run_folder.read_json(path) or {}  # the audit reports records that are damaged
        if record.get("status") == Status.RUNNING and "heartbeat" in record:
            stopped = {"status": Status.INTERRUPTED, "stop_time": record["heartbeat"]}
            with contextlib.suppress(OSError):
                run_folder.write_json(path, {**record, **stopped})


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT ask to stop while the block runs; a second SIGINT stops at once. Yields a
    function that says whether one came."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    with handled((signal.SIGTERM, signal.SIGINT), ask):
        yield asked.is_set


def _redirect(path: Path) -> None:
    """Sends stdout and stderr of this process and its children to `path` from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
