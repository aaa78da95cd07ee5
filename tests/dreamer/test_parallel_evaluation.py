"""Evaluation beside training: the same scores in the same records, none lost or doubled."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, players_of, wait_until
from toy_runs import assert_same_run, minute, records

from dreamer.agent import Agent
from dreamer.checkpoint import checkpoint_paths, load_checkpoint
from dreamer.config import Config
from dreamer.envs.environment import make_environment
from dreamer.envs.simulators import ActionSpace
from dreamer.errors import KilledError, UserError
from dreamer.rollouts import Evaluator, Scores, make_evaluator
from dreamer.run_folder import Status
from dreamer.schedule import Counters
from dreamer.train import Progress, train
from dreamer.workers import InProcess, Workers

STAND_INS = ROOT / "tests" / "stand_ins"
SPACE = ActionSpace(2, discrete=False)
DUE = Counters(env_steps=200, agent_steps=100, updates=19, evaluations=3)


def nothing() -> None:
    """No stop is asked for."""


def taken(evaluator: Evaluator) -> Scores:
    scores = evaluator.take(nothing, block=True)
    assert scores is not None
    return scores


def assert_same_scores(a: Scores, b: Scores) -> None:
    assert a.returns == b.returns
    assert a.prediction is not None and b.prediction is not None
    assert all(np.array_equal(x, y) for x, y in zip(a.prediction, b.prediction, strict=True))


def test_processes_score_the_weights_of_when_they_began_as_this_one_does():
    settings: dict[str, Any] = dict(eval_episodes=3, representation="reward")  # with a probe
    config = minute(collect="parallel", environments=2, **settings)
    agent = Agent(config, SPACE)
    here = Evaluator(agent, InProcess(make_environment(config, evaluation=True), agent))
    beside = make_evaluator(config, agent, make_environment(config, evaluation=True))
    try:
        here.begin(DUE)
        expected = taken(here)
        assert len(set(expected.returns)) == 3
        beside.begin(DUE)
        saved = beside.state_dict()
        with torch.no_grad():  # what is learned meanwhile comes too late
            for group in agent.parameters.values():
                for parameter in group:
                    parameter += 0.1
        assert_same_scores(taken(beside), expected)
        assert beside.due is beside.state_dict() is None
        beside.load_state_dict(saved)  # one that was lost is begun again
        assert beside.due == DUE
        assert_same_scores(taken(beside), expected)
        beside.begin(DUE)
        assert taken(beside).returns != expected.returns
    finally:
        here.close()
        beside.close()


def test_what_stops_an_evaluating_process_stops_the_run(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    agent = Agent(minute("odd_endings:Breaks"), ActionSpace(1, discrete=False))
    tasks = ("odd_endings:Slow", "no_such_task", "odd_endings:Breaks")
    killed, wrong, broken = (Evaluator(agent, Workers(minute(task), "evaluate")) for task in tasks)
    try:
        for evaluator in (killed, wrong, broken):
            evaluator.begin(DUE)
        killed.players.processes[0][0].kill()
        with pytest.raises(KilledError, match="a process that evaluates was killed by SIGKILL"):
            taken(killed)
        with pytest.raises(UserError, match="no task 'no_such_task'"):
            taken(wrong)
        with pytest.raises(RuntimeError, match="a process that evaluates failed: OSError: no answ"):
            taken(broken)
    finally:
        for evaluator in (killed, wrong, broken):
            evaluator.close()


# Whole runs. The first evaluation takes 4 s, in which training comes to its second one.

SLOW: dict[str, Any] = dict(
    time_limit_env_steps=12,
    env_steps=96,
    eval_every_env_steps=96,
    eval_episodes=16,
    checkpoint_every_env_steps=12,
    log_every_updates=1,
)


def slow(**overrides: Any) -> Config:
    return minute("odd_endings:Slow", collect="parallel", **{**SLOW, **overrides})


def evaluations(run_dir: Path) -> list[int]:
    return [line["env_steps"] for line in records(run_dir) if line["kind"] == "evaluate"]


def evaluation_under_way(run_dir: Path) -> bool:
    """Whether the newest checkpoint has an evaluation under way, and records that wait for it."""
    paths = checkpoint_paths(run_dir / "checkpoints")
    try:
        content = load_checkpoint(paths[-1]) if paths else {"evaluation": None}
    except FileNotFoundError:  # a newer one took its place
        return False
    return content["evaluation"] is not None and bool(content["held"])


@pytest.fixture(scope="module")
def in_the_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run whose evaluations are played in the training process."""
    run_dir = tmp_path_factory.mktemp("in_the_process")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(STAND_INS))
        patch.setattr(
            "dreamer.train.make_evaluator",
            lambda config, agent, env: Evaluator(agent, InProcess(env, agent)),
        )
        assert train(slow(), run_dir).status == Status.COMPLETED
    assert evaluations(run_dir) == [24, 96]
    return run_dir


@pytest.mark.slow
def test_a_run_killed_in_an_evaluation_records_it_once(tmp_path, monkeypatch, in_the_process):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, STAND_INS))))
    settings = {key: value for key, value in vars(slow()).items() if key != "preset"}
    words = [f"--{key}={json.dumps(value).strip(chr(34))}" for key, value in settings.items()]
    command = [sys.executable, "-m", "dreamer.train", "--preset", "tiny", *words]
    with subprocess.Popen([*command, f"--folder={tmp_path}"], cwd=ROOT) as process:
        wait_until(lambda: evaluation_under_way(tmp_path))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert train(slow(), tmp_path).status == Status.COMPLETED
    assert_same_run(tmp_path, in_the_process)


@pytest.mark.slow
def test_a_stop_in_an_evaluation_keeps_its_weights_and_the_records_after_it(
    tmp_path, monkeypatch, in_the_process
):
    """Also when the run goes on with a budget that it has reached already."""
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    went_on: list[bool] = []

    def note(progress: Progress) -> None:
        if progress.env_steps > 24 and progress.evaluate_return is None:
            went_on.append(True)

    stopped = train(slow(), tmp_path, should_stop=lambda: bool(went_on), on_progress=note)
    assert stopped.status == Status.INTERRUPTED and stopped.env_steps > 24
    assert evaluations(tmp_path) == [] and evaluation_under_way(tmp_path)
    assert train(slow(env_steps=24), tmp_path).status == Status.COMPLETED
    assert evaluations(tmp_path) == [24]
    assert train(slow(), tmp_path).status == Status.COMPLETED
    assert not players_of(os.getpid())
    assert_same_run(tmp_path, in_the_process)
