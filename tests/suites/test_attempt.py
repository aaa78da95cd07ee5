"""One attempt at a run: recorded, stoppable, resumable, undisturbed by its observers."""

from __future__ import annotations

import json
import os
import random
import signal
import warnings
from pathlib import Path

import pytest
import torch
from helpers import (
    QUICK,
    ROOT,
    SUITE,
    metrics_of,
    players_of,
    spec_in,
    suite_file,
    wait_until,
    worker,
)

from analysis import suite_summary
from dreamer import run_folder
from dreamer.config import config_from_dict
from dreamer.errors import UserError
from dreamer.run_folder import State
from dreamer.train import Progress
from suites import status as status_command
from suites.execution import heartbeat
from suites.execution.attempt import execute
from suites.execution.display import ending_text
from suites.execution.spec import EXIT_CODES, Spec
from suites.language.identity import run_id
from suites.language.suite import Run, expand
from suites.record import mongo_urls, sinks
from suites.record.folder import BusyError, is_locked, locked, look, make_folder


def provenance_of(spec: Spec, attempt: int) -> dict:
    return json.loads((spec.folder / f"attempts/{attempt}/provenance.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_no_renderer():
    """Bitwise equality holds for one number of threads, here and in the workers; and what earlier
    tests drew with is not what a toy is drawn with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("DREAMER_RENDERER", raising=False)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Spec:
    """A run that was never interrupted."""
    spec = spec_in(tmp_path_factory.mktemp("done"))
    assert execute(spec)["status"] == "COMPLETED"
    return spec


def test_a_run_leaves_its_whole_story(done):
    status = run_folder.read_status(done.folder)
    assert status["status"] == "COMPLETED" and status["attempt"] == 1
    assert status["env_steps"] == 300 and status["evaluate_return"] is not None
    assert look(done.folder)[0] == State.DONE
    story = provenance_of(done, 1)
    assert story["preset"] == "tiny" and story["overrides"]["batch_size"] == 4
    assert config_from_dict(story["config"]) == config_from_dict(done.config)
    assert story["packages"]["torch"] and story["machine"]["processor"]
    assert story["code"] == status["code"] and story["renderer"] == "none"
    assert story["from_env_steps"] == 0


def test_log_status_and_tables_show_one_final_score(done, tmp_path, capsys):
    """Also for runs with an older status.json, which has none."""
    path = suite_file(tmp_path, SUITE.replace("seeds: 3", "seeds: 1"))
    [run] = expand(path).runs
    assert run.run_id == done.run_id
    evaluations = [m for m in metrics_of(done) if m["kind"] == "evaluate"]
    last = [m["evaluate_return"] for m in evaluations if m["env_steps"] > 300 - 100]
    expected = sum(last) / len(last)
    recorded = run_folder.read_status(done.folder)
    assert recorded["final_score"] == pytest.approx(expected)
    assert recorded["final_evaluations"] == len(last) < len(evaluations)
    assert f"final score {expected:.1f} (mean of {len(last)} " in ending_text(done, recorded, "")
    [row] = suite_summary(path, done.results).finals.itertuples()
    assert (row.score, row.evaluations) == (pytest.approx(expected), len(last))

    def shown():
        assert status_command.main([str(path), "--results", done.results]) == 0
        return capsys.readouterr().out

    text = shown()
    assert f"{expected:.1f} (mean of {len(last)} evaluation" in text
    del recorded["final_score"], recorded["final_evaluations"]
    older = {**recorded, "heartbeat": run_folder.now()}
    kept = (done.folder / run_folder.STATUS).read_bytes()
    run_folder.write_json(done.folder / run_folder.STATUS, older)
    assert shown() == text
    (done.folder / run_folder.STATUS).write_bytes(kept)


def test_sacred_s_record_says_the_same(done):
    folder = Path(done.results) / "sacred" / f"{done.run_id}-1"
    run = json.loads((folder / "run.json").read_text())
    assert run["status"] == "COMPLETED" and run["result"] is not None
    assert set(run["artifacts"]) == {f"run_{name}" for name in run_folder.ARTIFACTS}
    artifacts = provenance_of(done, 1)["artifacts"]
    assert {name: run_folder.sha256(folder / f"run_{name}") for name in artifacts} == artifacts
    config = json.loads((folder / "config.json").read_text())
    assert config_from_dict(config) == config_from_dict(done.config)
    truth = metrics_of(done)
    recorded = json.loads((folder / "metrics.json").read_text())
    names = {"evaluate": "evaluate_return", "update": "kl", "episode": "episode_return"}
    for kind, name in names.items():
        expected = [(r["env_steps"], r[name]) for r in truth if r["kind"] == kind]
        assert list(zip(recorded[name]["steps"], recorded[name]["values"], strict=True)) == expected
        assert expected
    info = json.loads((folder / "info.json").read_text())
    assert all((done.folder / c["path"]).exists() and c["sha256"] for c in info["checkpoints"])


def test_a_run_that_is_done_is_left_alone(done):
    before = {p: p.read_bytes() for p in done.folder.rglob("*") if p.is_file()}
    assert execute(done)["status"] == "COMPLETED"
    assert {p: p.read_bytes() for p in done.folder.rglob("*") if p.is_file()} == before


def test_stopped_at_random_ten_times_it_ends_with_the_same_results(done, tmp_path):
    spec = spec_in(tmp_path)
    generator = random.Random(0)
    reached = 0
    for attempt in range(1, 11):
        calls = iter(range(generator.randrange(1, 60), 0, -1))
        status = execute(spec, should_stop=lambda calls=calls: next(calls, 0) == 0)
        assert status["status"] == "INTERRUPTED" and status["attempt"] == attempt
        sacred = Path(spec.results) / "sacred" / f"{spec.run_id}-{attempt}" / "run.json"
        assert json.loads(sacred.read_text())["status"] == "INTERRUPTED"
        # Analysis sees by this which attempt made a value; null: it was stopped before it made one.
        assert provenance_of(spec, attempt)["from_env_steps"] in (reached, None)
        reached = status["env_steps"]
    assert execute(spec)["status"] == "COMPLETED"
    assert provenance_of(spec, 11)["from_env_steps"] == reached > 0
    assert metrics_of(spec) == metrics_of(done)


def test_a_failure_is_recorded_with_its_traceback_and_can_be_tried_again(tmp_path):
    spec = spec_in(tmp_path, model_learning_rate=1e30)
    for attempt in (1, 2):
        status = execute(spec)
        assert status["status"] == "FAILED" and status["attempt"] == attempt
        assert "not finite" in status["error"]
        error = (spec.folder / f"attempts/{attempt}/error.txt").read_text()
        assert error.startswith("Traceback") and "FloatingPointError" in error
        sacred = Path(spec.results) / "sacred" / f"{spec.run_id}-{attempt}" / "run.json"
        assert json.loads(sacred.read_text())["status"] == "FAILED"


def test_two_processes_do_not_execute_one_run(tmp_path):
    spec = spec_in(tmp_path)
    make_folder(spec.folder)
    with locked(spec.folder):
        with pytest.raises(BusyError):
            execute(spec)
    assert not is_locked(spec.folder)


def status_after(tmp_path, monkeypatch, moments):
    """What a run's status says of rate and time left after each (seconds, env_steps)."""
    time_s = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: time_s[0])
    spec = spec_in(tmp_path, env_steps=10_000)
    run_folder.attempt_path(spec.folder, 1).mkdir(parents=True)
    config = config_from_dict(spec.config)
    status_file = heartbeat.StatusFile(spec, config, 1, "", {}, lambda status: None)
    said = []
    for seconds, env_steps in moments:
        time_s[0] = seconds
        status_file.progress(Progress(env_steps, 0, 0, None, None))
        status_file.beat()
        status = status_file.status
        said.append((status["env_steps_per_second"], status["seconds_left"]))
    status_file.finish("COMPLETED")
    return said, status_file.status


def test_heartbeats_survive_what_stops_one_of_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.01)
    spec = spec_in(tmp_path)
    run_folder.attempt_path(spec.folder, 1).mkdir(parents=True)
    path = spec.folder / "status.json"
    path.mkdir()  # so that nothing can be written, as on a full disk
    beats = []

    def listen(status):
        beats.append(status)
        if len(beats) == 3:
            raise RuntimeError("a listener fails")

    config = config_from_dict(spec.config)
    status_file = heartbeat.StatusFile(spec, config, 1, "", {}, listen)
    with status_file.beating():
        wait_until(lambda: len(beats) > 5)
        path.rmdir()
        wait_until(lambda: run_folder.read_status(spec.folder))
    said = capsys.readouterr().err
    assert f"status.json: {path}: not a file" in said
    assert "heartbeat: RuntimeError: a listener fails" in said


def test_a_pause_is_left_out_of_the_rate(tmp_path, monkeypatch):
    """Ten env_steps a second, an hour asleep, then ten a second again."""
    moments = [(5, 100), (10, 150), (15, 200), (3615, 200), (3620, 250)]
    said, last = status_after(tmp_path, monkeypatch, moments)
    assert said == [(None, None), (10, 985), (10, 980), (10, 980), (10, 975)]
    assert last["env_steps_per_second"] == 150 / 20


def test_the_rate_counts_the_updates_after_an_episode(tmp_path, monkeypatch):
    """Ten episodes, each collected in 10 s and learned from in 490: two env_steps a second."""
    beats = range(0, 5001, 5)
    moments = [(s, 1000 * (s // 500) + min(1000, 100 * (s % 500))) for s in beats]
    said, _ = status_after(tmp_path, monkeypatch, moments)
    in_burst, late = said[beats.index(1010)], said[beats.index(2990) :]
    assert in_burst[0] < 4 and all(1.5 < rate < 2.5 for rate, _ in late)


def test_status_shows_runs_whose_episodes_are_too_short(tmp_path):
    spec = spec_in(tmp_path, task="short_episodes:make", seed_min_env_steps=100)
    share = execute(spec)["short_episodes"]
    assert share == run_folder.read_status(spec.folder)["short_episodes"] > 0.5
    run = Run(spec.run_id, (), spec.config)
    rows = status_command.collect(Path(spec.results), [run])
    shown = status_command.text(rows, Path(spec.results))
    assert (
        f"too short to be sampled (see `length`), so never trained on\n  {spec.run_id}: " in shown
    )
    for row in rows:
        row["short_episodes"] = 0.05
    assert "too short" not in status_command.text(rows, Path(spec.results))


def test_a_damaged_folder_is_one_clear_error(tmp_path):
    spec = spec_in(tmp_path)
    make_folder(spec.folder)
    (spec.folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: damaged; .* --fresh"):
        execute(spec)


def test_observers_that_fail_stop_nothing(tmp_path, done):
    spec = spec_in(tmp_path)
    (tmp_path / "sacred").write_text("a file where Sacred wants a folder")
    with pytest.warns(UserWarning, match="misses records, training goes on"):
        assert execute(spec)["status"] == "COMPLETED"
    assert metrics_of(spec) == metrics_of(done)


def test_an_absent_mongodb_stops_nothing_and_its_password_stays_secret(
    tmp_path, done, monkeypatch, capfd
):
    pytest.importorskip("pymongo")
    monkeypatch.setenv("DREAMER_MONGO_URL", "mongodb://somebody:hunter2@127.0.0.1:9/lab")
    monkeypatch.setattr(mongo_urls, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(sinks, "LAST_WAIT_S", 1.0)
    spec = spec_in(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert execute(spec)["status"] == "COMPLETED"
    said = " ".join(str(w.message) for w in caught)
    assert "mongodb://127.0.0.1:9/lab" in said and "suites.push" in said
    out = capfd.readouterr()
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"hunter2" not in written and "hunter2" not in said + out.out + out.err
    assert metrics_of(spec) == metrics_of(done)


# --- As a process of its own ----------------------------------------------------------------------


LONG = {"env_steps": 100_000}  # longer than any test waits


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "parent"])
def test_signals_and_the_parent_s_death_stop_in_order(tmp_path, how):
    spec = spec_in(tmp_path, **LONG)
    process = worker(spec)
    wait_until(lambda: (spec.folder / "metrics.jsonl").exists() and metrics_of(spec))
    assert look(spec.folder)[0] == State.RUNNING
    if how == "parent":
        process.stdin.close()  # what the worker sees when its parent is killed
    else:
        process.send_signal(getattr(signal, how))
    assert process.wait(60) == EXIT_CODES["INTERRUPTED"]
    process.stdout.close()
    status = run_folder.read_status(spec.folder)
    assert status["status"] == "INTERRUPTED" and status["env_steps"] > 0
    assert look(spec.folder)[0] == State.STOPPED
    assert list((spec.folder / "checkpoints").glob("*.pt"))
    assert (spec.folder / "attempts/1/log.txt").exists()


def test_a_killed_run_is_dead_at_once_and_is_continued(tmp_path, done):
    spec = spec_in(tmp_path)
    process = worker(spec)
    wait_until(lambda: list((spec.folder / "checkpoints").glob("*.pt")))
    process.kill()
    process.wait()
    process.stdout.close()
    assert look(spec.folder)[0] == State.DEAD
    assert execute(spec)["attempt"] == 2
    assert metrics_of(spec) == metrics_of(done)


@pytest.mark.slow
def test_a_run_whose_collecting_process_is_killed_is_continued(tmp_path):
    spec = spec_in(tmp_path, environments=2)

    def kill() -> bool:
        if (spec.folder / "checkpoints").is_dir():
            for player in sorted(players_of(os.getpid()))[:1]:
                os.kill(player, signal.SIGKILL)
        return False

    status = execute(spec, should_stop=kill)
    assert status["status"] == "INTERRUPTED" and "killed by SIGKILL" in status["error"]
    assert look(spec.folder)[0] == State.STOPPED
    sacred = Path(spec.results) / "sacred" / f"{spec.run_id}-1" / "run.json"
    assert json.loads(sacred.read_text())["status"] == "INTERRUPTED"
    assert not (spec.folder / "attempts/1/error.txt").exists()
    assert execute(spec)["status"] == "COMPLETED"


# --- Every suite ----------------------------------------------------------------------------------


def first_of_each_method() -> dict[str, tuple[list[str], dict]]:
    """{run_id: (suites, config)}: the first run of each method of each suite, made tiny, on the
    suite's toys; real tasks give way to the toy with such actions."""
    small = {k: v for k, v in QUICK.items() if k not in ("task", "eval_every_env_steps")}
    small |= {"preset": "tiny", "seeds": 1, "env_steps": 180, "first_updates": 2}
    small |= {"updates_per_1000_env_steps": 20, "length": 5}  # fits at every action repeat
    chosen: dict[str, tuple[list[str], dict]] = {}
    for path in sorted((ROOT / "suites").glob("*.yaml")):
        if path.stem == "paper":  # it is made of the others
            continue
        met = set()
        for run in expand(path, small).runs:
            task = run.config["task"]
            if not task.startswith("toy_"):
                task = "toy_discrete" if task.startswith("atari:") else "toy_dot"
            config = {**run.config, "task": task}
            method = (task, config["behaviour"], config["representation"])
            if method not in met:
                met.add(method)
                chosen.setdefault(run_id(config), ([], config))[0].append(path.stem)
    return chosen


@pytest.mark.slow
def test_every_suite_s_methods_train(tmp_path):
    chosen = first_of_each_method()
    methods = {(c["task"], c["behaviour"], c["representation"]) for _, c in chosen.values()}
    assert len({method for method in methods if method[0] == "toy_dot"}) == 9  # all pairs
    assert any("discrete" in suites for suites, c in chosen.values() if c["task"] == "toy_discrete")
    committed = {path.stem for path in (ROOT / "suites").glob("*.yaml")} - {"paper"}
    assert {name for suites, _ in chosen.values() for name in suites} == committed
    for name, (suites, config) in chosen.items():
        status = execute(Spec(name, config, suites, str(tmp_path)))
        assert status["status"] == "COMPLETED", (suites, status["error"])
        assert status["updates"] >= 2
