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
from typing import Any, BinaryIO, NamedTuple

from dreamer import run_folder
from dreamer.run_folder import Status
from suites.execution.display import Display, make_display
from suites.execution.environment import cores, gpus, worker_environment
from suites.execution.executor import Capacity, Executor, Request
from suites.execution.spec import EXIT_BUSY, EXIT_CODES, WORKER, Spec
from suites.record.folder import NoLocksError, locked, make_folder
from suites.record.provenance import ROOT

POLL_S = 0.2
SHOW_EVERY_S = 1.0


class Worker(NamedTuple):
    """A process executing a run."""

    spec: Spec
    process: subprocess.Popen[bytes]
    slot: int
    stderr: BinaryIO  # what it printed before it opened its log


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
        old = {n: signal.signal(n, pool.on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            pool.work()
        finally:
            pool.kill()
            for number, handler in old.items():
                signal.signal(number, handler)
            display.close()


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
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=stderr,
            env=worker_environment(ROOT, slot, self.workers, self.gpu_names, cores()),
            start_new_session=True,
        )
        worker = Worker(spec, process, slot, stderr)
        self.running.append(worker)
        self.display.started(spec)
        with contextlib.suppress(BrokenPipeError):  # it died at once; _ended reports why
            assert process.stdin is not None
            process.stdin.write(spec.to_json().encode() + b"\n")
            process.stdin.flush()  # stays open: the worker stops when it closes

    def _ended(self, worker: Worker) -> None:
        self.running.remove(worker)
        message = _last_line(worker.stderr)
        worker.stderr.close()
        with contextlib.suppress(BrokenPipeError):
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        code = worker.process.returncode
        if code not in EXIT_CODES.values() and code != EXIT_BUSY:
            _record_death(worker.spec, code, message)
        status = run_folder.read_status(worker.spec.folder)
        busy = (
            message.removeprefix("error: ")
            or f"{worker.spec.run_id}: another process has taken it over"
        )
        self.display.ended(worker.spec, status or {}, busy if code == EXIT_BUSY else "")

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


def _record_death(spec: Spec, code: int, message: str) -> None:
    """Writes the status of a worker that ended without writing one itself.

    After SIGKILL (out of memory, or by a person) and after a signal to stop that came too early,
    the status stays: the run counts as dead or missing, and the next `suites.run` continues it.
    Anything else is a failure.
    """
    if code in (-signal.SIGTERM, -signal.SIGINT):
        return
    values: dict[str, Any] = {"error": "killed by SIGKILL (out of memory?)"}
    if code != -signal.SIGKILL:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        error = message.removeprefix("error: ") or how
        values = {"status": Status.FAILED, "error": error}
    try:
        make_folder(spec.folder)
        with locked(spec.folder):
            status = run_folder.read_status(spec.folder) or {"run_id": spec.run_id}
            if status.get("status") not in EXIT_CODES:
                run_folder.write_json(spec.folder / run_folder.STATUS, {**status, **values})
    except NoLocksError:  # the worker has recorded that itself
        pass
    except Exception as error:  # the folder cannot be written; at least say so
        print(f"{spec.run_id}: {error}", file=sys.stderr)


def _last_line(file: BinaryIO) -> str:
    file.seek(0)
    lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
