"""Submits arrays of jobs through submitit, and asks SLURM about its queue.

Knows jobs, not runs or suites. suites/execution/cluster.py decides what is submitted.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer.errors import UserError, printable
from slurm import job as in_job
from slurm.ask import ask
from slurm.job import Job
from slurm.profiles import Profile
from suites.execution.environment import module_paths

DEFAULT_ARRAY_SIZE = 1000


class Queued(NamedTuple):
    """A job that SLURM has."""

    job: str  # 12_3, or 12 where there is no array
    state: str  # as squeue says: PENDING, RUNNING, COMPLETING, ...


# --- Submission -----------------------------------------------------------------------------------


def array_size(profile: Profile) -> int:
    """The largest array: `max_array_size` of the profile, else the limit of the cluster."""
    if profile.max_array_size:
        return profile.max_array_size
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    # Indices are below MaxArraySize; 0 means that arrays are off.
    return max(1, min(int(found[1]), DEFAULT_ARRAY_SIZE)) if found else DEFAULT_ARRAY_SIZE


def chunks(jobs: Sequence[Any], size: int) -> list[list[Any]]:
    """The jobs in order, in lists of at most `size`."""
    return [list(jobs[i : i + size]) for i in range(0, len(jobs), size)]


def check_folder(folder: Path) -> None:
    """Raises UserError for a results folder where sbatch cannot write logs: it replaces %j and the
    like in their names, takes a backslash away, and reads its options line by line."""
    for character, name in (("%", "%"), ("\\", "backslash"), ("\n", "line break")):
        if character in str(folder):
            text = f"SLURM cannot write where a {name} is in the path"
            raise UserError(f"--results {printable(str(folder))}: {text}; choose another")


def submit_array(jobs: Sequence[Job], folder: Path, name: str, profile: Profile) -> str:
    """One sbatch call; returns SLURM's number of the array. submitit's files and the jobs' logs
    are in `folder`. Raises UserError with sbatch's message."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("no sbatch here: submit from a machine of the cluster")
    executor = submitit.SlurmExecutor(folder=folder)
    paths = os.pathsep.join([jobs[0].code, *module_paths()])
    setup = [
        *profile.options.get("setup", []),
        f"cd {shlex.quote(jobs[0].code)}",
        # After the code: the folders in which the user's own modules were found at submission.
        f"export PYTHONPATH={shlex.quote(paths)}${{PYTHONPATH:+:$PYTHONPATH}}",
        *(f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()),
    ]
    more: dict[str, Any] = {"requeue": True} if profile.requeue else {"no-requeue": True}
    try:
        executor.update_parameters(**{
            **profile.options,
            "job_name": name,
            "stderr_to_stdout": True,
            "setup": setup,
            "additional_parameters": {**more, **profile.sbatch},
        })  # fmt: skip
        submitted = executor.map_array(in_job.execute, list(jobs))
    except (FailedJobError, FailedSubmissionError) as error:
        lines = [line for line in str(error).splitlines() if "sbatch: error" in line]
        raise UserError(f"sbatch: {' '.join(lines or str(error).split())}") from None
    except (TypeError, ValueError, OSError) as error:
        raise UserError(f"profile {profile.name}: {' '.join(str(error).split())}") from None
    return submitted[0].job_id.split("_")[0]


# --- Queue -----------------------------------------------------------------------------


def queue(names: Iterable[str]) -> dict[tuple[str, int], Queued]:
    """{(name, index in its array): job} of all jobs with these names that have not ended; one
    call. Raises UserError if SLURM cannot be asked, which is not the same as an empty queue."""
    words = ["squeue", "--noheader", "--array", "--format=%F|%K|%T|%j"]
    names = sorted(set(names))
    if not names:
        return {}
    if len(names) <= 500:
        words.append(f"--name={','.join(names)}")
    found = {}
    for line in ask(*words).splitlines():
        array, index, state, name = line.strip().split("|", 3)
        in_array = index.isdecimal()
        job = f"{array}_{index}" if in_array else array
        found[name, int(index) if in_array else 0] = Queued(job, state)
    return found


def own_jobs() -> int:
    """How many jobs of this user SLURM has, of any kind; each job of an array counts."""
    words = ("squeue", "--noheader", "--array", f"--user={os.geteuid()}", "--format=%i")
    return len(ask(*words).splitlines())


def cancel(jobs: Sequence[str]) -> None:
    """scancel, in a few calls."""
    for some in chunks(list(jobs), 500):
        ask("scancel", *some)
