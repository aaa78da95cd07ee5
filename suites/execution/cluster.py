"""Runs on SLURM: which were submitted, what became of their jobs, and what to submit now.

    results/slurm/submissions.jsonl     a line for each batch (an sbatch call): which runs it has,
                                        its number once sbatch gave one, and that it failed
    results/slurm/lock                  held while someone submits or cancels
    results/slurm/<batch>/              submitit's files, the jobs' logs, what was cancelled
    results/slurm/code/<hash>/          the code that the jobs run

A batch is written down before sbatch is called, and SLURM's jobs carry its name: so even a
submission that was killed half-way submits nothing twice. All machines and users of one results
folder see the same; accounting (`sacct`) is not needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dreamer.config import UserError
from slurm import sbatch as slurm
from slurm.job import Job, Task
from slurm.sbatch import Profile, Queued
from slurm.snapshot import snapshot
from suites.language.suite import Run
from suites.record import folder as records
from suites.record import provenance

if TYPE_CHECKING:
    from suites.execution.attempt import Spec

MODULE = "suites.execution.attempt"
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT",
           "SUSPENDED", "STOPPED", "RESV_DEL_HOLD"}  # fmt: skip

Found = tuple[str, records.Status | None]  # a run's state and its status.json


class Batch(NamedTuple):
    """One sbatch call."""

    name: str
    jobs: list[list[str]]  # run_ids by index in the array
    array: str | None  # SLURM's number; None if sbatch has not answered


class Place(NamedTuple):
    """Where a run was last submitted."""

    batch: Batch
    task: int  # its index in the array


# --- The records ----------------------------------------------------------------------------------


def home(results: Path) -> Path:
    return results / "slurm"


def batches(results: Path) -> dict[str, Batch]:
    """The batches that were handed to sbatch, oldest first, without those that it refused."""
    found: dict[str, Batch] = {}
    try:
        lines = (home(results) / "submissions.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise UserError(f"{home(results)}: {error.strerror}") from None
    for line in lines:
        try:
            entry = json.loads(line)
            name = entry["batch"]
            if "jobs" in entry:
                found[name] = Batch(name, entry["jobs"], None)
            elif "array" in entry:
                found[name] = found[name]._replace(array=entry["array"])
            elif "failed" in entry:
                found.pop(name, None)
        except (ValueError, KeyError, TypeError):  # half a line: its writer was killed
            continue
    return found


def places(all_batches: Mapping[str, Batch]) -> dict[str, Place]:
    """{run_id: where it was last submitted}"""
    found = {}
    for batch in all_batches.values():
        for index, run_ids in enumerate(batch.jobs):
            for run_id in run_ids:
                found[run_id] = Place(batch, index)
    return found


def _append(results: Path, **entry: Any) -> None:
    """Durable when it returns. Begins a line of its own even after half a line."""
    path = home(results) / "submissions.jsonl"
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
    """One submits or cancels at a time; another waits."""
    records.make_folder(home(results))
    with open(home(results) / "lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another submission to end", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- What state a run is in -----------------------------------------------------------------------


def look(results: Path, runs: Iterable[Run]) -> dict[str, Found]:
    """{run_id: (state, status.json)}, from the runs' own records and SLURM's queue."""
    found = {}
    for r in runs:
        folder = records.run_folder(results, r.run_id)
        status = records.read_status(folder)
        found[r.run_id] = (records.state_of(folder, status), status)
    return with_slurm(results, found)


def with_slurm(results: Path, found: Mapping[str, Found]) -> dict[str, Found]:
    """The states as they are when SLURM's queue is looked at as well (once, if any run that is not
    done was submitted). Where SLURM cannot be asked, what only it knows is `unknown`."""
    open_runs = [run_id for run_id, (state, _) in found.items() if state != records.DONE]
    if not open_runs or not (home(results) / "submissions.jsonl").exists():
        return dict(found)
    submitted = _without_taken_back(results, places(batches(results)), open_runs)
    try:
        queue = slurm.queue(place.batch.name for place in submitted.values())
    except UserError as error:
        queue, problem = None, str(error)
    updated = dict(found)
    for run_id, place in submitted.items():
        state, status = found[run_id]
        if queue is None:
            updated[run_id] = _without_queue(state, status, problem)
            continue
        job = queue.get((place.batch.name, place.task))
        if job is not None:
            updated[run_id] = _with_job(state, status, job)
    return updated


def _marks(results: Path, batch: str) -> Path:
    """A file in this folder takes the run of that name back from its job, which looks for it."""
    return home(results) / batch / "cancelled"


def _without_taken_back(results: Path, where: Mapping[str, Place],
                        run_ids: Iterable[str]) -> dict[str, Place]:  # fmt: skip
    """Where these runs were last submitted, if they were not taken back since."""
    found = {run_id: where[run_id] for run_id in run_ids if run_id in where}
    back = set()
    for batch in {place.batch.name for place in found.values()}:
        with contextlib.suppress(FileNotFoundError):
            back.update((batch, run_id) for run_id in os.listdir(_marks(results, batch)))
    return {r: place for r, place in found.items() if (place.batch.name, r) not in back}


def _with_job(state: str, status: records.Status | None, job: Queued) -> Found:
    """A run whose job SLURM has."""
    mine = (status or {}).get("executor") == f"slurm {job.job}"
    if state == records.FAILED and mine:
        return state, status  # its job still has other runs
    if state == records.RUNNING and not mine:
        return state, status  # elsewhere
    shown = {**(status or {}), "executor": f"slurm {job.job}", "slurm": job.state}
    if job.state in WAITING or (state == records.STOPPED and mine):
        return records.QUEUED, shown  # or about to be requeued
    return records.RUNNING, shown


def _without_queue(state: str, status: records.Status | None, problem: str) -> Found:
    if state in (records.RUNNING, records.FAILED):
        return state, status
    return records.UNKNOWN, {**(status or {}), "slurm": problem}


# --- Submission -----------------------------------------------------------------------------------


def runs_per_job(profile: Profile, runs_per_gpu: int) -> int:
    """Runs that follow one another, such as the seeds of a task, share a job."""
    return runs_per_gpu * max(1, profile.gpus)


def at_a_time(profile: Profile, runs_per_gpu: int) -> int:
    """Runs that the profile lets run at the same time."""
    parallelism = profile.options.get("array_parallelism", 256)
    return parallelism * runs_per_job(profile, runs_per_gpu)


def forecast(runs: int, profile: Profile, runs_per_gpu: int, size: int) -> tuple[int, int]:
    """(jobs, calls of sbatch) that these runs take with arrays of at most `size` jobs."""
    jobs = slurm.chunks(range(runs), runs_per_job(profile, runs_per_gpu))
    return len(jobs), len(slurm.chunks(jobs, size))


def forecast_text(runs: int, profile: Profile, runs_per_gpu: int) -> str:
    """What submitting takes, in a line; submits nothing."""
    try:
        size, source = slurm.array_size(profile), ""
    except UserError:
        size, source = slurm.DEFAULT_ARRAY_SIZE, ", if arrays may be so large"
    jobs, calls = forecast(runs, profile, runs_per_gpu, size)
    each = runs_per_job(profile, runs_per_gpu)
    jobs, calls = forecast(runs, profile, runs_per_gpu, size)
    return (
        f"slurm     profile {profile.name}: {jobs:,} jobs of {each} runs, "
        f"{calls:,} calls of sbatch ({size:,} jobs each{source})"
    )


def submit(specs: Sequence[Spec], results: Path, suite: str, profile: Profile,
           runs_per_gpu: int) -> int:  # fmt: skip
    """Submits the runs that are neither done nor running nor queued; returns the exit code, 0 if
    nothing is left to submit. Returns when SLURM has them, not when they have ended."""
    results = results.resolve()
    size = slurm.array_size(profile)
    with _locked(results):
        where = places(batches(results))
        where = _without_taken_back(results, where, (spec.run_id for spec in specs))
        # This raises: whoever cannot ask must not submit.
        queue = slurm.queue(place.batch.name for place in where.values())
        todo = [s for s in specs if not _is_taken(s, where.get(s.run_id), queue)]
        if len(todo) < len(specs):
            print(f"{len(specs) - len(todo)} runs are queued or running already")
        if not todo:
            return 0
        story = provenance.code()._asdict()
        code = snapshot(provenance.ROOT, story, home(results) / "code")
        jobs = slurm.chunks(todo, runs_per_job(profile, runs_per_gpu))
        left_out: list[list[Spec]] = []
        if profile.max_submit_jobs:
            room = max(0, profile.max_submit_jobs - slurm.own_jobs())
            jobs, left_out = jobs[:room], jobs[room:]
        arrays: list[str] = []
        for chunk in slurm.chunks(jobs, size):
            try:
                arrays.append(_submit_batch(chunk, results, suite, profile, code))
            except UserError as error:
                _say_submitted(arrays, jobs, size)
                print(f"error: {error}", file=sys.stderr)
                print("the same command submits the rest", file=sys.stderr)
                return 1
        _say_submitted(arrays, jobs, size)
        if left_out:
            count = sum(map(len, left_out))
            print(f"{count} runs wait: max_submit_jobs is {profile.max_submit_jobs}; "
                  "the same command submits more once there is room")  # fmt: skip
    return 1 if left_out else 0


def _is_taken(spec: Spec, place: Place | None,
              queue: Mapping[tuple[str, int], Queued]) -> bool:  # fmt: skip
    status = records.read_status(spec.folder)
    state = records.state_of(spec.folder, status)
    job = queue.get((place.batch.name, place.task)) if place else None
    if job is not None:
        state, _ = _with_job(state, status, job)
    return state in (records.DONE, records.RUNNING, records.QUEUED)


def _submit_batch(jobs: Sequence[Sequence[Spec]], results: Path, suite: str, profile: Profile,
                  code: Path) -> str:  # fmt: skip
    """One sbatch call, written down before and after; returns SLURM's number of the array."""
    name = re.sub(r"[^\w.-]", "_", suite) + f"-{uuid.uuid4().hex[:10]}"
    folder = home(results) / name
    cancelled = _marks(results, name)
    records.make_folder(cancelled)
    delay_s = int(profile.options.get("signal_delay_s", 90))
    for_slurm = []
    for specs in jobs:
        tasks = [Task(s.run_id, str(s.folder.resolve()), s.to_json()) for s in specs]
        job = Job(tasks, MODULE, str(code), str(cancelled), delay_s, profile.requeue)
        for_slurm.append(job)
    run_ids = [[spec.run_id for spec in specs] for specs in jobs]
    _append(results, batch=name, jobs=run_ids, suite=suite, profile=profile.name,
            code=code.name, time=records.now())  # fmt: skip
    try:
        array = slurm.submit_array(for_slurm, folder, name, profile)
    except UserError as error:
        _append(results, batch=name, failed=str(error))
        raise
    _append(results, batch=name, array=array)
    return array


def _say_submitted(arrays: Sequence[str], jobs: Sequence[Sequence[Spec]], size: int) -> None:
    sent = jobs[: len(arrays) * size]
    runs = sum(map(len, sent))
    names = ", ".join(arrays[:5]) + (" ..." if len(arrays) > 5 else "")
    print(f"submitted {runs} runs as {len(sent)} jobs with {len(arrays)} calls of sbatch"
          + (f": {names}" if arrays else ""))  # fmt: skip


# --- Cancelling -----------------------------------------------------------------------------------


def cancel(results: Path, run_ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """Takes runs back from SLURM; returns (those that it had, jobs cancelled). Runs that are
    running save a checkpoint and end as `stopped`; others of their job go on."""
    results = results.resolve()
    wanted = set(run_ids)
    with _locked(results):
        all_batches = batches(results)
        where = {r: place for r, place in places(all_batches).items() if r in wanted}
        queue = slurm.queue(place.batch.name for place in where.values())
        had = [r for r, place in where.items() if (place.batch.name, place.task) in queue]
        _take_back(results, had, where)
        jobs = []
        for key in {(where[r].batch.name, where[r].task) for r in had}:
            name, index = key
            marks = _marks(results, name)
            if all(_is_over(results, marks, r) for r in all_batches[name].jobs[index]):
                jobs.append(queue[key].job)
        slurm.cancel(sorted(jobs))
    return had, jobs


def forget(results: Path, run_ids: Iterable[str]) -> list[str]:
    """Takes runs back without asking SLURM, for a cluster that is gone for good; returns those
    that were submitted and are not done. Should their jobs live after all, they stop in order."""
    results = results.resolve()
    with _locked(results):
        where = _without_taken_back(results, places(batches(results)), run_ids)
        had = [run_id for run_id in where if _state(results, run_id) != records.DONE]
        _take_back(results, had, where)
    return had


def _take_back(results: Path, run_ids: Iterable[str], where: Mapping[str, Place]) -> None:
    for run_id in run_ids:
        marks = _marks(results, where[run_id].batch.name)
        records.make_folder(marks)
        (marks / run_id).touch()


def _state(results: Path, run_id: str) -> str:
    """From the run's own records."""
    folder = records.run_folder(results, run_id)
    return records.state_of(folder, records.read_status(folder))


def _is_over(results: Path, marks: Path, run_id: str) -> bool:
    return (marks / run_id).exists() or _state(results, run_id) in (records.DONE, records.FAILED)
