"""The executor for SLURM: submits runs as jobs, knows their states, cancels them.

    results/slurm/submissions.jsonl     lines for each submission (a call of sbatch): its runs, and
                                        then SLURM's number for it, or that it failed
    results/slurm/lock                  held by a process that submits or cancels
    results/slurm/SUBMISSION/           submitit's files, logs of the jobs, which runs are cancelled
    results/slurm/code/HASH/            the code that the jobs run

A submission is recorded before sbatch is called, and SLURM's jobs carry its name. So no run is
submitted twice, even if a submission was killed half-way. All machines and users that share the
results folder see the same states. Accounting (`sacct`) is not needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer import run_folder
from dreamer.errors import UserError, counted
from dreamer.run_folder import State
from slurm import doctor
from slurm import sbatch as slurm
from slurm.job import Job, RunTask
from slurm.profiles import Profile, load_profile
from slurm.sbatch import Queued
from slurm.snapshot import snapshot
from suites.execution.executor import Capacity, Executor, Found, Request, Withdrawn
from suites.execution.spec import WORKER, Spec
from suites.record import provenance
from suites.record.folder import flock, look, make_folder

SUBMISSIONS = "submissions.jsonl"
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT",
           "SUSPENDED", "STOPPED", "RESV_DEL_HOLD"}  # fmt: skip


class Submission(NamedTuple):
    """One sbatch call."""

    name: str
    jobs: list[list[str]]  # run_ids by index in the array
    array: str | None  # SLURM's number; None if sbatch has not answered
    budgets: dict[str, int]  # env_steps by run_id; earlier submissions do not have them
    code: str  # the name of its copy of the code


class Slot(NamedTuple):
    """Where a run was last submitted."""

    submission: Submission
    array_task: int  # index in its array

    @property
    def key(self) -> tuple[str, int]:
        """What SLURM's queue calls it."""
        return self.submission.name, self.array_task


class Slurm(Executor):
    """Submits runs as SLURM jobs and returns."""

    name = "slurm"
    on_this_machine = False

    def missing(self) -> str | None:
        return "there is no sbatch here" if shutil.which("sbatch") is None else None

    def at_a_time(self, request: Request) -> Capacity:
        profile = load_profile(request.profile)
        jobs = profile.options.get("array_parallelism", 256)
        return Capacity(jobs * runs_per_job(profile, request.runs_per_gpu), "gpu")

    def forecast(self, runs: int, request: Request) -> str:
        profile = load_profile(request.profile)
        try:
            size, source = slurm.array_size(profile), ""
        except UserError:
            size, source = slurm.DEFAULT_ARRAY_SIZE, ", if the cluster allows it"
        each = runs_per_job(profile, request.runs_per_gpu)
        jobs, calls = forecast(runs, profile, request.runs_per_gpu, size)
        return (
            f"slurm     profile {profile.name}: {counted(jobs, 'job')} of {counted(each, 'run')}, "
            f"{counted(calls, 'call')} of sbatch ({counted(size, 'job')} each{source})"
        )

    def execute(self, specs: Sequence[Spec], request: Request) -> int:
        profile = load_profile(request.profile)
        if request.doctor:
            named, needed = request.observers, request.disk_gb
            if doctor.examine(profile.name, request.results, needs_gb=needed, mongo=named) != 0:
                raise UserError("the doctor found a problem (see above); nothing is submitted")
        return submit(specs, request, profile)

    def states(self, results: Path, found: Mapping[str, Found]) -> dict[str, Found]:
        """SLURM's queue is asked once, and only if an unfinished run was submitted. If it does not
        answer, runs that it may have are UNKNOWN."""
        open_runs = [run_id for run_id, (state, _) in found.items() if state != State.DONE]
        if not open_runs or not (home(results) / SUBMISSIONS).exists():
            return dict(found)
        submitted = _without_cancelled(results, slots(read_submissions(results)), open_runs)
        updated = dict(found)
        try:
            queue = _queue(submitted)
        except UserError as error:
            for run_id in submitted:
                updated[run_id] = _without_queue(*found[run_id], str(error))
            return updated
        for run_id, slot in submitted.items():
            if (job := queue.get(slot.key)) is not None:
                updated[run_id] = _with_job(*found[run_id], job)
        return updated

    def unneeded(self, results: Path, remove: Path | None = None) -> list[Path]:
        """Copies of the code whose submissions have no job left. If SLURM does not answer,
        submissions with unfinished runs count as if they had."""
        folder = home(results) / "code"
        if not folder.is_dir():
            return []
        with _locked(results):  # nobody submits meanwhile
            submissions = read_submissions(results)
            try:
                queued = {name for name, _ in slurm.queue(submissions)}
            except UserError as error:
                print(f"note: code of unfinished runs is kept: {error}", file=sys.stderr)
                queued = {
                    one.name
                    for one in submissions.values()
                    if not all(_is_over(results, one, run_id) for job in one.jobs for run_id in job)
                }
            needed = {submissions[name].code for name in queued}
            found = [] if "" in needed else [f for f in folder.iterdir() if f.name not in needed]
            found = sorted(f for f in found if f.is_dir() and not f.name.startswith("."))
            if remove in found:
                shutil.rmtree(remove)
        return found

    def withdraw(self, results: Path, run_ids: Iterable[str], forget: bool) -> Withdrawn:
        if not (home(results) / SUBMISSIONS).exists():
            return Withdrawn()
        if forget:
            return Withdrawn(forget_runs(results, run_ids))
        return Withdrawn(*cancel(results, run_ids))


# --- Submissions ----------------------------------------------------------------------------------


def home(results: Path) -> Path:
    """The folder of everything about SLURM."""
    return results / "slurm"


def read_submissions(results: Path) -> dict[str, Submission]:
    """The submissions that were handed to sbatch, oldest first, without those that it refused."""
    found: dict[str, Submission] = {}
    try:
        lines = run_folder.read_bytes(home(results) / SUBMISSIONS).splitlines()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise UserError(f"{home(results)}: {error.strerror}") from None
    for line in lines:
        try:
            entry = json.loads(line)
            name = entry["batch"]
            if "jobs" in entry:
                found[name] = Submission(
                    name, entry["jobs"], None, entry.get("budgets", {}), entry.get("code", "")
                )
            elif "array" in entry:
                found[name] = found[name]._replace(array=entry["array"])
            elif "failed" in entry:
                found.pop(name, None)
        except (ValueError, KeyError, TypeError):  # half a line, whose writer was killed
            continue
    return found


def slots(submissions: Mapping[str, Submission]) -> dict[str, Slot]:
    """{run_id: where it was last submitted}"""
    return {
        run_id: Slot(submission, index)
        for submission in submissions.values()
        for index, run_ids in enumerate(submission.jobs)
        for run_id in run_ids
    }


def _append(results: Path, **entry: Any) -> None:
    """Appends a line and waits until it is on the disk. Starts a new line even after half a one."""
    path = home(results) / SUBMISSIONS
    with open(path, "ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(results: Path) -> Iterator[None]:
    """Lets one process at a time submit or cancel; others wait."""
    make_folder(home(results))
    path = home(results) / "lock"
    with open(path, "ab") as file:
        if not flock(file, path):
            print("waiting for another submission to end", file=sys.stderr)
            flock(file, path, wait=True)
        yield


# --- States -----------------------------------------------------------------------


def _queue(where: Mapping[str, Slot]) -> dict[tuple[str, int], Queued]:
    """SLURM's jobs of these submissions. Raises UserError if it does not answer."""
    return slurm.queue(slot.submission.name for slot in where.values())


def _cancelled_path(results: Path, submission: str) -> Path:
    """The folder with a file for each cancelled run; jobs look for these."""
    return home(results) / submission / "cancelled"


def _without_cancelled(results: Path, where: Mapping[str, Slot],
                        run_ids: Iterable[str]) -> dict[str, Slot]:  # fmt: skip
    """Where these runs were last submitted, without those that were cancelled since."""
    found = {run_id: where[run_id] for run_id in run_ids if run_id in where}
    gone: set[tuple[str, str]] = set()
    for name in {slot.submission.name for slot in found.values()}:
        with contextlib.suppress(FileNotFoundError):
            gone.update((name, run_id) for run_id in os.listdir(_cancelled_path(results, name)))
    return {r: slot for r, slot in found.items() if (slot.submission.name, r) not in gone}


def _with_job(state: State, status: run_folder.StatusRecord | None, job: Queued) -> Found:
    """The state of a run whose job SLURM has."""
    mine = (status or {}).get("executor") == f"slurm {job.job}"
    if state == State.FAILED and mine:
        return state, status  # its job goes on for other runs
    if state == State.RUNNING and not mine:
        return state, status  # by another executor
    shown = {**(status or {}), "executor": f"slurm {job.job}", "slurm": job.state}
    if job.state in WAITING or (state == State.STOPPED and mine):
        return State.QUEUED, shown  # waiting, or about to be requeued
    return State.RUNNING, shown


def _without_queue(state: State, status: run_folder.StatusRecord | None, problem: str) -> Found:
    if state in (State.RUNNING, State.FAILED):
        return state, status
    hint = "if it is gone for good: suites.cancel --forget"
    text = f"SLURM may have it and cannot be asked: {problem} ({hint})"
    return State.UNKNOWN, {**(status or {}), "slurm": problem, "unsure": text}


# --- Submission -----------------------------------------------------------------------------------


def runs_per_job(profile: Profile, runs_per_gpu: int) -> int:
    """How many runs share a job; these are neighbours in the suite, such as the seeds of a task."""
    return runs_per_gpu * max(1, profile.gpus)


def forecast(runs: int, profile: Profile, runs_per_gpu: int, size: int) -> tuple[int, int]:
    """(jobs, calls of sbatch) for so many runs, in arrays of at most `size` jobs."""
    jobs = slurm.chunks(range(runs), runs_per_job(profile, runs_per_gpu))
    return len(jobs), len(slurm.chunks(jobs, size))


def submit(specs: Sequence[Spec], request: Request, profile: Profile) -> int:
    """Submits the runs that are neither done nor running nor queued, and returns when SLURM has
    them. Returns the exit code: 0 if none is left to submit."""
    results = request.results.resolve()
    slurm.check_folder(results)
    size = slurm.array_size(profile)
    with _locked(results):
        where = slots(read_submissions(results))
        where = _without_cancelled(results, where, (spec.run_id for spec in specs))
        queue = _queue(where)  # raises if SLURM does not answer: nothing is submitted then
        todo = [s for s in specs if not _is_taken(s, where.get(s.run_id), queue)]
        if len(todo) < len(specs):
            print(f"queued or running already: {counted(len(specs) - len(todo), 'run')}")
        if not todo:
            return 0
        version = provenance.code()._asdict()
        code = snapshot(provenance.ROOT, version, home(results) / "code")
        jobs = slurm.chunks(todo, runs_per_job(profile, request.runs_per_gpu))
        left_out: list[list[Spec]] = []
        if profile.max_submit_jobs:
            room = max(0, profile.max_submit_jobs - slurm.own_jobs())
            jobs, left_out = jobs[:room], jobs[room:]
        arrays: list[str] = []
        for chunk in slurm.chunks(jobs, size):
            try:
                arrays.append(_submit_array(chunk, results, request.suite, profile, code))
            except UserError as error:
                _print_submitted(arrays, jobs, size)
                print(f"error: {error}", file=sys.stderr)
                print("the same command submits the rest", file=sys.stderr)
                return 1
        _print_submitted(arrays, jobs, size)
        if left_out:
            count = sum(map(len, left_out))
            wait = f"{counted(count, 'run')} {'waits' if count == 1 else 'wait'}"
            print(f"{wait}: max_submit_jobs is {profile.max_submit_jobs}; "
                  "the same command submits more once there is room")  # fmt: skip
    return 1 if left_out else 0


def _is_taken(spec: Spec, slot: Slot | None,
              queue: Mapping[tuple[str, int], Queued]) -> bool:  # fmt: skip
    state, status = look(spec.folder, spec.config)
    job = queue.get(slot.key) if slot else None
    if job is not None:
        state, _ = _with_job(state, status, job)
    return state in (State.DONE, State.RUNNING, State.QUEUED)


def _submit_array(jobs: Sequence[Sequence[Spec]], results: Path, suite: str, profile: Profile,
                  code: Path) -> str:  # fmt: skip
    """One call of sbatch, recorded before and after; returns SLURM's number of the array."""
    name = re.sub(r"[^\w.-]", "_", suite) + f"-{uuid.uuid4().hex[:10]}"
    folder = home(results) / name
    cancelled = _cancelled_path(results, name)
    make_folder(cancelled)
    delay_s = int(profile.options.get("signal_delay_s", 90))
    for_slurm = [
        Job(
            tasks=[RunTask(s.run_id, str(s.folder.resolve()), s.to_json()) for s in specs],
            module=WORKER,
            code=str(code),
            folder=os.getcwd(),
            cancelled=str(cancelled),
            signal_delay_s=delay_s,
            requeue=profile.requeue,
        )
        for specs in jobs
    ]
    run_ids = [[spec.run_id for spec in specs] for specs in jobs]
    budgets = {spec.run_id: spec.config["env_steps"] for specs in jobs for spec in specs}
    _append(results, batch=name, jobs=run_ids, budgets=budgets, suite=suite, profile=profile.name,
            code=code.name, time=run_folder.now())  # fmt: skip
    try:
        array = slurm.submit_array(for_slurm, folder, name, profile)
    except UserError as error:
        _append(results, batch=name, failed=str(error))
        raise
    _append(results, batch=name, array=array)
    return array


def _print_submitted(arrays: Sequence[str], jobs: Sequence[Sequence[Spec]], size: int) -> None:
    sent = jobs[: len(arrays) * size]
    runs, calls = counted(sum(map(len, sent)), "run"), counted(len(arrays), "call")
    names = ", ".join(arrays[:5]) + (" ..." if len(arrays) > 5 else "")
    print(f"submitted {runs} as {counted(len(sent), 'job')} with {calls} of sbatch"
          + (f": {names}" if arrays else ""))  # fmt: skip


# --- Cancelling -----------------------------------------------------------------------------------


def cancel(results: Path, run_ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """Cancels runs; returns (those that SLURM had, jobs cancelled). Running ones save a checkpoint
    and stop; other runs of the same job go on."""
    results = results.resolve()
    wanted = set(run_ids)
    with _locked(results):
        submissions = read_submissions(results)
        where = {r: slot for r, slot in slots(submissions).items() if r in wanted}
        queue = _queue(where)
        had = [r for r, slot in where.items() if slot.key in queue]
        _mark_cancelled(results, had, where)
        jobs = []
        for name, index in {where[r].key for r in had}:
            if all(_is_over(results, submissions[name], r) for r in submissions[name].jobs[index]):
                jobs.append(queue[name, index].job)
        slurm.cancel(sorted(jobs))
    return had, jobs


def forget_runs(results: Path, run_ids: Iterable[str]) -> list[str]:
    """Cancels runs without asking SLURM, because the cluster is gone for good. Returns those that
    were submitted and are not done. If their jobs exist after all, these runs save and stop."""
    results = results.resolve()
    with _locked(results):
        where = _without_cancelled(results, slots(read_submissions(results)), run_ids)
        had = [r for r, slot in where.items() if _state(results, r, slot.submission) != State.DONE]
        _mark_cancelled(results, had, where)
    return had


def _mark_cancelled(results: Path, run_ids: Iterable[str], where: Mapping[str, Slot]) -> None:
    for run_id in run_ids:
        cancelled = _cancelled_path(results, where[run_id].submission.name)
        make_folder(cancelled)
        (cancelled / run_id).touch()


def _state(results: Path, run_id: str, submission: Submission) -> State:
    """The state by the run's own records, seen from the budget that was submitted."""
    state, status = look(run_folder.run_path(results, run_id))
    budget = submission.budgets.get(run_id, 0)
    unfinished = state == State.DONE and not run_folder.is_complete(status or {}, budget)
    return State.STOPPED if unfinished else state


def _is_over(results: Path, submission: Submission, run_id: str) -> bool:
    if (_cancelled_path(results, submission.name) / run_id).exists():
        return True
    return _state(results, run_id, submission) in (State.DONE, State.FAILED)
