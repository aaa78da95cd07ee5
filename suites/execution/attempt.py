"""One attempt at a run: training, recorded so that its numbers can be traced.

An attempt locks the run's folder, writes its provenance, keeps `status.json` up to date and ends
as COMPLETED, INTERRUPTED (SIGTERM, SIGINT, or its parent's death) or FAILED (with the traceback in
`error.txt`). The next attempt continues from the last checkpoint. Copies of the record go to
Sacred's files and to MongoDB, which can neither stop nor slow down training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from dreamer import run_folder
from dreamer.config import Config, config_from_dict
from dreamer.errors import UserError
from dreamer.run_folder import Status, StatusRecord
from suites.execution.heartbeat import StatusFile
from suites.execution.spec import Spec
from suites.record import provenance
from suites.record.folder import locked, make_folder, new_attempt


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
    another process executes the run, and UserError if the run cannot start.
    """
    config = config_from_dict(spec.config)
    if spec.executor == "debug":  # so that a debugger can step through an update
        config = dataclasses.replace(config, cuda_graph="off")
    results = Path(spec.results)
    make_folder(spec.folder)
    with locked(spec.folder):
        before = run_folder.read_status(spec.folder)
        if before and run_folder.is_complete(before, config.env_steps):
            return before
        _check_folder(spec.folder)
        attempt = new_attempt(results, spec.run_id)
        if own_log:
            _redirect(run_folder.attempt_path(spec.folder, attempt) / run_folder.LOG)
        code = provenance.code()
        _close_earlier(results, spec.run_id, attempt)
        status_file = StatusFile(spec, config, attempt, code.version, before or {}, on_status)
        with status_file.beating(), _signals() as stopped:
            _attempt(spec, config, attempt, code, status_file, lambda: stopped() or should_stop())
        return status_file.status


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
    except KeyboardInterrupt:
        status_file.finish(Status.INTERRUPTED)
    except BaseException as error:
        path = run_folder.attempt_path(spec.folder, attempt) / run_folder.ERROR
        path.write_text(traceback.format_exc(), encoding="utf-8")
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        status_file.finish(Status.FAILED, error=" ".join(text.split()) or type(error).__name__)
        if not isinstance(error, UserError):
            traceback.print_exc()
        if not isinstance(error, Exception):  # SystemExit and the like go on
            raise
    else:
        counts = {"env_steps": summary.env_steps, "updates": summary.updates}
        status = Status(summary.status)
        status_file.finish(status, **counts, evaluate_return=summary.evaluate_return)


def _check_folder(folder: Path) -> None:
    """Raises UserError if the run's config.json was damaged, or its replay discarded."""
    if (gone := run_folder.discarded_replay(folder)) is not None:
        raise UserError(
            f"{folder}: {gone.get('why')}; without its replay a larger budget needs --fresh"
        )
    path = folder / run_folder.CONFIG
    if path.exists() and run_folder.read_json(path) is None:
        raise UserError(f"{path}: damaged; restore it, or start this run anew with --fresh")


def _close_earlier(results: Path, run_id: str, attempt: int) -> None:
    """Sets earlier attempts that were killed to INTERRUPTED in Sacred's records, which still have
    them as RUNNING. They cannot run: this process holds the lock."""
    for number in range(1, attempt):
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

    old = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _redirect(path: Path) -> None:
    """Sends stdout and stderr of this process and its children to `path` from now on."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
