"""The commands as users type them: `python -m suites.run` and `python -m suites.status`."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, SUITE

from dreamer import run_folder
from dreamer.errors import UserError
from suites.execution.environment import gpus, worker_environment
from suites.execution.executors import states
from suites.execution.local import default_workers
from suites.forecast import make_forecast, replay_bytes
from suites.language.suite import expand
from suites.record.folder import is_locked, look
from suites.run import choose_executor, confirm, prepare

WITHIN_S = 600.0  # nothing here takes so long, even on a machine that is busy with other things
# The first fails: its losses do not stay finite.
FAILING = SUITE.replace("seeds: 3", "seeds: 1") + "  model_learning_rate: [1e30, 1e-3]\n"


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def command(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", f"suites.{module}", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=WITHIN_S)  # fmt: skip


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.yaml"
    path.write_text(text)
    return path


def computed(results: Path, suite: Path) -> dict[str, list[dict]]:
    """Every run's records but those of wall-clock time."""
    found = {}
    for run in expand(suite).runs:
        folder = run_folder.run_path(results, run.run_id)
        if folder.exists():
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            found[run.run_id] = [r for r in map(json.loads, lines) if r["kind"] != "time"]
    return found


def states_of(results: Path, suite: Path, **settings):
    """{run_id: (state, status)} of a suite's runs."""
    return states(results, {run.run_id: run.config for run in expand(suite, settings).runs})


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, Path]:
    """(suite, results) of a suite that ran through, two runs at a time."""
    folder = tmp_path_factory.mktemp("done")
    suite, results = written(folder, SUITE + "keep_replay: always\n"), folder / "results"
    ended = command("run", suite, "--results", results, "--workers", 2)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "3 done"
    return suite, results


# --- Running --------------------------------------------------------------------------------------


def test_what_is_done_is_not_touched(done):
    suite, results = done
    before = snapshot(results / "runs") | snapshot(results / "sacred")
    again = command("run", suite, "--results", results)
    assert again.returncode == 0 and again.stdout.strip() == "3 done"
    assert snapshot(results / "runs") | snapshot(results / "sacred") == before


def test_each_run_has_one_attempt_with_its_own_log_and_sacred_record(done):
    suite, results = done
    names = {f"{run.run_id}-1" for run in expand(suite).runs}
    assert {p.name for p in (results / "sacred").iterdir()} == names
    for run in expand(suite).runs:
        folder = run_folder.run_path(results, run.run_id)
        assert run_folder.attempts(folder) == [1]
        story = json.loads((folder / "attempts/1/provenance.json").read_text())
        assert story["command"][2:4] == ["suites.run", str(suite)]
        assert (folder / "attempts/1/log.txt").exists()


def test_status_tells_cells_and_json_tells_runs(done):
    suite, results = done
    shown = command("status", suite, "--results", results)
    assert shown.returncode == 0 and "3 done" in shown.stdout
    rows = json.loads(command("status", suite, "--results", results, "--format", "json").stdout)
    found = [(r["seed"], r["state"], r["env_steps"]) for r in rows]
    assert found == [(0, "done", 300), (1, "done", 300), (2, "done", 300)]


def test_fresh_sets_results_aside_and_computes_them_again(done, tmp_path):
    suite, results = written(tmp_path, SUITE), tmp_path / "results"
    options = ("--results", results, "--only", "seed=1", "--executor", "debug")
    assert command("run", suite, *options).returncode == 0
    assert command("run", suite, *options, "--fresh").stdout.strip() == "1 done"
    [name] = [run.run_id for run in expand(suite).runs if run.config["seed"] == 1]
    assert (results / "discarded" / f"{name}-1" / "metrics.jsonl").exists()
    assert {p.name for p in (results / "sacred").iterdir()} == {f"{name}-1", f"{name}-2"}
    assert computed(results, suite) == {name: computed(done[1], done[0])[name]}


def test_a_failing_run_stops_no_other_and_is_retried_only_when_asked(tmp_path):
    suite, results = written(tmp_path, FAILING), tmp_path / "results"
    first = command("run", suite, "--results", results)
    assert first.returncode == 1
    assert first.stdout.strip() == "1 done, 1 failed"
    assert "not finite" in first.stderr and "Traceback" not in first.stderr
    folder = next(f for f in (results / "runs").iterdir() if (f / "attempts/1/error.txt").exists())
    assert command("run", suite, "--results", results).returncode == 1
    assert run_folder.attempts(folder) == [1]
    assert command("run", suite, "--results", results, "--retry-failed").returncode == 1
    assert run_folder.attempts(folder) == [1, 2]
    status = command("status", suite, "--results", results)
    assert status.returncode == 1
    assert "not finite" in status.stdout and str(folder / "attempts/2/log.txt") in status.stdout


def test_runs_begun_with_other_code_are_shown_and_named_when_they_go_on(done, tmp_path):
    suite, results = done[0], tmp_path / "results"
    shutil.copytree(done[1], results)
    folder = run_folder.run_path(results, expand(suite).runs[0].run_id)
    other = {"status": "INTERRUPTED", "code": "000000000000"}
    run_folder.write_json(folder / "status.json", {**run_folder.read_status(folder), **other})
    shown = command("status", suite, "--results", results).stdout
    assert re.search(r"computed with \d versions of the code: 000000000000, ", shown)
    ended = command("run", suite, "--results", results)
    assert "note: 1 run begun with code 000000000000 goes on with " in ended.stderr
    assert ended.stdout.strip() == "3 done"


def test_two_suites_of_one_name_are_refused(tmp_path):
    """Otherwise their figures and audits would be mixed up."""
    paths = []
    for folder, task in (("a", "toy_dot"), ("b", "toy_discrete")):
        (tmp_path / folder).mkdir()
        paths.append(written(tmp_path / folder, SUITE.replace("task: toy_dot", f"task: {task}")))
    results = tmp_path / "results"
    a, b = map(expand, paths)
    with pytest.raises(UserError, match="has this name, too; rename"):
        prepare(results, [a, b])
    prepare(results, [a, a])
    with pytest.raises(UserError, match="has this name, too; rename"):
        prepare(results, [b])
    (tmp_path / "c").mkdir()
    shutil.copy(paths[0], tmp_path / "c")
    prepare(results, [expand(tmp_path / "c" / paths[0].name)])  # a copy is the same suite
    paths[0].unlink()
    (tmp_path / "c" / paths[0].name).unlink()
    prepare(results, [b])  # the other file is gone


def test_suites_meant_for_slurm_run_here_where_there_is_no_sbatch(tmp_path, monkeypatch, capsys):
    suites = [expand(ROOT / "suites/figure6.yaml")]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_executor("auto", suites).name == "local"
    assert "there is no sbatch here: using local" in capsys.readouterr().err
    assert choose_executor("debug", suites).name == "debug"
    (tmp_path / "sbatch").touch(0o755)
    assert choose_executor("auto", suites).name == "slurm"
    suites.append(expand(ROOT / "suites/quickstart.yaml"))
    with pytest.raises(UserError, match="local and slurm as executor; choose one"):
        choose_executor("auto", suites)


def test_a_worker_that_crashes_is_a_failed_run_and_says_how(tmp_path):
    suite, results = written(tmp_path, SUITE.replace("env_steps: 300", "env_steps: 1e6")), tmp_path
    process = started(suite, results, "--only", "seed=0")
    [pid] = wait_for_workers(results, 1)
    os.kill(pid, signal.SIGSEGV)
    assert process.wait(WITHIN_S) == 1
    assert "killed by SIGSEGV" in process.stderr.read()
    process.stderr.close()


# --- Interrupting ---------------------------------------------------------------------------------


def started(suite: Path, results: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "suites.run", str(suite), "--results", str(results), "--yes"]
    return subprocess.Popen(
        [*words, *options],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_workers(results: Path, count: int, seconds: float = WITHIN_S) -> list[int]:
    """The process ids of runs that have begun to compute."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        folders = [p.parent for p in results.glob("runs/*/metrics.jsonl") if p.stat().st_size]
        pids = [run_folder.read_status(folder)["pid"] for folder in folders if is_locked(folder)]
        if len(pids) >= count:
            return pids
        time.sleep(0.05)
    raise AssertionError("no run began")


def wait_until_free(results: Path, seconds: float = WITHIN_S) -> None:
    """Until no process executes a run any more."""
    deadline = time.monotonic() + seconds
    while any(is_locked(folder) for folder in results.glob("runs/*")):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


LONG = SUITE.replace("env_steps: 300", "env_steps: 1e6")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_all_in_order(tmp_path, number):
    suite, results = written(tmp_path, LONG), tmp_path / "results"
    process = started(suite, results, "--workers", "2")
    wait_for_workers(results, 2)
    process.send_signal(number)
    assert process.wait(WITHIN_S) == 1
    process.stderr.close()
    states = [state for state, _ in states_of(results, suite).values()]
    assert sorted(states) == ["missing", "stopped", "stopped"]


def test_a_second_signal_stops_at_once_and_nothing_survives(tmp_path):
    suite, results = written(tmp_path, LONG), tmp_path / "results"
    process = started(suite, results, "--workers", "1")
    [pid] = wait_for_workers(results, 1)
    os.kill(pid, signal.SIGSTOP)  # it cannot stop in an orderly way
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(WITHIN_S) == 1
    process.stderr.close()
    wait_until_free(results)
    states = [state for state, _ in states_of(results, suite).values()]
    assert sorted(states) == ["dead", "missing", "missing"]


def test_workers_end_when_their_parent_is_killed(tmp_path):
    suite, results = written(tmp_path, LONG), tmp_path / "results"
    process = started(suite, results, "--workers", "2")
    wait_for_workers(results, 2)
    process.kill()
    process.wait()
    process.stderr.close()
    wait_until_free(results)


@pytest.mark.slow
def test_a_suite_interrupted_at_random_ten_times_ends_with_the_same_results(tmp_path):
    text = SUITE.replace("env_steps: 300", "env_steps: 4000").replace("seeds: 3", "seeds: 2")
    suite, results = written(tmp_path, text), tmp_path / "results"
    generator = random.Random(1)

    def lines() -> int:
        return sum(len(p.read_bytes().splitlines()) for p in results.glob("runs/*/metrics.jsonl"))

    for number in [signal.SIGINT, signal.SIGTERM, signal.SIGKILL] * 3 + [signal.SIGKILL]:
        process = started(suite, results, "--workers", "2")
        goal = lines() + generator.randrange(12)  # of some 300: also before the workers listen
        while lines() < goal and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        process.wait(WITHIN_S)
        process.stderr.close()
        wait_until_free(results)
    for folder in (results, tmp_path / "uninterrupted"):
        ended = command("run", suite, "--results", folder, "--workers", "2")
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip() == "2 done"
    ours = computed(results, suite)
    assert ours == computed(tmp_path / "uninterrupted", suite) and len(ours) == 2
    attempts = [len(run_folder.attempts(run_folder.run_path(results, name))) for name in ours]
    assert min(attempts) >= 4, "hardly anything was interrupted"


# --- Seeing before doing --------------------------------------------------------------------------


def test_dry_run_and_json_show_the_runs_and_make_nothing(tmp_path):
    shown = command("run", "suites/figure6.yaml", "--dry-run", "--results", tmp_path / "results")
    assert shown.returncode == 0 and "120 runs, 240,000,000 env_steps" in shown.stdout
    rows = json.loads(command("run", "suites/figure6.yaml", "--dry-run", "--format", "json").stdout)
    assert len(rows) == 120
    assert list(rows[0]) == ["run_id", "suites", "task", "behaviour", "representation", "seed",
                             "preset", "env_steps", "config"]  # fmt: skip
    assert rows[0]["suites"] == ["figure6"] and rows[0]["config"]["value_target"] == "slow"
    assert list(tmp_path.iterdir()) == []


def test_only_except_and_set():
    def ids(*options):
        shown = command("run", "suites/figure9.yaml", "--format", "json", "--dry-run", *options)
        assert shown.returncode == 0, shown.stderr
        return [(r["task"], r["behaviour"], r["seed"]) for r in json.loads(shown.stdout)]

    assert len(ids("--only", "task=walker_*")) == 27
    assert len(ids("--only", "task=walker_*", "--only", "task=hopper_hop")) == 36
    assert len(ids("--only", "task=walker_*", "--only", "seed=1", "--except", "behaviour=p*")) == 6
    assert len(ids("--only", "env_steps=2e6")) == 180
    assert ids("--set", "task=toy_dot", "--set", "seeds=1") == [
        ("toy_dot", "dreamer", 0),
        ("toy_dot", "no_value", 0),
        ("toy_dot", "planet", 0),
    ]


def test_a_reader_that_goes_away_is_no_accident():
    words = f"{sys.executable} -m suites.run suites/paper.yaml --format json --dry-run | head -n 1"
    ended = subprocess.run(
        words, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S
    )
    assert (ended.stdout, ended.stderr) == ("[\n", "")


@pytest.mark.parametrize("module", ["run", "status", "cancel", "audit", "push"])
def test_commands_choose_runs_in_the_same_way_and_tell_mistakes_in_one_line(module):
    for wrong in (["--only", "sed=1"], ["--set", "horizn=3"], ["--onyl", "seed=1"]):
        ended = command(module, "suites/smoke.yaml", *wrong)
        assert ended.returncode == 2 and ended.stdout == ""
        assert ended.stderr.startswith("error: ") and len(ended.stderr.splitlines()) == 1


def test_importing_the_commands_imports_nothing_heavy():
    heavy = "{'torch', 'mujoco', 'dm_control', 'sacred', 'pymongo', 'pandas', 'matplotlib'}"
    code = f"import sys, suites.run, suites.status; print({heavy} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.strip() == "set()", ended.stdout + ended.stderr


def test_a_plan_names_its_sources_and_days_of_work_need_a_yes(tmp_path):
    options = ("suites/figure6.yaml", "--executor", "local", "--results", tmp_path)
    plan = command("run", *options, "--plan")
    assert plan.returncode == 0
    assert "120 missing" in plan.stdout and "more at its peak" in plan.stdout
    assert "env_steps/s" in plan.stdout
    refused = command("run", *options)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: ") and "--yes" in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_days_of_work_of_a_kind_never_measured_need_a_yes_and_minutes_do_not(device, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def a_plan(env_steps):
        kind = {"preset": "small", "behaviour": "planet"}  # in no table of throughput
        runs = expand("suites/small.yaml", {**kind, "env_steps": env_steps}).runs
        return make_forecast(runs, {r.run_id: ("missing", None) for r in runs}, device, 1)

    days, minutes = a_plan(5_000_000), a_plan(1000)
    assert days.assumed == ["small planet reconstruction"] and days.sources == []
    with pytest.raises(UserError, match="days on this machine; --yes if that is meant"):
        confirm(days, Path())
    confirm(minutes, Path())


def test_a_plan_counts_what_is_left_and_measures_the_suite_s_own_runs(done):
    suite, results = done
    runs = expand(suite).runs
    plan = make_forecast(runs, states_of(results, suite), "cpu", 2)
    assert plan.states == {"done": 3} and plan.hours == 0 and plan.disk_gb == 0
    more = expand(suite, {"seeds": 5}).runs
    statuses = states_of(results, suite, seeds=5)
    for run_id, (state, status) in statuses.items():
        if status is not None:
            faster = {**status, "env_steps": 5000, "env_steps_per_second": 50.0}
            statuses[run_id] = (state, faster)
    plan = make_forecast(more, statuses, "cpu", 2)
    assert plan.states == {"done": 3, "missing": 2}
    assert plan.hours == pytest.approx(2 * 300 / 50 / 3600)
    assert plan.elapsed_hours == pytest.approx(plan.hours / 2)
    assert plan.disk_gb == pytest.approx(2 * (replay_bytes(runs[0].config, 300) + 4 * 5.1e6) / 1e9)
    assert runs[0].config["preset"] in plan.sources[0] and "toy_dot" in plan.sources[0]


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["suites/quickstrat.yaml"], "did you mean 'suites/quickstart.yaml'?"),
        (["suites"], "a folder, not a YAML file"),
        ([], "required: SUITE"),
        (["suites/smoke.yaml", "--onyl", "seed=1"], "unrecognized arguments: --onyl"),
        (["suites/smoke.yaml", "--only", "sed=1"], "did you mean 'seed'?"),
        (["suites/smoke.yaml", "--only", "seed"], "KEY=VALUE is expected"),
        (["suites/smoke.yaml", "--only", "seed=77"], "leave no run"),
        (["suites/smoke.yaml", "--only", "task=toy_dto"], "did you mean 'toy_dot'?"),
        (["suites/smoke.yaml", "--set", "horizn=3"], "did you mean 'horizon'?"),
        (["suites/smoke.yaml", "--set", "horizon=three"], "--set: horizon: 'three' is not of type"),
        (["suites/smoke.yaml", "--set", "kl_scale=.nan"], "not a finite number"),
        (["suites/smoke.yaml", "--workers", "0"], "--workers: from 1 to"),
        (["suites/smoke.yaml", "--executor", "slrum"], "invalid choice: 'slrum'"),
        (["suites/smoke.yaml", "--mongo", "localhost"], "mongodb:// is expected"),
        (["suites/smoke.yaml", "--results", "README.md/results"], "cannot be written"),
        (["suites/smoke.yaml", "--results", "/proc/results"], "cannot be written"),
    ],
)
def test_bad_input_is_one_error_line_and_exit_code_2(arguments, expected):
    ended = command("run", *arguments)
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 2, ended.stderr
    assert len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0]
    assert ended.stdout == ""


@pytest.mark.slow
def test_a_folder_damaged_by_hand_is_one_clear_error_and_nothing_is_lost(tmp_path):
    suite, results = written(tmp_path, SUITE), tmp_path / "results"
    damaged, unreadable, fine = (run_folder.run_path(results, r.run_id) for r in expand(suite).runs)
    for folder in (damaged, unreadable):
        folder.mkdir(parents=True)
    (damaged / "config.json").write_text("{ not json")
    (damaged / "notes.txt").write_text("mine")
    (unreadable / "status.json").write_bytes(b"\xff\x00")
    shown = command("status", suite, "--results", results)
    assert shown.returncode == 1
    assert "1 unknown" in shown.stdout and "failed" not in shown.stdout.lower()
    ended = command("run", suite, "--results", results, "--workers", 2)
    assert ended.returncode == 1 and ended.stdout.strip() == "2 done, 1 failed"
    assert "config.json: damaged" in ended.stderr and "Traceback" not in ended.stderr
    assert (damaged / "config.json").read_text() == "{ not json"
    assert (damaged / "notes.txt").read_text() == "mine"
    assert run_folder.read_status(fine)["status"] == "COMPLETED"


# --- The machine ----------------------------------------------------------------------------------


def test_threads_are_divided_and_gpus_dealt_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    for workers in (1, cores, 5 * cores):
        threads = int(worker_environment(ROOT, 0, workers, [], cores)["OMP_NUM_THREADS"])
        assert threads == max(1, cores // workers)
    dealt = [
        worker_environment(ROOT, slot, 6, ["0", "1"], cores)["CUDA_VISIBLE_DEVICES"]
        for slot in range(6)
    ]
    assert dealt == ["0", "1"] * 3
    for names, expected in ((["0", "3"], ["0", "3"]), (["GPU-1a2b", "MIG-3c"], [None, None])):
        made = [worker_environment(ROOT, slot, 2, names, cores) for slot in range(2)]
        assert [one["CUDA_VISIBLE_DEVICES"] for one in made] == names
        assert [one.get("MUJOCO_EGL_DEVICE_ID") for one in made] == expected
    assert default_workers(2, 3) == 6 and default_workers(0, 3) >= 1


def test_visible_gpus_are_respected():
    assert gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}) == gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


# --- States ---------------------------------------------------------------------------------------


def status_of(folder: Path, **values) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    status = {"status": "RUNNING", "host": "elsewhere", "heartbeat": run_folder.now(), **values}
    run_folder.write_json(folder / "status.json", status)
    return look(folder)[0]


def test_states_are_what_was_recorded(tmp_path):
    for recorded, state in (("COMPLETED", "done"), ("FAILED", "failed"), ("QUEUED", "queued"),
                            ("INTERRUPTED", "stopped"), ("WHAT", "unknown"), (None, "unknown"),
                            (["x"], "unknown")):  # fmt: skip
        assert status_of(tmp_path / "run", status=recorded) == state
    assert look(tmp_path / "no")[0] == "missing"
