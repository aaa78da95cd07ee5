"""Collecting during training: the same episodes, by older weights, and no process left behind."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import players_of, wait_until
from toy_runs import CONTEXT, assert_same_run, minute, records

from dreamer.agent import Agent
from dreamer.config import Config
from dreamer.envs.simulators import ActionSpace
from dreamer.errors import KilledError, UserError
from dreamer.machine import prepare_machine
from dreamer.replay import Episode
from dreamer.rollouts import Collector, make_collector
from dreamer.schedule import Counters, Round, next_round
from dreamer.train import train

SPACE = ActionSpace(2, discrete=False)
UPDATES_PER_EPISODE = 4  # of `minute`, as are 2 seed episodes and 7 first updates


def one(number: int, updates: int = 0) -> Round:
    return Round(number, 1, explore=0.3, random=False, updates=updates)


def start(collector: Collector, round: Round) -> None:
    collector.prepare(round)
    collector.begin(round.episodes)


def play(collector: Collector, round: Round) -> list[tuple[Episode, int]]:
    start(collector, round)
    return collector.take(lambda env_steps: None)


def assert_same_episodes(a: list, b: list) -> None:
    assert len(a) == len(b)
    for (x, x_steps), (y, y_steps) in zip(a, b, strict=True):
        assert x_steps == y_steps
        assert all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))


def test_processes_play_what_this_one_would_have_played_when_they_began():
    config = minute(environments=2)
    agent = Agent(config, SPACE)
    here, beside = make_collector(minute(), agent), make_collector(config, agent)
    try:
        expected = [*play(here, one(5)), *play(here, one(6))]
        both = Round(5, 2, explore=0.3, random=False, updates=0)
        start(beside, both)
        with torch.no_grad():  # what is learned in the meantime comes too late
            for parameter in agent.parameters["actor"]:
                parameter += 1
        assert_same_episodes(beside.take(lambda env_steps: None), expected)
        assert not np.array_equal(play(here, one(5))[0][0].action, expected[0][0].action)

        # A round that was lost is played again, with the weights that it started with.
        beside.load_state_dict({"round": both._asdict(), "weights": beside.weights})
        beside.begin(2)
        assert_same_episodes(beside.take(lambda env_steps: None), expected)
    finally:
        here.close()
        beside.close()


def test_a_round_is_no_larger_than_what_is_due():
    config = minute(environments=3, env_steps=7 * 40)
    seeding = Counters(env_steps=40, episodes=1)
    assert (
        next_round(config, seeding, False)[:2] == (1, 1) and next_round(config, seeding, 0).random
    )
    seeded = Counters(env_steps=80, episodes=2, seed_env_steps=80, updates=7)
    assert next_round(config, seeded, False) == Round(2, 3, 0.3, random=False, updates=7)
    assert next_round(config, seeded._replace(env_steps=200), False).episodes == 2


def test_a_seeding_round_is_as_many_full_episodes_as_are_missing():
    config = minute(environments=9, seed_min_env_steps=200)
    assert next_round(config, Counters(), False)[:2] == (0, 5)
    assert next_round(config, Counters(env_steps=130, episodes=4), False)[:2] == (4, 2)
    assert not next_round(config, Counters(env_steps=200, episodes=6), False).random
    by_episodes = minute(environments=9, seed_episodes=7, seed_min_env_steps=200)
    assert next_round(by_episodes, Counters(env_steps=130, episodes=4), False).episodes == 3


@pytest.mark.parametrize(("overrides", "threads"), [
    ({}, 5), ({"environments": 2}, 5), ({"collect": "parallel"}, 4),
    ({"collect": "parallel", "environments": 2}, 3),
    ({"collect": "parallel", "environments": 9}, 1),
])  # fmt: skip
def test_threads_leave_cores_to_who_plays_beside_them(overrides, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = torch.get_num_threads()
    try:
        prepare_machine(minute(**overrides))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# Whole runs.


def curve(run_dir: Path) -> list[tuple[int, int]]:
    """(env_steps, updates) of each training episode."""
    return [(e["env_steps"], e["updates"]) for e in episodes(run_dir)]


def episodes(run_dir: Path) -> list[dict]:
    return [line for line in records(run_dir) if line["kind"] == "episode"]


@pytest.mark.slow
def test_runs_keep_the_ratio_and_record_how_old_the_weights_were(tmp_path):
    short: dict[str, Any] = dict(env_steps=8 * 40)
    train(minute(**short), tmp_path / "plain")
    train(minute(**short, collect="parallel"), tmp_path / "parallel")
    train(minute(**short, environments=3), tmp_path / "three")
    assert [e["staleness_updates"] for e in episodes(tmp_path / "plain")] == [0] * 8
    # The third waits for the first updates; each one after it began before the updates that are
    # due to the episode before it.
    stale = [e["staleness_updates"] for e in episodes(tmp_path / "parallel")]
    assert stale == [0] * 3 + [UPDATES_PER_EPISODE] * 5
    assert curve(tmp_path / "parallel") == curve(tmp_path / "plain")
    assert curve(tmp_path / "plain")[-1] == (8 * 40, 7 + 5 * UPDATES_PER_EPISODE)
    # Rounds of 2 random ones, 3 and 3.
    stale = [e["staleness_updates"] for e in episodes(tmp_path / "three")]
    assert stale == [0, 0] + 2 * [0, UPDATES_PER_EPISODE, 2 * UPDATES_PER_EPISODE]
    last = [records(tmp_path / name)[-1] for name in ("plain", "parallel", "three")]
    assert {(line["env_steps"], line["updates"]) for line in last} == {(320, 7 + 24)}


def test_what_stops_a_player_stops_the_run(tmp_path):
    config = minute(collect="parallel")
    beside = make_collector(config, Agent(config, SPACE))
    try:
        play(beside, one(0))
        start(beside, one(1))
        process = beside.players.processes[0][0]
        for number in (signal.SIGTERM, signal.SIGINT):  # are for the run, which stops
            process.send_signal(number)
        assert len(beside.take(lambda env_steps: None)) == 1
        start(beside, one(2))
        process.kill()
        with pytest.raises(KilledError, match="killed by SIGKILL"):
            beside.take(lambda env_steps: None)
    finally:
        beside.close()
    wrong = make_collector(minute("no_such_task", collect="parallel"), Agent(config, SPACE))
    try:
        with pytest.raises(UserError, match="no task 'no_such_task'"):
            play(wrong, one(0))
    finally:
        wrong.close()


# Interruption.


def parallel() -> Config:
    return minute(collect="parallel", environments=2, env_steps=600)


def _train_alone(run_dir: Path, done: Any) -> None:
    def count(progress: Any) -> None:
        done.value = max(done.value, progress.updates)

    train(parallel(), run_dir, on_progress=count)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_killed_runs_leave_no_process_and_are_the_same_run(tmp_path):
    """Three kill -9 at random moments, then an orderly stop, then to the end."""
    train(parallel(), tmp_path / "whole")
    moments, run_dir = random.Random(0), tmp_path / "killed"
    for updates in (8, 20, 33):  # 61 in all
        done = CONTEXT.Value("i", 0)
        process = CONTEXT.Process(target=_train_alone, args=(run_dir, done))
        process.start()
        while process.exitcode is None and done.value < updates:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.1))
        players = players_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL and len(players) >= 2
        wait_until(lambda pids=players: not any(map(alive, pids)))
    stop_after = [45]
    seen: list[int] = [0]

    def note(progress: Any) -> None:
        seen[0] = progress.updates

    stopped = train(parallel(), run_dir, lambda r: None, lambda: seen[0] >= stop_after[0], note)
    assert stopped.status == "INTERRUPTED" and not players_of(os.getpid())
    assert train(parallel(), run_dir).status == "COMPLETED" and not players_of(os.getpid())
    assert_same_run(run_dir, tmp_path / "whole")
