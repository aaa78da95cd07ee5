"""The program of a SLURM job: executes one or several runs, each in a process of its own.

SLURM ends jobs in many ways. Here each becomes an orderly stop and, where needed, a requeue:

    time limit     USR2 some time before it (`signal_delay_s`)      requeued from here
    preemption     TERM; SLURM requeues by itself, or leaves it     requeued from here if it did not
                   to the job
    scancel        TERM                                             not requeued
    node failure,  nothing                                          by SLURM, or by the next
    kill -9                                                         `suites.run`, from the records

A run saves a checkpoint when it gets the signal to stop; its replay is on the disk already. A run
whose process alone is killed is started again. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dreamer import run_folder
from dreamer.command_line import prepare_streams
from dreamer.errors import UserError, describe
from dreamer.run_folder import Status, StatusRecord
from slurm.ask import ask, seconds_of
from suites.execution.environment import cores, gpus, worker_environment
from suites.execution.signals import handled
from suites.execution.spec import EXIT_BUSY, EXIT_CODES, is_later, last_words
from suites.record.folder import BusyError, locked

POLL_S = 0.2
MAX_KILLS = 3  # of one run in one job; after one more the run counts as failed (memory?)
BUSY_WAIT_S, MAX_BUSY = 10.0, 15  # waits, and how many, while another process executes the run
REQUEUE_AFTER = 0.4  # of the time that SLURM leaves; a requeue matters more than a late checkpoint
SETTLE_S = 1.0  # SLURM signals the runs and this process one after another
SLACK_S = 65.0  # SLURM may send its signal a minute early
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

COMPLETED, FAILED, INTERRUPTED = EXIT_CODES.values()

TIMED_OUT, PREEMPTED, CANCELLED, STOPPED = "timed out", "preempted", "cancelled", "stopped"


class RunTask(NamedTuple):
    """A run that the job executes."""

    run_id: str
    folder: str  # the run's; status.json is there
    spec: str  # JSON, the first line of the run's stdin


@dataclass
class Child:
    """A process that executes a run."""

    process: subprocess.Popen[bytes]
    stderr: int  # a file in memory: what it prints before it opens its log, and its last words
    shown: int = 0  # bytes of it that are in the job's log

    def show(self) -> None:
        """Copies what the process has printed since to the job's log."""
        new = os.pread(self.stderr, os.fstat(self.stderr).st_size, self.shown)
        self.shown += len(new)
        if new:
            print(new.decode("utf-8", "replace"), end="", file=sys.stderr, flush=True)


class Job(NamedTuple):
    """What one SLURM job executes."""

    tasks: list[RunTask]
    module: str  # python -m MODULE executes a task
    code: str  # the folder of the code
    folder: str  # where the job was submitted; code of others may read files by their paths there
    cancelled: str  # a folder with a file for each cancelled run
    signal_delay_s: int
    requeue: bool


def execute(job: Job) -> dict[str, int]:
    """Executes the job's runs, all at the same time; returns their exit codes. Called by submitit
    on the node. Exits the process when the job was requeued."""
    prepare_streams()  # the job's log may be on a full disk
    supervisor = _Supervisor(job)
    with handled(SIGNALS, lambda number, _: supervisor.signals.append(number)):
        supervisor.work()
        if supervisor.wants_requeue():
            requeue()
            sys.exit(1)
    return supervisor.codes


class _Supervisor:
    """Starts the runs of a job, stops them, and decides about a requeue."""

    def __init__(self, job: Job):
        self.job = job
        self.signals: list[int] = []
        self.reason: str | None = None  # why all runs must stop
        self.requeue_at = float("inf")  # even if runs have not stopped by then
        self.children: dict[str, Child] = {}
        self.codes: dict[str, int] = {}
        self.kills: dict[str, int] = {}
        self.unwanted: set[str] = set()
        self.tasks = {task.run_id: task for task in job.tasks}
        self.waiting = dict.fromkeys(self.tasks, 0.0)  # {run_id: when to start it}

    def work(self) -> None:
        """Returns when every run has ended."""
        while self.waiting or self.children:
            if self.signals and self.reason is None:
                self._stop_all()
            if time.monotonic() > self.requeue_at:
                self.requeue_at = float("inf")
                if self.wants_requeue():
                    requeue()  # SLURM ends this job now, whatever is saved
            self._stop_cancelled()
            for run_id in [r for r, when in self.waiting.items() if when <= time.monotonic()]:
                del self.waiting[run_id]
                self._start(self.tasks[run_id])
            for run_id in [r for r, c in self.children.items() if c.process.poll() is not None]:
                self._ended(self.tasks[run_id], self.children.pop(run_id))
            for child in self.children.values():
                child.show()
            time.sleep(POLL_S)
        if not self.signals and set(self.codes.values()) - {COMPLETED, FAILED}:
            time.sleep(SETTLE_S)
        if self.signals and self.reason is None:
            self._stop_all()

    def wants_requeue(self) -> bool:
        """Whether unfinished runs are left that SLURM will not continue by itself."""
        if self.reason not in (TIMED_OUT, PREEMPTED) or not self.job.requeue:
            return False
        left = [r for r, code in self.codes.items() if code not in (COMPLETED, FAILED)]
        return any(r not in self.unwanted for r in left) and own_job().get("JobState") == "RUNNING"

    def _stop_all(self) -> None:
        """Signals the runs first, since saving takes time; then finds out the reason."""
        self.waiting = {}
        for child in self.children.values():
            child.process.terminate()
        self.reason = why(own_job(), self.job.signal_delay_s)
        self.requeue_at = time.monotonic() + self.job.signal_delay_s * REQUEUE_AFTER
        for task in self.job.tasks:
            self.codes.setdefault(task.run_id, INTERRUPTED)
        name = signal.Signals(self.signals[0]).name
        print(f"{run_folder.now()} {name}: {self.reason}; stopping", file=sys.stderr, flush=True)

    def _stop_cancelled(self) -> None:
        for run_id, child in self.children.items():
            if run_id not in self.unwanted and self._is_cancelled(run_id):
                self.unwanted.add(run_id)
                child.process.terminate()

    def _is_cancelled(self, run_id: str) -> bool:
        return Path(self.job.cancelled, run_id).exists()

    def _start(self, task: RunTask) -> None:
        status = read_status(task)
        if run_folder.is_complete(status, json.loads(task.spec)["config"]["env_steps"]):
            self.codes[task.run_id] = COMPLETED
            return
        if status.get("status") == Status.FAILED and status.get("executor") == executor_name():
            self.codes[task.run_id] = FAILED  # it failed before this job was requeued
            return
        if self._is_cancelled(task.run_id):
            self.unwanted.add(task.run_id)
            self.codes[task.run_id] = INTERRUPTED
            return
        stderr = os.memfd_create("stderr")
        process = subprocess.Popen(
            # -P: the code that was submitted, and not what lies in the folder since.
            [sys.executable, "-P", "-m", self.job.module],
            stdin=subprocess.PIPE,
            stderr=stderr,
            cwd=self.job.folder if os.access(self.job.folder, os.X_OK) else self.job.code,
            env=environment(self.job, self.job.tasks.index(task)),
            preexec_fn=_ignore_user_signals,
        )
        self.children[task.run_id] = Child(process, stderr)
        spec = {**json.loads(task.spec), "executor": executor_name()}
        with contextlib.suppress(BrokenPipeError):  # it died at once; _ended handles that
            assert process.stdin is not None
            process.stdin.write(json.dumps(spec).encode() + b"\n")
            process.stdin.flush()  # stays open: the run stops when it closes

    def _ended(self, task: RunTask, child: Child) -> None:
        child.show()
        output = os.pread(child.stderr, child.shown, 0).decode("utf-8", "replace")
        os.close(child.stderr)
        with contextlib.suppress(BrokenPipeError):
            assert child.process.stdin is not None
            child.process.stdin.close()
        code, status = child.process.returncode, read_status(task)
        said = last_words(output)
        if not said and code < 0 and status.get("executor") == executor_name():
            said = status  # a signal after its last status changes nothing
        elif not said and code >= 0 and code not in (INTERRUPTED, EXIT_BUSY):
            # Nothing else is certain: 0, too, may come from an exit in code of others.
            said = {"status": Status.FAILED, "error": f"exit code {code}; see the job's log"}
        code = EXIT_CODES.get(said.get("status", ""), code)
        recorded = status.get("executor") == executor_name() and status.get("status")
        if said and said.get("status") != recorded:
            write_status(task, **said)  # the worker could not, as on a full disk
        if self.signals and self.reason is None:
            self._stop_all()
        self.codes[task.run_id] = code
        if self.reason is None and task.run_id not in self.unwanted and self._again(task, code):
            return
        self._write_ending(task, code)

    def _again(self, task: RunTask, code: int) -> bool:
        """Starts a run again that was killed, or that another process executes."""
        count = self.kills[task.run_id] = self.kills.get(task.run_id, 0) + 1
        if code < 0 and count <= MAX_KILLS:
            self._write_ending(task, code)
            self.waiting[task.run_id] = time.monotonic() + SETTLE_S
            return True
        if code == EXIT_BUSY and count <= MAX_BUSY:
            self.waiting[task.run_id] = time.monotonic() + BUSY_WAIT_S
            return True
        if code < 0:
            name = signal.Signals(-code).name
            write_status(
                task, status=Status.FAILED, error=f"killed by {name}, {count} times (memory?)"
            )
        return False

    def _write_ending(self, task: RunTask, code: int) -> None:
        """Writes slurm.json of the attempt: which job, where, and why it ended."""
        status = read_status(task)
        if status.get("executor") != executor_name():
            return  # this attempt never began
        if code < 0 and self.reason is None:
            ended = f"killed by {signal.Signals(-code).name}"
        elif code in (COMPLETED, FAILED):
            ended = "completed" if code == COMPLETED else "failed"
        else:
            ended = CANCELLED if task.run_id in self.unwanted else self.reason or STOPPED
        ending = {
            "job": job_id(),
            "raw_job": os.environ.get("SLURM_JOB_ID"),
            "node": socket.gethostname(),
            "restarts": restarts(),
            "signals": [signal.Signals(number).name for number in self.signals],
            "ended": ended,
            "exit_code": code,
            "at": run_folder.now(),
        }
        folder = run_folder.attempt_path(Path(task.folder), status.get("attempt"))
        try:
            if folder.is_dir():
                run_folder.write_json(folder / run_folder.SLURM, ending)
        except OSError as error:
            print(f"{folder / run_folder.SLURM}: {describe(error)}", file=sys.stderr)


def why(job: dict[str, str], signal_delay_s: int) -> str:
    """Why SLURM stops this job, judged by the fields of `scontrol show job`."""
    if job.get("JobState") == "RUNNING":
        left = seconds_until(job.get("EndTime"))
        return TIMED_OUT if left is not None and left <= signal_delay_s + SLACK_S else PREEMPTED
    if not job:
        return STOPPED  # SLURM did not answer
    if int(job.get("Restarts", 0)) > restarts():
        return PREEMPTED  # SLURM has requeued it
    start, limit_s = seconds_until(job.get("StartTime")), seconds_of(job.get("TimeLimit", ""))
    if start is not None and limit_s is not None and -start >= limit_s:
        return TIMED_OUT
    return CANCELLED


def own_job() -> dict[str, str]:
    """The fields of this job in `scontrol show job`; {} if SLURM does not answer."""
    done = _undisturbed("scontrol", "show", "job", "--oneliner", os.environ["SLURM_JOB_ID"])
    return dict(word.split("=", 1) for word in done.split() if "=" in word)


def requeue() -> None:
    _undisturbed("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    print(f"{run_folder.now()} requeued", file=sys.stderr, flush=True)


def _undisturbed(*command: str) -> str:
    """The output of a command that ignores the signals sent to this job; "" if it fails."""
    try:
        return ask(*command, within_s=30, preexec_fn=_ignore_signals)
    except UserError as error:
        print(f"{' '.join(command)}: {error}", file=sys.stderr)
        return ""


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _ignore_user_signals() -> None:
    """SLURM signals every process of a job; runs react to TERM only."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def environment(job: Job, slot: int) -> dict[str, str]:
    """The environment of one of the job's runs: its share of the job's cores and GPUs."""
    core_count = int(os.environ.get("SLURM_CPUS_PER_TASK") or cores())
    visible = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    return worker_environment(job.code, slot, len(job.tasks), gpus(visible), core_count)


def job_id() -> str:
    """The job as squeue shows it: 12_3 in an array, else 12."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def executor_name() -> str:
    return f"slurm {job_id()}"


def restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def seconds_until(time_text: str | None) -> float | None:
    """Seconds from now to a time in SLURM's format (local, ISO); None for `Unknown` and so on."""
    try:
        then = datetime.datetime.fromisoformat(time_text or "")
    except ValueError:
        return None
    return (then - datetime.datetime.now()).total_seconds()


def read_status(task: RunTask) -> StatusRecord:
    return run_folder.read_status(Path(task.folder)) or {}


def write_status(task: RunTask, **values: Any) -> None:
    """Writes the last status of a run that could not write it itself, unless another process
    executes it or did so since. Where it cannot be written it goes to the job's log."""
    try:
        with locked(Path(task.folder)):
            status = read_status(task)
            if status.get("status") != Status.COMPLETED and not is_later(status, values):
                status = {"run_id": task.run_id, **status, "executor": executor_name(), **values}
                run_folder.write_json(Path(task.folder, run_folder.STATUS), status)
    except BusyError:
        pass
    except (OSError, UserError) as error:
        said = f"{values.get('status')}: {values.get('error')}"
        print(f"{task.run_id}: {said}; not recorded: {describe(error)}", file=sys.stderr)
