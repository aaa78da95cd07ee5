"""What an executor is. To add one, write a class in this folder and add it to executors.py. The
commands know no executor by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from dreamer.run_folder import State, StatusRecord
from suites.execution.spec import Spec

Found = tuple[State, StatusRecord | None]  # the state of a run, and its status.json


@dataclass(frozen=True)
class Request:
    """What a command asks of an executor, apart from the runs."""

    results: Path
    suite: str = "suite"  # the name for what is submitted
    workers: int | None = None  # runs at a time; None: as many as suits the executor
    runs_per_gpu: int = 1
    on_gpu: bool = True  # whether a run may use a GPU
    profile: str | None = None  # of slurm/profiles.yaml
    observers: tuple[str, ...] = ()  # MongoDB URLs of the suites
    doctor: bool = False  # check a machine of the executor first
    disk_gb: float = 0.0  # that the runs will need


@dataclass(frozen=True)
class Withdrawn:
    """What `withdraw` did."""

    run_ids: list[str] = field(default_factory=list)  # that the executor had
    jobs: list[str] = field(default_factory=list)  # that it cancelled


class Capacity(NamedTuple):
    """How many runs an executor executes at a time, and on what."""

    runs: int
    device: str  # gpu | cpu


class Executor(Protocol):
    """Executes runs, on this machine or elsewhere.

    An executor that waits until its runs have ended needs only `at_a_time` and `execute`. One that
    submits and returns overrides the other methods as well.
    """

    name: str  # in suites (`executor: NAME`) and for --executor
    on_this_machine: bool = True  # if so, more than a day of work needs a confirmation

    def at_a_time(self, request: Request) -> Capacity:
        """How many runs it executes at a time, for the forecast."""
        ...

    def execute(self, specs: Sequence[Spec], request: Request) -> int | None:
        """Executes the runs, each by `suites.execution.attempt.execute` or in a process of its own
        (`python -m suites.execution.worker`). Returns None when they have ended, or, if they go on
        elsewhere, the command's exit code: 0 if all were submitted. Raises UserError."""
        ...

    def missing(self) -> str | None:
        """Why it cannot be used on this machine; None if it can."""
        return None

    def forecast(self, runs: int, request: Request) -> str | None:
        """A line of `--plan` about submitting so many runs; submits nothing."""
        return None

    def states(self, results: Path, found: Mapping[str, Found]) -> dict[str, Found]:
        """The states in `found`, changed where the executor knows more than the runs' own records:
        QUEUED for runs that wait; UNKNOWN, with the reason as `unsure` in the status, if it may
        have a run and cannot tell."""
        return dict(found)

    def unneeded(self, results: Path, remove: Path | None = None) -> list[Path]:
        """Folders of the executor that nothing needs any more: no run to resume, no audit. `remove`
        is removed if it is one of them."""
        return []

    def withdraw(self, results: Path, run_ids: Iterable[str], forget: bool) -> Withdrawn:
        """Cancels runs; running ones save a checkpoint and stop. `forget`: only record that they
        are cancelled, because the cluster is gone for good."""
        return Withdrawn()
