"""The training loop: its order, its records, and that kill -9 loses and repeats nothing."""

import dataclasses
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_runs import CONTEXT, assert_same_run, last_checkpoint, minute, records, stopper

from dreamer import command_line, run_folder
from dreamer.checkpoint import checkpoint_paths, load_checkpoint
from dreamer.config import BEFORE, Config, make_config
from dreamer.envs.toys import Probe
from dreamer.errors import DamagedError, UserError
from dreamer.recording import LOG, SAMPLE, Clock
from dreamer.replay import Cursor, Replay
from dreamer.schedule import (
    Counters,
    Stage,
    exploration,
    next_round,
    next_stage,
    seeding,
    updates_due,
)
from dreamer.train import Progress, parse, run, train

# The order of stages.


def test_updates_are_due_in_the_papers_ratio():
    config = make_config("submission")
    random = Counters(env_steps=4000, episodes=4, seed_env_steps=4000)
    assert updates_due(config, random) == 0
    seeded = Counters(env_steps=5000, episodes=5, seed_env_steps=5000)
    assert updates_due(config, seeded) == 100
    assert updates_due(config, seeded._replace(env_steps=6000, episodes=6)) == 200
    assert updates_due(config, seeded._replace(env_steps=2_000_000)) == 100 + 199_500


def play(config: Config, episode_env_steps: int) -> Counters:
    """Counters after seeding with episodes of this length, one at a time."""
    c = Counters()
    while seeding(config, c):
        assert next_stage(config, c) == Stage.COLLECT and updates_due(config, c) == 0
        assert next_round(config, c, False).random
        c = c._replace(env_steps=c.env_steps + episode_env_steps, episodes=c.episodes + 1)
    assert not next_round(config, c, False).random
    return c


@pytest.mark.parametrize("preset", ["published", "submission", "small"])
def test_seeding_is_five_full_episodes_and_more_short_ones(preset):
    config = make_config(preset)
    assert play(config, 1000)[:4] == (5000, 0, 0, 5)
    assert play(config, 60)[:4] == (5040, 0, 0, 84)
    assert play(make_config(preset, {"env_steps": 120}), 30)[:4] == (150, 0, 0, 5)
    before = make_config(preset, {"seed_min_env_steps": BEFORE["seed_min_env_steps"]})
    assert play(before, 60)[:4] == (300, 0, 0, 5)


def test_a_run_says_once_that_its_encoder_is_dead(tmp_path, capsys):
    """At such a learning rate no ReLU of its last layer lives for long."""
    settings = {"representation": "reward", "env_steps": 280, "eval_episodes": 1}
    train(minute(**settings), tmp_path / "sees")
    assert "embed_variance" not in capsys.readouterr().err
    train(minute(**settings, model_learning_rate=0.3), tmp_path / "blind")
    seen = [r["embed_variance"] for r in records(tmp_path / "blind") if r["kind"] == "update"]
    assert seen[0] > 0 and seen[-2:] == [0, 0]
    assert capsys.readouterr().err.count("the model is blind") == 1


def test_short_episodes_leave_something_to_sample(tmp_path, capsys):
    """Four of five episodes are too short to be sampled, and at first all of them."""
    config = minute("short_episodes:make", seed=2, env_steps=160, seed_min_env_steps=100)
    with pytest.raises(UserError, match="seed_min_env_steps"):
        train(dataclasses.replace(config, seed_min_env_steps=0), tmp_path / "before")
    train(config, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    random = [r for r in records if r["kind"] == "episode" and r["random"]]
    assert len(random) > config.seed_episodes
    assert random[-2]["env_steps"] < config.seed_min_env_steps <= random[-1]["env_steps"]
    assert any(r["kind"] == "update" for r in records)
    assert "episodes are shorter than a sequence (length 5 agent_steps" in capsys.readouterr().err
    last = [r for r in records if r["kind"] == "replay"][-1]
    lengths = [r["episode_length_agent_steps"] + 1 for r in records if r["kind"] == "episode"]
    assert last["short_episodes"] == sum(steps < config.length for steps in lengths)
    assert last["short_episodes_share"] == last["short_episodes"] / len(lengths) > 0.5


def test_full_episodes_are_no_reason_for_a_warning(tmp_path, capsys):
    train(minute(env_steps=120), tmp_path)
    assert "shorter" not in capsys.readouterr().err
    assert not [line for line in records(tmp_path) if line["kind"] == "replay"]


def test_a_whole_run_follows_algorithm_1():
    """The sequence of stages of a run of 8 episodes, with 2 seeds."""
    config = minute(env_steps=8 * 40, eval_every_env_steps=120, checkpoint_every_env_steps=160)
    c, stages = Counters(), []
    while (stage := next_stage(config, c)) is not None:
        stages.append(stage)
        if stage == Stage.COLLECT:
            seeds = c.seed_env_steps + (40 if c.episodes < 2 else 0)
            c = c._replace(
                env_steps=c.env_steps + 40, episodes=c.episodes + 1, seed_env_steps=seeds
            )
        elif stage == Stage.UPDATE:
            c = c._replace(updates=c.updates + 1)
        elif stage == Stage.EVALUATE:
            c = c._replace(evaluated_env_steps=c.env_steps)
        else:
            c = c._replace(saved_env_steps=c.env_steps)
    episode = [Stage.COLLECT] + 4 * [Stage.UPDATE]
    expected = [
        *[Stage.COLLECT, Stage.COLLECT],
        *[Stage.UPDATE] * 7,
        Stage.EVALUATE,  # 80 env_steps
        *[*episode, Stage.EVALUATE],  # 120
        *[*episode, Stage.SAVE],  # 160
        *episode,
        *[*episode, Stage.EVALUATE],  # 240
        *episode,
        *[*episode, Stage.EVALUATE, Stage.SAVE],  # 320
    ]
    assert stages == expected


def test_exploration_of_discrete_actions_falls_linearly():
    config = make_config("tiny", {"epsilon_env_steps": 1000})
    amounts = [exploration(config, n, discrete=True) for n in (0, 500, 1000, 5000)]
    assert amounts == pytest.approx([0.4, 0.25, 0.1, 0.1])
    assert exploration(config, 500, discrete=False) == 0.3


# What is recorded.


def test_a_run_records_what_it_did(tmp_path):
    logged: list[dict] = []
    config = minute("probe", env_steps=400)
    summary = train(config, tmp_path, log=logged.append)
    assert summary.status == "COMPLETED"
    assert summary[1:4] == (400, 200, 7 + 32)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == logged

    episodes = [line for line in lines if line["kind"] == "episode"]
    assert [e["env_steps"] for e in episodes] == list(range(40, 401, 40))
    assert [e["random"] for e in episodes] == [True] * 2 + [False] * 8
    # The probe's reward after n env_steps is n / 1024.
    assert all(e["episode_return"] == 820 / 1024 for e in episodes)
    evaluations = [line for line in lines if line["kind"] == "evaluate"]
    assert [e["env_steps"] for e in evaluations] == [80, 200, 400]
    assert all(e["evaluate_returns"] == [820 / 1024] * 2 for e in evaluations)
    updates = [line for line in lines if line["kind"] == "update"]
    assert [u["updates"] for u in updates] == [5, 10, 15, 20, 25, 30, 35]
    assert {"model_loss", "image_loss", "kl", "model_gradient_norm", "actor_gradient_norm",
            "value_gradient_norm", "actor_loss", "value_loss"} <= updates[0].keys()  # fmt: skip
    times = [line for line in lines if line["kind"] == "time"]
    names = (*Stage, SAMPLE, LOG)
    parts = [times[-1][f"seconds_{name}"] for name in names]
    assert all(part > 0 for part in parts) and times[-1]["seconds_total"] == sum(parts)
    assert all(line.keys() >= {"kind", "env_steps", "agent_steps", "updates"} for line in lines)


def test_the_time_split_counts_every_moment_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(("update", "sample"))

    def spend(seconds: float) -> None:
        now[0] += seconds

    spend(7)  # belongs to no part
    with clock.on("update"):
        spend(1)
        with clock.on("sample"):
            spend(10)
        spend(100)
        assert clock.seconds() == {"update": 101, "sample": 10}
    with pytest.raises(ZeroDivisionError), clock.on("sample"):
        spend(1000 / 0)
    spend(7)
    assert clock.seconds() == {"update": 101, "sample": 10}
    clock.restore({"update": 5.0})
    assert clock.seconds() == {"update": 5, "sample": 10}


def test_what_replay_holds_is_what_the_environment_gave(tmp_path):
    config = minute("probe", env_steps=400)
    train(config, tmp_path)
    cursor = last_checkpoint(tmp_path)["replay"]
    replay = Replay(tmp_path / "replay", 2, config.length, Cursor(**cursor))
    batch = replay.sample(np.random.default_rng(0), 50)
    seeds = set()
    for images, actions, rewards in zip(*(x.numpy() for x in batch[:3]), strict=True):
        seen = [Probe.read(image) for image in images]
        seeds |= {seed for seed, _, _ in seen}
        counts = [count for _, count, _ in seen]
        assert len({seed for seed, _, _ in seen}) == 1
        assert np.diff(counts).tolist() == [2] * (config.length - 1)  # action repeat 2
        for (_, count, led_here), action, reward in zip(seen, actions, rewards, strict=True):
            np.testing.assert_array_equal(led_here, action)
            assert reward == (2 * count - 1 if count else 0) / 1024
    assert len(seeds) > 5


def test_evaluation_episodes_differ_from_each_other_and_from_training(tmp_path):
    train(minute(env_steps=400), tmp_path)
    lines = records(tmp_path)
    returns = [x for line in lines if line["kind"] == "evaluate" for x in line["evaluate_returns"]]
    returns += [line["episode_return"] for line in lines if line["kind"] == "episode"]
    assert len(set(returns)) == len(returns) == 6 + 10


def test_a_finished_run_is_left_alone(tmp_path):
    config = minute(env_steps=200)
    train(config, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.suffix in (".pt", ".jsonl")}
    assert train(config, tmp_path).status == "COMPLETED"
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.suffix in (".pt", ".jsonl")}
    assert after == before


def test_a_folder_of_another_run_is_refused(tmp_path):
    train(minute(env_steps=80), tmp_path)
    with pytest.raises(UserError, match="another horizon"):
        train(minute(env_steps=80, horizon=4), tmp_path)
    train(minute(env_steps=80, log_every_updates=2), tmp_path)  # changes no outcome


def test_diverged_losses_end_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="not finite after"):
        train(minute(model_learning_rate=1e20, gradient_clip_norm=1e30), tmp_path)


@pytest.mark.parametrize("task", ["toy_dot", "toy_discrete"])
def test_diverged_losses_end_the_run_also_where_no_record_is_due(tmp_path, task):
    config = minute(
        task,
        env_steps=80,
        log_every_updates=1000,
        model_learning_rate=1e20,
        gradient_clip_norm=1e30,
    )
    with pytest.raises(FloatingPointError, match=r"not finite after 7 updates: .*_loss"):
        train(config, tmp_path)
    assert not checkpoint_paths(tmp_path / "checkpoints")


# Interruption.


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    attempt(run_dir).join()
    return run_dir


def attempt(run_dir: Path, done: Any = None) -> multiprocessing.Process:
    """One attempt, in a process of its own; `done` counts its agent_steps and updates."""
    process = CONTEXT.Process(target=_train_alone, args=(run_dir, done))
    process.start()
    return process


def _train_alone(run_dir: Path, done: Any) -> None:
    def count(progress: Progress) -> None:
        if done is not None:
            done.value += 1

    train(minute(), run_dir, on_progress=count)


@pytest.mark.slow
def test_a_run_killed_at_25_random_moments_is_the_same_run(tmp_path, uninterrupted):
    """Each attempt ends after up to 120 more agent_steps and updates, and some milliseconds, which
    may fall into a save, an evaluation or an append. There are about 50 between two checkpoints."""
    moments = random.Random(0)
    run_dir, kills, checkpoints = tmp_path / "0", 0, set()
    while kills < 25:
        done = CONTEXT.Value("i", 0)
        process = attempt(run_dir, done)
        goal = moments.randint(0, 120)
        while process.exitcode is None and done.value < goal:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        checkpoints.update(path.name for path in checkpoint_paths(run_dir / "checkpoints"))
        if process.exitcode == 0:  # finished: begin again, to be killed at other moments
            assert_same_run(run_dir, uninterrupted)
            run_dir = tmp_path / str(kills)
    process = attempt(run_dir)
    process.join()
    assert process.exitcode == 0
    assert len(checkpoints) > 5  # the kills were spread over the run
    assert_same_run(run_dir, uninterrupted)


def test_a_stop_in_order_is_resumed_exactly(tmp_path, uninterrupted):
    asked = random.Random(1)
    statuses = []
    while not statuses or statuses[-1] == "INTERRUPTED":
        questions = iter(range(asked.randint(50, 400)))  # one before each agent_step and update
        summary = train(minute(), tmp_path, should_stop=lambda q=questions: next(q, None) is None)
        statuses.append(summary.status)
    assert statuses[-1] == "COMPLETED" and len(statuses) > 3
    assert_same_run(tmp_path, uninterrupted)


def test_an_environment_that_draws_from_global_generators_is_resumed_exactly(tmp_path):
    config = minute("odd_environments:Global", env_steps=240)
    train(config, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    assert train(config, stopped, should_stop=stopper(stopped, 100)).status == "INTERRUPTED"
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    train(config, stopped)
    assert_same_run(stopped, tmp_path / "whole")


def test_only_two_checkpoints_are_kept(uninterrupted):
    paths = sorted((uninterrupted / "checkpoints").iterdir())
    assert len(paths) == 2 and paths == checkpoint_paths(uninterrupted / "checkpoints")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, uninterrupted):
    stop_at = 600
    train(minute(), tmp_path, should_stop=stopper(tmp_path, stop_at))
    newest = checkpoint_paths(tmp_path / "checkpoints")[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match="damaged .* falling back"):
        train(minute(), tmp_path)
    assert_same_run(tmp_path, uninterrupted)


def test_what_cannot_be_continued_is_set_aside_for_the_one_before(tmp_path, uninterrupted):
    train(minute(), tmp_path, should_stop=stopper(tmp_path, 600))
    older, newest = checkpoint_paths(tmp_path / "checkpoints")
    steps = load_checkpoint(older)["replay"]["agent_steps"]
    path = tmp_path / "replay" / "steps.f32"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of an episode that the older one does not know
    path.write_bytes(data)
    assert load_checkpoint(newest)["replay"]["agent_steps"] > steps
    with pytest.warns(UserWarning, match=r"steps\.f32: episode \d+ is damaged .* falling back"):
        train(minute(), tmp_path, should_stop=lambda: True)
    assert checkpoint_paths(tmp_path / "checkpoints") == [older]
    assert newest.with_suffix(".refused").exists()
    train(minute(), tmp_path)
    assert_same_run(tmp_path, uninterrupted)


def test_damage_of_all_that_a_run_knows_is_one_line_and_nothing_is_lost(tmp_path):
    train(minute(), tmp_path, should_stop=stopper(tmp_path, 600))
    path = tmp_path / "replay" / "episodes.jsonl"
    path.write_text(path.read_text().replace('"first": 0', '"first": 1'))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with (
        pytest.warns(UserWarning, match="line 1 is damaged"),
        pytest.raises(
            DamagedError, match=r"episodes\.jsonl: line 1 is damaged; no .*; restore it .* --fresh"
        ),
    ):
        train(minute(), tmp_path)
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before


def test_a_resume_that_is_stopped_at_once_writes_no_checkpoint_again(tmp_path):
    train(minute(), tmp_path, should_stop=stopper(tmp_path, 300))
    newest = checkpoint_paths(tmp_path / "checkpoints")[-1]
    before = newest.stat().st_ino, newest.stat().st_mtime_ns  # a file that was read has a new atime
    assert train(minute(), tmp_path, should_stop=lambda: True).status == "INTERRUPTED"
    assert (newest.stat().st_ino, newest.stat().st_mtime_ns) == before


def test_without_its_replay_a_run_is_not_trained_further(tmp_path):
    train(minute(), tmp_path, should_stop=stopper(tmp_path, 300))
    size = sum(path.stat().st_size for path in (tmp_path / "replay").iterdir())
    assert run_folder.discard_replay(tmp_path, "the run was done") == size > 0
    assert not (tmp_path / "replay").exists()
    record = run_folder.discarded_replay(tmp_path)
    assert record == {"time": record["time"], "why": "the run was done", "bytes": size}
    with pytest.raises(UserError, match=r"evaluated and drawn, .* --fresh"):
        train(minute(), tmp_path)
    assert run_folder.discard_replay(tmp_path, "again") == 0
    assert run_folder.discarded_replay(tmp_path) == record


def test_what_is_cut_from_the_metrics_is_kept(tmp_path):
    train(minute(), tmp_path, should_stop=stopper(tmp_path, 300))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    tail = b'{"kind": "episode", "env_steps": 999}\n{"kind": "upd'
    (tmp_path / "metrics.jsonl").write_bytes(before + tail)
    train(minute(), tmp_path, should_stop=lambda: True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert (tmp_path / "metrics.discarded.jsonl").read_bytes() == tail + b"\n"
    assert last_checkpoint(tmp_path)["metrics_bytes"] == len(before)  # saved right after the cut


@pytest.mark.slow
def test_the_command_trains_continues_and_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    quick = {"task": "toy_dot", "preset": "tiny", "env_steps": "200", "first_updates": "2",
             "time_limit_env_steps": "50", "seed_episodes": "1", "device": "cpu",
             "updates_per_1000_env_steps": "20", "eval_episodes": "1", "seed": "3"}  # fmt: skip
    words = [word for key, value in quick.items() for word in (f"--{key}", value)]

    def command(*arguments: str) -> int:
        return command_line.main(parse, run, arguments)

    monkeypatch.chdir(tmp_path)
    assert command(*words) == 0
    shown = capsys.readouterr().out
    assert "training in training/toy_dot-tiny-s3" in shown and "200/200 env_steps: return" in shown
    assert command(*words) == 0  # done already
    for wrong, said in (
        ([], "--task"),
        (["--task", "toy_dto"], "toy_dot"),
        (["--task", "toy_dot", "--horizon", "x"], "--horizon"),
        ([*words, "--horizon", "7", "--folder", "training/toy_dot-tiny-s3"], "another horizon"),
    ):
        assert command(*wrong) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in Path("training").iterdir()] == ["toy_dot-tiny-s3"]
