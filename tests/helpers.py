"""What several test files need: a small suite, one quick run, a MongoDB server, profiles."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from analysis import synthetic
from dreamer import run_folder
from dreamer.config import make_config
from dreamer.run_folder import State, Status
from slurm.profiles import Profile, load_profile
from suites import run
from suites.execution.attempt import execute
from suites.execution.executor import Found, Withdrawn
from suites.execution.executors import EXECUTORS, states
from suites.execution.spec import Spec
from suites.language.identity import run_id
from suites.language.suite import Run, expand

ROOT = Path(__file__).parents[1]
SUITE = """
about: three quick runs on a toy
preset: tiny
device: cpu
seeds: 3
env_steps: 300
time_limit_env_steps: 60
length: 10
batch_size: 4
seed_episodes: 2
first_updates: 4
updates_per_1000_env_steps: 40
log_every_updates: 3
eval_every_env_steps: 100
eval_episodes: 1
checkpoint_every_env_steps: 60
grid:
  task: toy_dot
"""
QUICK = {
    "task": "toy_dot",
    "device": "cpu",
    "env_steps": 300,
    "time_limit_env_steps": 60,
    "length": 10,
    "batch_size": 4,
    "seed_episodes": 2,
    "first_updates": 4,
    "updates_per_1000_env_steps": 40,
    "log_every_updates": 3,
    "eval_every_env_steps": 100,
    "eval_episodes": 1,
    "checkpoint_every_env_steps": 60,
}


def suite_file(folder: Path, text: str, name: str = "suite") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def write_scores(
    results: Path, run: Run, score: float | None, until: int = 0, status: str = Status.COMPLETED
) -> None:
    """Records of a run: evaluations every 1000 env_steps (up to `until`) with the same return."""
    folder = synthetic.write_run(results, run.run_id, run.config, status=status)
    end = until or run.config["env_steps"]
    write_evaluations(folder, [(env_steps, score) for env_steps in range(1000, end + 1, 1000)])


def write_evaluations(folder: Path, points: Sequence[tuple[int, float | None]]) -> None:
    """The record of a run with these evaluations, (env_steps, return) each."""
    lines = [{"kind": "evaluate", "env_steps": s, "evaluate_return": value} for s, value in points]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / run_folder.METRICS).write_text(text)


def spec_in(results: Path, **settings) -> Spec:
    config = vars(make_config("tiny", QUICK | settings))
    return Spec(run_id(config), dict(config), ["test"], str(results))


def metrics_of(spec: Spec) -> list[dict]:
    """What was computed: all records but those of wall-clock time."""
    lines = (spec.folder / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] != "time"]


def worker(spec: Spec) -> subprocess.Popen[bytes]:
    """The process that executes a run, with an open stdin."""
    process = subprocess.Popen(
        [sys.executable, "-m", "suites.execution.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(spec.to_json().encode() + b"\n")
    process.stdin.flush()
    return process


def python(
    program: str, *words: object, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, which may import what tests may."""
    folders = [ROOT, ROOT / "tests", ROOT / "tests" / "dreamer", ROOT / "tests" / "stand_ins"]
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
    )


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def profile_of(tmp_path: Path, options: str) -> Profile:
    """The SLURM profile with these lines."""
    path = tmp_path / "profiles.yaml"
    path.write_text("lab:\n" + "".join(f"  {line}\n" for line in options.splitlines()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMER_SLURM_PROFILES", str(path))
        return load_profile("lab")


def check_executor(name: str, folder: Path, more: str = "", seconds: float = 300.0) -> None:
    """The contract of executors, by the commands: runs are executed once and recorded alike, one
    that fails stops no other, finished ones are skipped. `more`: lines for the suite."""
    suite, results = folder / f"{name}.yaml", folder / f"results-{name}"
    text = SUITE.replace("seeds: 3", "seeds: 1") + "  model_learning_rate: [1e30, 1e-3]\n"
    suite.write_text(f"executor: {name}\n{more}{text}")
    failing, fine = expand(suite).runs
    words = [str(suite), "--results", str(results)]
    assert EXECUTORS[name].missing() is None
    assert run.main(words) in (0, 1)  # submitted, or ended with a failure

    def found() -> list[Found]:
        return [*states(results, {r.run_id: r.config for r in (failing, fine)}).values()]

    wait_until(lambda: [state for state, _ in found()] == [State.FAILED, State.DONE], seconds)
    for _, status in found():
        assert status and status["attempt"] == 1 and status["executor"].split()[0] == name
    expected = Spec(fine.run_id, fine.config, ["test"], str(folder / "expected"))
    if not expected.folder.exists():
        assert execute(expected)["status"] == Status.COMPLETED
    ours = Spec(fine.run_id, fine.config, ["test"], str(results))
    assert metrics_of(ours) == metrics_of(expected)
    before = {p: p.stat().st_mtime_ns for p in ours.folder.rglob("*")}
    assert run.main(words) == 1  # one has failed, and is not tried again
    assert run_folder.attempts(run_folder.run_path(results, failing.run_id)) == [1]
    assert run.main([*words, "--only", f"run_id={fine.run_id}"]) == 0
    assert {p: p.stat().st_mtime_ns for p in ours.folder.rglob("*")} == before
    both = [failing.run_id, fine.run_id]  # their processes may take a moment to end
    wait_until(lambda: EXECUTORS[name].withdraw(results, both, False) == Withdrawn(), seconds)
    assert run.main([*words, "--plan"]) == 0


class Server:
    """nx-27017 on loopback, its data on disk: it can be stopped and started again. Where
    DREAMER_TEST_MONGO_URL names a MongoDB, it is that, with a database for each test."""

    def __init__(self, folder: Path):
        pytest.importorskip("pymongo")
        self.folder, self.name = folder, f"dreamer_test_{uuid.uuid4().hex[:12]}"
        self.given = os.environ.get("DREAMER_TEST_MONGO_URL")
        if self.given:
            parts = urllib.parse.urlsplit(self.given)
            self.url = urllib.parse.urlunsplit(parts._replace(path=f"/{self.name}"))
            return
        pytest.importorskip("nx_27017")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"mongodb://127.0.0.1:{self.port}/{self.name}"

    def start(self) -> None:
        if self.given:
            return
        words = [str(Path(sys.executable).with_name("nx-27017")), "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--db", str(self.folder / "records.db")]
        words += ["--pid-file", str(self.folder / "pid"), "--log-file", str(self.folder / "log")]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 60
        while not self.listens():
            assert time.monotonic() < deadline and self.process.poll() is None, "no server"
            time.sleep(0.1)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def fill_up(self) -> None:
        """From now on its process can write nothing to files: a disk without room for a byte."""
        _, most = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (0, most))

    def make_room(self) -> None:
        _, most = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (most, most))

    def kill(self) -> None:
        if self.given:
            self.database.client.drop_database(self.name)
            return
        self.process.kill()
        self.process.wait()

    @property
    def database(self):
        pymongo = pytest.importorskip("pymongo")
        return pymongo.MongoClient(self.url, serverSelectionTimeoutMS=5000)[self.name]


def killed_at(number: int, action: Callable[[], object], files: tuple[str, ...]) -> bool:
    """Runs `action` in a child that kills itself at the line number `number` of all lines of these
    files that it executes. Returns whether it came so far."""
    child = os.fork()
    if not child:
        left = number

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.endswith(files):
                return None
            left -= event == "line"
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        threading.settrace(trace)
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL
