"""The contract of executors, kept by those that are committed and by one that is defined here.

SLURM keeps the same contract in tests/slurm/test_slurm.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from helpers import ROOT, SUITE, check_executor, spec_in, wait_until

from dreamer import run_folder
from dreamer.run_folder import State
from suites import cancel, run
from suites.execution.environment import worker_environment
from suites.execution.executor import Capacity, Executor, Found, Request, Withdrawn
from suites.execution.executors import EXECUTORS, states
from suites.execution.spec import WORKER, Spec
from suites.language import identity
from suites.language.suite import expand


class Folders(Executor):
    """Starts each attempt as a process in a folder of its own, one at a time, and returns at once;
    whoever asks for states moves the queue on."""

    name = "folders"
    on_this_machine = False

    def __init__(self, home: Path):
        self.home = home
        self.waiting: dict[str, Spec] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def at_a_time(self, request: Request) -> Capacity:
        return Capacity(1, "cpu")

    def execute(self, specs: Sequence[Spec], request: Request) -> int:
        self.waiting.update({spec.run_id: spec for spec in specs})
        return 0

    def alive(self) -> dict[str, subprocess.Popen[bytes]]:
        return {r: process for r, process in self.running.items() if process.poll() is None}

    def _move_on(self) -> None:
        while self.waiting and not self.alive():
            run_id = next(iter(self.waiting))
            spec = self.waiting.pop(run_id)
            folder = self.home / run_id
            folder.mkdir(parents=True, exist_ok=True)
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER], cwd=folder, stdin=subprocess.PIPE,
                env=worker_environment(ROOT, 0, 1, [], 1),
            )  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(spec.to_json().encode() + b"\n")
            process.stdin.flush()  # and stays open: its end would stop the run
            self.running[run_id] = process

    def states(self, results: Path, found: Mapping[str, Found]) -> dict[str, Found]:
        self._move_on()
        taken = {r for r in (*self.waiting, *self.alive()) if found.get(r, (None,))[0] in OPEN}
        return {r: (State.QUEUED, s[1]) if r in taken else s for r, s in found.items()}

    def withdraw(self, results: Path, run_ids: Iterable[str], forget: bool) -> Withdrawn:
        had = [r for r in run_ids if r in self.waiting or r in self.alive()]
        for run_id in had:
            if self.waiting.pop(run_id, None) is None:
                self.running[run_id].terminate()
        return Withdrawn(had, had)


OPEN = (State.MISSING, State.STOPPED, State.DEAD)


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Iterator[Folders]:
    """The executor, registered."""
    executor = Folders(tmp_path / "folders")
    monkeypatch.setitem(EXECUTORS, executor.name, executor)
    yield executor
    for process in executor.running.values():
        process.kill()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DREAMER_MONGO_URL", "")


@pytest.mark.parametrize("name", ["local", "debug", "folders"])
def test_the_contract(name, folders, tmp_path):
    check_executor(name, tmp_path)


def test_every_committed_executor_is_tested():
    assert set(EXECUTORS) == {"local", "debug", "slurm"}
    assert all(executor.name == name for name, executor in EXECUTORS.items())


def test_debug_launches_updates_one_by_one_in_the_same_run(tmp_path):
    spec = spec_in(tmp_path, env_steps=120)
    assert EXECUTORS["debug"].execute([spec], Request(tmp_path)) is None
    config = json.loads((spec.folder / run_folder.CONFIG).read_text())
    assert config["cuda_graph"] == "off"
    assert identity.run_id(config) == spec.run_id


def test_an_executor_of_one_s_own_is_cancelled_and_planned_like_others(folders, tmp_path, capsys):
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.replace("env_steps: 300", "env_steps: 1e6") + "executor: folders\n")
    words = [str(suite), "--results", str(tmp_path / "results")]
    assert run.main([*words, "--plan"]) == 0
    assert "with 1 at a time" in capsys.readouterr().out
    assert run.main(words) == 0

    def now() -> list[State]:
        found = states(tmp_path / "results", {r.run_id: r.config for r in expand(suite).runs})
        return [state for state, _ in found.values()]

    wait_until(lambda: now() == [State.RUNNING, State.QUEUED, State.QUEUED])
    wait_until(lambda: [p for p in tmp_path.rglob("metrics.jsonl") if p.stat().st_size])
    capsys.readouterr()
    assert run.main(words) == 1  # nothing is submitted twice
    assert capsys.readouterr().err.count("skip  ") == 3
    assert cancel.main(words) == 0
    assert "3 of 3 runs were queued or running; 3 jobs cancelled" in capsys.readouterr().out
    wait_until(lambda: now() == [State.STOPPED, State.MISSING, State.MISSING])


def test_a_name_that_no_executor_has_is_refused_with_its_place(tmp_path, capsys):
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE + "executor: slrum\n")
    assert run.main([str(suite), "--dry-run"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("executor: no 'slrum'; did you mean 'slurm'?")
