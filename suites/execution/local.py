"""The executor for this machine: a few worker processes, each with one run at a time.

A worker is `python -m suites.execution.worker` in a session of its own. So Ctrl-C reaches only this
process, which stops the workers in order. If this process is killed, the workers' stdin closes, and
they stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import BinaryIO, NamedTuple

from dreamer import run_folder
from dreamer.errors import UserError, describe
from dreamer.run_folder import Status, StatusRecord
from suites.execution.display import Display, make_display
from suites.execution.environment import cores, gpus, worker_environment
from suites.execution.executor import Capacity, Executor, Request
from suites.execution.signals import handled
from suites.execution.spec import (
    EXIT_BUSY,
    EXIT_CODES,
    WORKER,
    Spec,
    is_later,
    last_line,
    last_words,
)
from suites.record.folder import NoLocksError, locked, make_folder
from suites.record.provenance import ROOT

POLL_S = 0.2
SHOW_EVERY_S = 1.0


class Worker(NamedTuple):
    """A process executing a run."""

    spec: Spec
    process: subprocess.Popen[bytes]
    slot: int
    stderr: BinaryIO  # what it printed before it opened its log, and its last words
    before: StatusRecord | None  # the run's status when it started


def default_workers(gpu_count: int, runs_per_gpu: int) -> int:
    """`runs_per_gpu` for each GPU; without a GPU one for four cores, since an update uses several
    cores well."""
    return gpu_count * runs_per_gpu if gpu_count else max(1, cores() // 4)


class Local(Executor):
    """Worker processes on this machine."""

    name = "local"

    def at_a_time(self, request: Request) -> Capacity:
        names = gpus() if request.on_gpu else []
        workers = request.workers or default_workers(len(names), request.runs_per_gpu)
        return Capacity(workers, "gpu" if names else "cpu")

    def execute(self, specs: Sequence[Spec], request: Request) -> None:
        """The first SIGINT or SIGTERM stops the workers in order, the second kills them."""
        workers = max(1, min(self.at_a_time(request).runs, len(specs)))
        names = gpus() if request.on_gpu else []
        display = make_display(len(specs))
        pool = _Pool(deque(specs), workers, names, display)
        with contextlib.closing(display), handled((signal.SIGINT, signal.SIGTERM), pool.on_signal):
            try:
                pool.work()
            finally:
                pool.kill()


class _Pool:
    """The workers, and the specs that wait for one."""

    def __init__(
        self, waiting: deque[Spec], workers: int, gpu_names: Sequence[str], display: Display
    ):
        self.waiting, self.workers, self.gpu_names = waiting, workers, gpu_names
        self.display = display
        self.running: list[Worker] = []
        self.stopping = 0  # signals so far

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopping += 1

    def work(self) -> None:
        handled = 0  # signals
        shown_s = 0.0
        while self.running or (self.waiting and not self.stopping):
            if self.stopping > handled:
                handled = self.stopping
                self._stop()
            while self.waiting and not self.stopping and len(self.running) < self.workers:
                self._start(self.waiting.popleft())
            for worker in [w for w in self.running if w.process.poll() is not None]:
                self._ended(worker)
            if time.monotonic() - shown_s > SHOW_EVERY_S:
                shown_s = time.monotonic()
                for worker in self.running:
                    status = run_folder.read_status(worker.spec.folder)
                    self.display.running(worker.spec, status or {})
            time.sleep(POLL_S)

    def _start(self, spec: Spec) -> None:
        slot = min(set(range(self.workers)) - {worker.slot for worker in self.running})
        stderr = os.fdopen(os.memfd_create("stderr"), "w+b")  # a file in memory
        before = run_folder.read_status(spec.folder)
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            env=worker_environment(ROOT, slot, self.workers, self.gpu_names, cores()),
            start_new_session=True,
        )
        worker = Worker(spec, process, slot, stderr, before)
        self.running.append(worker)
        self.display.started(spec)
        with contextlib.suppress(BrokenPipeError):  # it died at once; _ended reports why
            assert process.stdin is not None
            process.stdin.write(spec.to_json().encode() + b"\n")
            process.stdin.flush()  # stays open: the worker stops when it closes

    def _ended(self, worker: Worker) -> None:
        self.running.remove(worker)
        output = _text(worker.stderr)
        worker.stderr.close()
        with contextlib.suppress(BrokenPipeError):
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        code = worker.process.returncode
        if code == EXIT_BUSY:
            taken_over = f"{worker.spec.run_id}: another process has taken it over"
            self.display.ended(worker.spec, {}, last_line(output) or taken_over)
        else:
            self.display.ended(worker.spec, _ending(worker, code, output), "")

    def _stop(self) -> None:
        if self.stopping > 1:
            self.kill()
            return
        self.waiting.clear()
        if self.running:
            self.display.say("saving checkpoints and stopping; Ctrl-C again stops at once")
        for worker in self.running:
            worker.process.terminate()

    def kill(self) -> None:
        for worker in self.running:
            worker.process.kill()
            worker.process.wait()


def _ending(worker: Worker, code: int, output: str) -> StatusRecord:
    """The status that a run ended with; writes it where the worker could not.

    After SIGKILL (out of memory, or by a person) and after a signal to stop that came too early,
    the recorded status stays: the run counts as dead, stopped or missing, and the next `suites.run`
    continues it. Any other end without a last status is a failure.
    """
    spec = worker.spec
    recorded = run_folder.read_status(spec.folder)
    status: StatusRecord = recorded or {"run_id": spec.run_id}
    said = last_words(output)
    if not said and status.get("status") in EXIT_CODES and recorded != worker.before:
        return status  # killed after its last status
    if said.get("status") == status.get("status") and said.get("attempt") == status.get("attempt"):
        return status
    if is_later(status, said):  # another process has continued the run since
        return said
    if not said and code in (-signal.SIGTERM, -signal.SIGINT):
        return {**status, "status": Status.INTERRUPTED}
    if not said and code == -signal.SIGKILL:
        said = {"error": "killed by SIGKILL (out of memory?)"}
        if recorded is None or status.get("status") in EXIT_CODES:
            return {**status, "status": None, **said}
    elif not said:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = {"status": Status.FAILED, "error": last_line(output) or how}
    status = {**status, **said}
    try:
        make_folder(spec.folder)
        with locked(spec.folder):
            if run_folder.read_status(spec.folder) == recorded:  # else another process was here
                run_folder.write_json(spec.folder / run_folder.STATUS, status)
    except NoLocksError:  # the worker has recorded that itself
        pass
    except (OSError, UserError) as error:  # the disk is full, say
        note = f"{spec.run_id}: its status is not recorded: {describe(error)}"
        print(note, file=sys.stderr)
    return status


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
