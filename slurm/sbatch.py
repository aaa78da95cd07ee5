"""Submits jobs to SLURM through submitit: profiles, arrays below the cluster's limits.

Knows jobs, not suites: what is submitted, when, and what is remembered of it is
suites/execution/cluster.py.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dreamer.config import UserError, nearest
from slurm import job as in_job
from slurm.job import Job

PROFILES = Path(__file__).with_name("profiles.yaml")
ASK_WITHIN_S = 60  # a controller that does not answer by then is not reachable
DEFAULT_ARRAY_SIZE = 1000
OWN_OPTIONS = ("environment", "sbatch", "max_submit_jobs", "max_array_size", "requeue")
RESERVED = ("job_name", "additional_parameters", "ntasks_per_node", "nodes", "use_srun")


class Profile(NamedTuple):
    """How to ask for resources."""

    name: str
    options: dict[str, Any]  # submitit's
    environment: dict[str, str]
    sbatch: dict[str, Any]  # further options of sbatch: {name: value, or True for a flag}
    max_submit_jobs: int | None
    max_array_size: int | None
    requeue: bool

    @property
    def gpus(self) -> int:
        return int(self.options.get("gpus_per_node") or 0)


class Queued(NamedTuple):
    """A job that SLURM has."""

    job: str  # 12_3, or 12 where there is no array
    state: str  # as squeue says: PENDING, RUNNING, COMPLETING, ...


# --- Profiles -------------------------------------------------------------------------------------


def load_profile(name: str | None) -> Profile:
    """The profile, by default `default`. Raises UserError naming file, profile and option."""
    path = Path(os.environ.get("DREAMER_SLURM_PROFILES") or PROFILES)
    try:
        profiles = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise UserError(f"{path}: profiles are expected, each a mapping of options")
    name = name or "default"
    if name not in profiles:
        raise UserError(f"{path}: no profile {name!r}; {nearest(name, map(str, profiles))}")
    return make_profile(name, profiles[name], f"{path}: {name}")


def make_profile(name: str, given: dict[str, Any], where: str) -> Profile:
    """The profile with its options checked."""
    valid = valid_options()
    for key in given:
        if key not in valid and key not in OWN_OPTIONS:
            names = ", ".join((*sorted(valid), *OWN_OPTIONS))
            raise UserError(f"{where}: no option {key!r}; valid are {names}")
    options = {key: value for key, value in given.items() if key in valid}
    for key, kind in (("setup", list), ("srun_args", list), ("teardown", list)):
        lines = options.get(key, [])
        if not isinstance(lines, kind) or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{where}: {key}: a list of lines is expected")
    for key in ("time", "signal_delay_s", "array_parallelism", "cpus_per_task"):
        _whole(options, key, where)
    environment = given.get("environment", {})
    if not isinstance(environment, dict) or not all(
        isinstance(key, str) and re.fullmatch(r"[A-Za-z_]\w*", key) for key in environment
    ):
        raise UserError(f"{where}: environment: names and values are expected")
    requeue = given.get("requeue", True)
    if not isinstance(requeue, bool):
        raise UserError(f"{where}: requeue: true or false is expected")
    return Profile(
        name=name,
        options=options,
        environment={key: str(value) for key, value in environment.items()},
        sbatch=_sbatch_options(given.get("sbatch", []), where),
        max_submit_jobs=_whole(given, "max_submit_jobs", where),
        max_array_size=_whole(given, "max_array_size", where),
        requeue=requeue,
    )


def valid_options() -> set[str]:
    """submitit's, without those that belong to this module."""
    from submitit import SlurmExecutor

    return SlurmExecutor._valid_parameters() - set(RESERVED)


def _whole(given: dict[str, Any], key: str, where: str) -> int | None:
    value = given.get(key)
    if value is not None and (type(value) is not int or value < 1):
        raise UserError(f"{where}: {key}: a whole number, at least 1, is expected")
    return value


def _sbatch_options(lines: Any, where: str) -> dict[str, Any]:
    """["--reservation=lab", "--exclusive"] -> {"reservation": "lab", "exclusive": True}"""
    if not isinstance(lines, list):
        raise UserError(f"{where}: sbatch: a list of options is expected")
    options: dict[str, Any] = {}
    for line in lines:
        found = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", str(line))
        if not found:
            raise UserError(f"{where}: sbatch: {line}: --option or --option=value is expected")
        options[found[1]] = found[2] or True
    return options


# --- Submission -----------------------------------------------------------------------------------


def array_size(profile: Profile) -> int:
    """How many jobs fit in an array: what the profile says, else the cluster."""
    if profile.max_array_size:
        return profile.max_array_size
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    # Indices are below MaxArraySize; 0 means that arrays are off.
    return max(1, min(int(found[1]), DEFAULT_ARRAY_SIZE)) if found else DEFAULT_ARRAY_SIZE


def chunks(jobs: Sequence[Any], size: int) -> list[list[Any]]:
    """In order, each at most `size`; one sbatch call each."""
    return [list(jobs[i : i + size]) for i in range(0, len(jobs), size)]


def submit_array(jobs: Sequence[Job], folder: Path, name: str, profile: Profile) -> str:
    """One sbatch call; returns SLURM's number of the array. submitit's files and the jobs' logs
    are in `folder`. Raises UserError with sbatch's words."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("no sbatch here: submit from a machine of the cluster")
    executor = submitit.SlurmExecutor(folder=folder)
    setup = [
        *profile.options.get("setup", []),
        f"cd {shlex.quote(jobs[0].code)}",
        f"export PYTHONPATH={shlex.quote(jobs[0].code)}${{PYTHONPATH:+:$PYTHONPATH}}",
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


# --- What SLURM knows -----------------------------------------------------------------------------


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
    """How many jobs of this user SLURM has, whatever they do; each of an array counts."""
    words = ("squeue", "--noheader", "--array", f"--user={os.geteuid()}", "--format=%i")
    return len(ask(*words).splitlines())


def cancel(jobs: Sequence[str]) -> None:
    """scancel, in a few calls."""
    for some in chunks(list(jobs), 500):
        ask("scancel", *some)


def ask(*command: str) -> str:
    """What a command of SLURM prints. Raises UserError where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_WITHIN_S, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise UserError(f"no {command[0]} here: ask from a machine of the cluster") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]}: {' '.join(str(error).split())}") from None
    if done.returncode != 0:
        raise UserError(f"{command[0]}: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout
