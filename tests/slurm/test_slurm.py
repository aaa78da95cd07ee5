"""On a real SLURM of one node (slurm/dev_cluster.sh): submissions, stops, and what status says.

Runs are paused with SIGSTOP where something is to happen to them, so that the tests do not depend
on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import check_executor, profile_of

from dreamer import run_folder
from dreamer.checkpoint import load_checkpoint
from dreamer.config import config_from_dict
from dreamer.run_folder import checkpoint_paths
from dreamer.train import train
from slurm import job, sbatch
from suites.execution import cluster
from suites.execution.executor import Request
from suites.execution.executors import EXECUTORS
from suites.execution.executors import states as states_of
from suites.language.suite import Run, expand
from suites.record.folder import make_folder
from suites.run import choose, parse
from suites.status import collect

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm/dev_cluster.sh"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
MISSING = [n for n in NEEDED if not shutil.which(n, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
LONG_S = 900.0  # nothing here takes so long, even on a machine that is busy with other things

SUITE = {
    "preset": "tiny", "device": "cpu", "executor": "slurm", "profile": "test",
    "task": "toy_dot", "env_steps": 480, "time_limit_env_steps": 40, "seed_episodes": 2,
    "first_updates": 7, "updates_per_1000_env_steps": 100, "eval_every_env_steps": 240,
    "eval_episodes": 1, "checkpoint_every_env_steps": 80, "log_every_updates": 5, "batch_size": 4,
    "length": 5, "horizon": 3, "conv_depth": 2, "deter_size": 12, "stoch_size": 4,
    "hidden_size": 12, "dense_units": 12,
}  # fmt: skip
QUICK = {"env_steps": 200, "eval_every_env_steps": 200}
SMALL = {"time": 30, "cpus_per_task": 1, "mem": "500MB", "environment": {"OMP_NUM_THREADS": 1}}
PROFILES = {
    "test": SMALL,
    "brief": {**SMALL, "time": 2, "signal_delay_s": 30},
    "held": {**SMALL, "sbatch": ["--hold"], "max_array_size": 2},
    "few": {**SMALL, "sbatch": ["--hold"], "max_submit_jobs": 3},
    "set_up": {**SMALL, "setup": ["export DREAMER_MONGO_URL=mongodb://me:secret@127.0.0.1:9/x"]},
}


def needs_slurm(test: Any) -> Any:
    """Skipped where SLURM is not installed, but never in CI."""
    missing = pytest.mark.skipif(
        bool(MISSING) and not os.environ.get("CI"),
        reason=f"no {', '.join(MISSING)}: .ci/system_packages.sh slurm",
    )
    return pytest.mark.slow(missing(test))


@pytest.fixture
def slurm(running_cluster: dict[str, str]) -> dict[str, str]:
    """The environment of someone who uses the cluster; its queue is empty, whatever the test
    before left."""
    if queue():
        sbatch.ask("scancel", f"--user={os.geteuid()}")
        wait_for(lambda: not queue(), "an empty queue")
    return running_cluster


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, pytest.MonkeyPatch.context() as p:
        profiles = Path(folder, "profiles.yaml")
        profiles.write_text(yaml.safe_dump(PROFILES))
        p.setenv("DEV_CLUSTER", f"{folder}/cluster")
        p.setenv("SLURM_CONF", f"{folder}/cluster/slurm.conf")
        p.setenv("DREAMER_SLURM_PROFILES", str(profiles))
        p.setenv("OMP_NUM_THREADS", "1")
        try:
            subprocess.run([SCRIPT, "start"], check=True, timeout=180)
            yield dict(os.environ)
        finally:
            subprocess.run([SCRIPT, "stop"], check=False, timeout=180)


def write_suite(path: Path, **settings: Any) -> Path:
    path.write_text(yaml.safe_dump({**SUITE, **settings}))
    return path


def start(module: str, suite: Path, *more: object, cwd: Path = ROOT,
          path: str = "") -> subprocess.Popen[str]:  # fmt: skip
    results = suite.parent / "results"
    words = [sys.executable, "-m", f"suites.{module}", str(suite), "--results", str(results)]
    environment = {**os.environ, "PATH": path or os.environ["PATH"], "PYTHONPATH": str(cwd)}
    return subprocess.Popen([*words, *map(str, more)], cwd=cwd, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def command(module: str, suite: Path, *more: object, **options: Any) -> tuple[int, str, str]:
    process = start(module, suite, *more, **options)
    out, err = process.communicate(timeout=LONG_S)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def states(suite: Path) -> dict[int, str]:
    """{seed: state} as `suites.status` tells."""
    return {
        row["seed"]: row["state"] for row in collect(suite.parent / "results", expand(suite).runs)
    }


def errors(text: str) -> int:
    return sum(line.startswith("error:") for line in text.splitlines())


def by_seed(suite: Path) -> dict[int, tuple[Run, Path]]:
    results = suite.parent / "results"
    runs = expand(suite).runs
    return {r.config["seed"]: (r, run_folder.run_path(results, r.run_id)) for r in runs}


def queue() -> list[tuple[str, str]]:
    """(job, state) of everything that SLURM has."""
    lines = sbatch.ask("squeue", "--noheader", "--array", "--format=%F_%K %T").splitlines()
    return [(line.split()[0], line.split()[1]) for line in lines]


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.3)


def pause(folders: dict[int, Path]) -> dict[int, int]:
    """Stops each run once it has a checkpoint. {seed: process}"""
    paused: dict[int, int] = {}

    def look() -> bool:
        for seed in folders.keys() - paused.keys():
            if checkpoint_paths(folders[seed] / "checkpoints"):
                process = pause_if_running(folders[seed])
                assert process, f"seed {seed} was too quick"
                paused[seed] = process
        return paused.keys() == folders.keys()

    wait_for(look, "a checkpoint of each run")
    return paused


def pause_if_running(folder: Path) -> int | None:
    """Its process, unless it has ended."""
    wait_for(lambda: checkpoint_paths(folder / "checkpoints"), "a checkpoint")
    status = run_folder.read_status(folder)
    if not status or status["status"] != "RUNNING":
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(status["pid"], signal.SIGSTOP)
        return status["pid"]
    return None


def go_on(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # SLURM may have woken and ended it already
        os.kill(process, signal.SIGCONT)


def late_log(suite: Path) -> str:
    [path] = (suite.parent / "results/slurm").glob(f"{suite.stem}-*/*.out")
    return path.read_text()


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def jobs(folders: dict[int, Path]) -> dict[int, str]:
    found = {}
    for seed, folder in folders.items():
        status = run_folder.read_status(folder)
        assert status
        found[seed] = status["executor"].removeprefix("slurm ")
    return found


def endings(folder: Path) -> list[str]:
    """Why each attempt ended, where its job could still say so."""
    paths = [folder / f"attempts/{n}/slurm.json" for n in run_folder.attempts(folder)]
    return [json.loads(path.read_text())["ended"] for path in paths if path.exists()]


def metrics(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if not k.startswith("seconds_")} for r in lines]


def assert_same_as_uninterrupted(run: Run, folder: Path, tmp_path: Path) -> None:
    """Bit for bit: every metric, once, and the last weights, optimisers and counters."""
    expected = tmp_path / "uninterrupted" / run.run_id
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert train(config_from_dict(run.config), expected).status == "COMPLETED"
    finally:
        torch.set_num_threads(threads)
    assert metrics(folder) == metrics(expected)
    ours, theirs = (
        load_checkpoint(checkpoint_paths(f / "checkpoints")[-1]) for f in (folder, expected)
    )
    same = ("agent", "counters", "replay", "sums", "returns")
    flat = [_flat({key: content[key] for key in same}) for content in (ours, theirs)]
    assert flat[0].keys() == flat[1].keys() and len(flat[0]) > 50
    for name, value in flat[0].items():
        other = flat[1][name]
        assert torch.equal(value, other) if torch.is_tensor(value) else value == other, name


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = [_flat(v, f"{name}.{k}") for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [_flat(v, f"{name}.{k}") for k, v in enumerate(value)]
    else:
        return {name: value}
    return {k: v for part in parts for k, v in part.items()}


@needs_slurm
def test_slurm_keeps_the_contract_of_executors(slurm, tmp_path):
    """That of tests/suites/test_executors.py."""
    check_executor("slurm", tmp_path, "profile: test\n", LONG_S)


# --- Survival -------------------------------------------------------------------------------------


@needs_slurm
def test_whatever_happens_to_jobs_the_results_are_the_same(slurm, tmp_path):
    """Eight runs, each with its own misfortune, and a ninth that times out."""
    (tmp_path / "late").mkdir()
    late = write_suite(tmp_path / "late/late.yaml", seeds=[8], profile="brief")
    suite = write_suite(tmp_path / "suite.yaml", seeds=8)
    folders = {seed: folder for seed, (_, folder) in by_seed(suite).items()}
    both = [start("run", suite) for _ in range(2)]  # two people submit at once
    said = [process.communicate(timeout=LONG_S) for process in both]
    assert [process.returncode for process in both].count(0) >= 1, said
    assert "".join(out for out, _ in said).count("submitted 8 runs") == 1, said
    assert len(queue()) == 8
    assert set(states(suite).values()) <= {"queued", "running"}
    assert command("run", late)[0] == 0

    paused = pause(folders)
    [(late_run, late_folder)] = by_seed(late).values()
    late_process = pause_if_running(late_folder)
    job_of = jobs(folders)
    assert set(states(suite).values()) == {"running"}
    sbatch.ask("scontrol", "requeue", job_of[0])
    for number in ("TERM", "USR2"):  # what submitit sends for a preemption
        sbatch.ask("scancel", f"--signal={number}", job_of[1])
    os.kill(paused[2], signal.SIGKILL)
    os.kill(parent(paused[3]), signal.SIGKILL)  # as when a node goes away: nobody is told
    os.kill(paused[3], signal.SIGKILL)
    assert "1 of 1 run " in command("cancel", suite, "--only", "seed=4")[1]
    sbatch.ask("scancel", "--signal=USR2", job_of[5])  # and for a time-out
    subprocess.run([SCRIPT, "stop-node"], check=True, timeout=60)
    for seed in (1, 5, 6, 7):
        go_on(paused[seed])
    time.sleep(3)  # runs go on without their slurmd
    subprocess.run([SCRIPT, "start-node"], check=True, timeout=120)

    def ended() -> bool:
        now = states(suite)
        assert "failed" not in now.values()
        return now[3] == "dead" and now[4] == "stopped" and [*now.values()].count("done") == 6

    wait_for(ended, "six runs done, one dead, one stopped")
    code, out, _ = command("run", suite)
    assert code == 0 and "submitted 2 runs" in out
    wait_for(lambda: set(states(suite).values()) == {"done"}, "all done")
    assert command("run", suite)[:2] == (0, "8 done\n")
    wait_for(lambda: "timed out" in late_log(late), "SLURM's signal")
    if late_process:
        go_on(late_process)
    wait_for(lambda: states(late) == {8: "done"}, "the late one")
    wait_for(lambda: not queue(), "the jobs' own last words")  # after the runs' own
    assert endings(late_folder)[0] == "timed out" and endings(late_folder)[-1] == "completed"
    assert_same_as_uninterrupted(late_run, late_folder, tmp_path)

    why = {seed: endings(folder) for seed, folder in folders.items()}
    assert why[0] == ["preempted", "completed"] == why[1] == why[5]
    assert why[2] == ["killed by SIGKILL", "completed"]
    assert why[3] == ["completed"]  # its first job ended without a word
    assert why[4] == ["cancelled", "completed"]
    assert why[6] == ["completed"] == why[7]
    for seed, (run, folder) in by_seed(suite).items():
        assert run_folder.attempts(folder) == ([1] if seed in (6, 7) else [1, 2])
        assert_same_as_uninterrupted(run, folder, tmp_path)


@needs_slurm
def test_runs_that_share_a_job_have_fates_of_their_own(slurm, tmp_path):
    suite = write_suite(
        tmp_path / "suite.yaml", **QUICK, runs_per_gpu=4, seeds=2,
        grid={"model_learning_rate": [1e-3, 1e30]},
    )  # fmt: skip
    code, out, _ = command("run", suite)
    assert code == 0 and "submitted 4 runs as 1 job with 1 call of sbatch" in out
    wait_for(lambda: not queue(), "the job's end")
    code, out, err = command("run", suite)
    assert code == 1 and out.strip() == "2 done, 2 failed" and "not finite" in err
    for run in expand(suite).runs:
        folder = run_folder.run_path(tmp_path / "results", run.run_id)
        failed = run.config["model_learning_rate"] > 1
        assert endings(folder) == ["failed" if failed else "completed"]
        assert ("FloatingPointError" in (folder / "attempts/1/log.txt").read_text()) == failed
    assert "submitted 2 runs as 1 job with" in command("run", suite, "--retry-failed")[1]
    wait_for(lambda: not queue(), "the second job's end")
    assert command("run", suite)[1].strip() == "2 done, 2 failed"
    attempts = [run_folder.attempts(f) for f in (tmp_path / "results/runs").iterdir()]
    assert sorted(attempts) == [[1], [1], [1, 2], [1, 2]]


@needs_slurm
def test_queued_runs_keep_the_code_they_were_submitted_with(slurm, tmp_path):
    checkout = tmp_path / "checkout"
    for package in ("dreamer", "suites", "slurm"):
        shutil.copytree(ROOT / package, checkout / package)
    suite = write_suite(tmp_path / "suite.yaml", **QUICK, seeds=1, profile="held")
    assert command("run", suite, cwd=checkout)[0] == 0
    assert states(suite) == {0: "queued"}
    for package in ("dreamer", "suites", "slurm"):
        for path in (checkout / package).glob("*.py"):
            path.write_text("raise SystemExit('this is not the code that was meant')\n")
    [(job_id, _)] = queue()
    sbatch.ask("scontrol", "release", job_id.split("_")[0])
    wait_for(lambda: not queue(), "the job's end")
    assert states(suite) == {0: "done"}


# --- Submitted once -------------------------------------------------------------------------------


def sbatch_that(tmp_path: Path, does: str) -> str:
    """A PATH whose sbatch `does` something on its second call, and is the real one else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(
        f'#!/bin/bash\necho >>{folder}/calls\n'
        f'if [ "$(wc -l <{folder}/calls)" -eq 2 ]; then {does}; fi\n'
        f'exec {shutil.which("sbatch")} "$@"\n'
    )  # fmt: skip
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@needs_slurm
@pytest.mark.parametrize(
    "does",
    [
        "echo 'sbatch: error: Job violates accounting/QOS policy' >&2; exit 1",
        f'{shutil.which("sbatch")} "$@"; kill -9 $PPID; exit 1',  # the submission is killed
    ],
    ids=["refused", "killed"],
)
def test_a_submission_that_fails_half_way_is_completed_by_the_next(slurm, tmp_path, does):
    suite = write_suite(tmp_path / "suite.yaml", seeds=5, profile="held")  # arrays of 2, 2 and 1
    code, out, err = command("run", suite, path=sbatch_that(tmp_path, does))
    killed = "kill -9" in does
    assert code == (-signal.SIGKILL if killed else 1)
    if not killed:
        assert "submitted 2 runs" in out and "policy" in err and "submits the rest" in err
    assert [*states(suite).values()].count("queued") == (4 if killed else 2)
    code, out, _ = command("run", suite)
    assert code == 0 and f"submitted {'1 run' if killed else '3 runs'} as" in out
    assert states(suite) == dict.fromkeys(range(5), "queued")
    assert command("status", suite)[1].strip().endswith("5 queued")
    assert len(queue()) == 5
    assert "1 of 1 run " in command("cancel", suite, "--only", "seed=3")[1]
    assert states(suite)[3] == "missing" and len(queue()) == 4
    assert "4 of 5 runs" in command("cancel", suite)[1]
    assert not queue() and set(states(suite).values()) == {"missing"}


@needs_slurm
def test_where_slurm_does_not_answer_nothing_is_claimed_and_nothing_submitted(
    slurm, tmp_path, monkeypatch
):
    suite = write_suite(tmp_path / "suite.yaml", seeds=2, profile="held")
    assert command("run", suite, "--only", "seed=0")[0] == 0
    with monkeypatch.context() as elsewhere:
        conf = Path(slurm["SLURM_CONF"]).read_text()
        dead = re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1", conf)  # no server listens there
        (tmp_path / "slurm.conf").write_text(dead)
        elsewhere.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        assert states(suite) == {0: "unknown", 1: "missing"}
        code, _, err = command("run", suite, "--profile", "test")
        assert code == 2 and errors(err) == 1
        code, _, err = command("cancel", suite)
        assert code == 2 and errors(err) == 1
    assert states(suite) == {0: "queued", 1: "missing"}
    assert len(queue()) == 1
    assert command("cancel", suite)[0] == 0


@needs_slurm
def test_no_more_jobs_are_submitted_than_the_profile_allows(slurm, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_suite(tmp_path / "other/other.yaml", seeds=1, profile="held")
    suite = write_suite(tmp_path / "suite.yaml", seeds=5, profile="few")
    assert command("run", other)[0] == 0  # it counts, too
    code, out, _ = command("run", suite)
    assert code == 1 and "submitted 2 runs" in out and "3 runs wait: max_submit_jobs is 3" in out
    assert len(queue()) == 3
    assert command("cancel", other)[0] == 0
    assert "submitted 1 run as 1 job with" in command("run", suite)[1]
    assert [*states(suite).values()].count("queued") == len(queue()) == 3


@needs_slurm
def test_an_own_environment_is_found_on_a_node_as_here(slurm, tmp_path):
    """In the folder where the suite is submitted, and in one that PYTHONPATH names from there; and
    the files that it reads by their paths in that folder."""
    text = (ROOT / "tests/stand_ins/short_episodes.py").read_text()
    for module, folder in (("odd_here", tmp_path), ("odd_beside", tmp_path / "beside")):
        folder.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(f"{text}\nLEVEL = open('beside/level.txt').read()\n")
    (tmp_path / "beside/level.txt").write_text("#")
    tasks = ["odd_here:make", "odd_beside:make"]
    task = {key: value for key, value in SUITE.items() if key != "task"}
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump({**task, **QUICK, "length": 3, "grid": {"task": tasks}}))
    words = [sys.executable, "-m", "suites.run", str(suite), "--results", "results"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:beside"}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, timeout=LONG_S)
    wait_for(lambda: not queue(), "the end of both runs")
    rows = collect(tmp_path / "results", expand(suite).runs)
    assert [row["state"] for row in rows] == ["done", "done"], [row["error"] for row in rows]


@needs_slurm
def test_the_cluster_listens_on_loopback_alone(slurm):
    if socket.gethostbyname(socket.gethostname()) != "127.0.0.1":
        pytest.skip("SLURM listens where this machine's name is")
    conf = Path(os.environ["SLURM_CONF"]).read_text()
    assert listening(conf, Path("/proc/net/tcp").read_text()) == ["127.0.0.1", "127.0.0.1"]


def listening(conf: str, sockets: str) -> list[str]:
    """The addresses on which something listens at the ports of slurmctld and slurmd."""
    ports = [int(port) for port in re.findall(r"^Slurm(?:ctld|d)Port=(\d+)$", conf, re.MULTILINE)]
    lines = [line.split() for line in sockets.splitlines()]
    local = [words[1].split(":") for words in lines if words[3:4] == ["0A"]]  # LISTEN
    found = [host for host, port in local if int(port, 16) in ports]
    return [socket.inet_ntoa(bytes.fromhex(host)[::-1]) for host in found]


@needs_slurm
@pytest.mark.skipif(os.geteuid() != 0, reason="gives this machine's name another address")
def test_where_the_name_is_127_0_1_1_the_daemons_listen_on_loopback_too(tmp_path):
    """As Debian's installer has it; srun works there as well, in a job and beside."""
    host = socket.gethostname().partition(".")[0]
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {host}\n")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        program = f"""
            mount --bind {tmp_path}/hosts /etc/hosts
            trap '{SCRIPT} stop >&2' EXIT
            {SCRIPT} start
            {SCRIPT} stop-node
            {SCRIPT} start-node
            srun echo by itself
            cat /proc/net/tcp $SLURM_CONF
            sbatch --wait --output={tmp_path}/job.out --wrap="srun echo in a job"
        """
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-ec", program],
            env={
                **os.environ,
                "DEV_CLUSTER": f"{folder}/cluster",
                "SLURM_CONF": f"{folder}/cluster/slurm.conf",
            },
            capture_output=True,
            text=True,
            timeout=LONG_S,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert listening(done.stdout, done.stdout) == ["127.0.1.1", "127.0.1.1"]
    assert "by itself" in done.stdout
    assert (tmp_path / "job.out").read_text() == "in a job\n"


@needs_slurm
def test_the_doctor_examines_a_node_set_up_as_for_a_job(slurm, tmp_path):
    words = [sys.executable, "-m", "slurm.doctor", "--profile", "set_up", "--quick"]
    words += ["--needs-gb", "1e9", "--results", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 1, done.stderr
    verdicts = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert verdicts["disk"] == "FAIL" and verdicts["CUDA"] == "ok" and "osmesa" in verdicts
    assert "127.0.0.1:9: not reached" in done.stdout and "secret" not in done.stdout + done.stderr


@needs_slurm
def test_ten_thousand_runs_are_chunked_below_the_cluster_s_limit(slurm, tmp_path):
    limit = sbatch.ask("scontrol", "show", "config")
    assert "MaxArraySize            = 1001" in limit
    suite = write_suite(tmp_path / "suite.yaml", seeds=list(range(10_000)))
    code, out, _ = command("run", suite, "--plan")
    assert code == 0 and "10,000 jobs of 1 run, 10 calls of sbatch" in out
    assert not queue()


@needs_slurm
def test_odd_names_work_or_are_refused_before_anything_is_submitted(slurm, tmp_path):
    folder = tmp_path / "it's 50 € & $HOME #1"
    folder.mkdir()
    suite = write_suite(folder / "100 % done.yaml", **QUICK, seeds=1)
    assert command("run", suite)[0] == 0
    wait_for(lambda: not queue(), "the job's end")
    assert states(suite) == {0: "done"}
    assert list((folder / "results/slurm").glob("100___done-*/*.out"))
    for name in ("50%j", "back\\slash", "two\nlines"):
        (tmp_path / name).mkdir()
        odd = write_suite(tmp_path / name / "suite.yaml", **QUICK, seeds=1)
        code, _, err = command("run", odd)
        assert code == 2 and errors(err) == 1 and "SLURM cannot write" in err, err
        assert states(odd) == {0: "missing"} and not queue()


# --- Without a cluster ----------------------------------------------------------------------------


def test_runs_of_a_cluster_that_is_gone_can_be_taken_back(tmp_path, monkeypatch, capsys):
    suite = write_suite(tmp_path / "suite.yaml", seeds=3)
    results = tmp_path / "results"
    runs = expand(suite).runs
    make_folder(cluster.home(results))
    cluster._append(results, batch="suite-1", jobs=[[run.run_id] for run in runs])
    cluster._append(results, batch="suite-1", array="17")
    monkeypatch.setenv("PATH", str(tmp_path))  # no squeue here
    assert set(states(suite).values()) == {"unknown"}
    assert "SLURM may have it and cannot be asked: no squeue here" in command("status", suite)[1]
    some = ("--only", "seed=[12]")
    assert command("cancel", suite, *some)[0] == 2
    code, out, _ = command("cancel", suite, *some, "--forget")
    assert code == 0 and "2 of 2 runs forgotten" in out
    assert states(suite) == {0: "unknown", 1: "missing", 2: "missing"}
    todo = choose(
        parse([str(suite)]), runs, states_of(results, {run.run_id: run.config for run in runs})
    )
    assert [run.config["seed"] for run in todo] == [1, 2]
    assert "suites.cancel --forget" in capsys.readouterr().err


def test_chunks_hold_everything_once_in_order(tmp_path):
    found = sbatch.chunks(range(10_000), 999)
    assert [item for chunk in found for item in chunk] == [*range(10_000)]
    assert len(found) == 11 and max(map(len, found)) == 999
    profile = profile_of(tmp_path, "gpus_per_node: 2")
    assert cluster.forecast(10_000, profile, 3, 500) == (1667, 4)


def test_a_plan_counts_one_thing_as_one(tmp_path, monkeypatch):
    (tmp_path / "profiles.yaml").write_text("test: {array_parallelism: 1}\n")
    monkeypatch.setenv("DREAMER_SLURM_PROFILES", str(tmp_path / "profiles.yaml"))
    request = Request(tmp_path, profile="test")
    assert "1 job of 1 run, 1 call of sbatch" in str(EXECUTORS["slurm"].forecast(1, request))
    assert "2 jobs of 1 run, " in str(EXECUTORS["slurm"].forecast(2, request))


def test_why_a_job_is_told_to_stop(monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")

    def at(seconds: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))

    running = {"JobState": "RUNNING", "Restarts": "1"}
    assert job.why({**running, "EndTime": at(100)}, 90) == "timed out"
    assert job.why({**running, "EndTime": at(4000)}, 90) == "preempted"
    assert job.why({**running, "EndTime": "Unknown"}, 90) == "preempted"
    ending = {"JobState": "COMPLETING", "StartTime": at(-100), "TimeLimit": "1-00:00:00"}
    assert job.why({**ending, "Restarts": "2"}, 90) == "preempted"
    assert job.why({**ending, "Restarts": "1"}, 90) == "cancelled"
    assert job.why({**ending, "Restarts": "1", "TimeLimit": "00:01:00"}, 90) == "timed out"
    assert job.why({}, 90) == "stopped"
