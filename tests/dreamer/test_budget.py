"""The budget is no part of a run: a larger one continues it as if it had been asked for at once."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import assert_same_run, last_checkpoint, minute, records, stopper

from dreamer.checkpoint import checkpoint_paths
from dreamer.config import Config
from dreamer.errors import UserError
from dreamer.run_folder import sha256
from dreamer.train import train

IRREGULAR = {"eval_every_env_steps": 300}  # no evaluation is due where these budgets end


def small(env_steps: int, **overrides: Any) -> Config:
    few = dict(updates_per_1000_env_steps=10, checkpoint_every_env_steps=700, planner_candidates=8)
    few |= dict(planner_elites=2, planner_iterations=1, planner_horizon=2, eval_episodes=1)
    return minute(env_steps=env_steps, **{**few, **overrides})


def evaluations(run_dir: Path) -> list[int]:
    return [r["env_steps"] for r in records(run_dir) if r["kind"] == "evaluate"]


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["dreamer", "no_value", "planet"])
def test_a_run_extended_is_the_run_asked_for_at_once(tmp_path, behaviour):
    settings = IRREGULAR | {"behaviour": behaviour, "time_limit_env_steps": 100}
    train(small(2000, **settings), tmp_path / "extended")
    assert evaluations(tmp_path / "extended")[-2:] == [1800, 2000]
    assert train(small(4000, **settings), tmp_path / "extended").env_steps == 4000
    train(small(4000, **settings), tmp_path / "at_once")
    assert 2000 not in evaluations(tmp_path / "at_once")
    assert_same_run(tmp_path / "extended", tmp_path / "at_once")


@pytest.mark.parametrize(
    "settings",
    [
        {"eval_every_env_steps": 200},  # the smaller budgets end with a regular evaluation
        pytest.param({"collect": "parallel"}, marks=pytest.mark.slow),
        pytest.param({"environments": 3}, marks=pytest.mark.slow),
        pytest.param(
            {"environments": 3, "collect": "parallel", **IRREGULAR}, marks=pytest.mark.slow
        ),
        {"task": "short_episodes:make", "seed_min_env_steps": 100, **IRREGULAR},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_it_may_be_extended_again_and_again(tmp_path, settings):
    for budget in (360, 400, 440, 640):
        train(small(budget, **settings), tmp_path / "extended")
    train(small(640, **settings), tmp_path / "at_once")
    assert_same_run(tmp_path / "extended", tmp_path / "at_once")


def test_an_extension_may_be_stopped_and_keeps_a_whole_checkpoint(tmp_path):
    run_dir = tmp_path / "extended"
    train(small(400, **IRREGULAR), run_dir)
    names = [path.name for path in checkpoint_paths(run_dir / "checkpoints")]
    assert [".common" in name for name in names] == [True, False]
    train(small(640, **IRREGULAR), run_dir, should_stop=lambda: True)  # before anything is done
    train(small(640, **IRREGULAR), run_dir, should_stop=stopper(run_dir, 480))
    train(small(640, **IRREGULAR), run_dir)
    train(small(640, **IRREGULAR), tmp_path / "at_once")
    assert_same_run(run_dir, tmp_path / "at_once")
    discarded = (run_dir / "metrics.discarded.jsonl").read_text()
    assert '"env_steps": 400' in discarded and "evaluate_return" in discarded


def test_a_smaller_budget_leaves_a_longer_run_alone(tmp_path):
    train(small(640), tmp_path / "run")
    before = records(tmp_path / "run"), last_checkpoint(tmp_path / "run")["counters"]
    assert train(small(400), tmp_path / "run").env_steps == 640
    assert (records(tmp_path / "run"), last_checkpoint(tmp_path / "run")["counters"]) == before


def test_a_run_on_its_way_may_end_sooner_and_go_on(tmp_path):
    run_dir = tmp_path / "run"
    train(small(2000, **IRREGULAR), run_dir, should_stop=stopper(run_dir, 200))
    assert train(small(400, **IRREGULAR), run_dir).env_steps == 400
    train(small(400, **IRREGULAR), tmp_path / "sooner")
    assert_same_run(run_dir, tmp_path / "sooner")
    train(small(640, **IRREGULAR), run_dir)
    train(small(640, **IRREGULAR), tmp_path / "at_once")
    assert_same_run(run_dir, tmp_path / "at_once")


def test_seed_episodes_that_a_budget_ended_early_are_those_of_another_run(tmp_path):
    settings = {"seed_min_env_steps": 300}
    train(small(120, **settings), tmp_path)
    with pytest.raises(UserError, match="another seed_min_env_steps"):
        train(small(400, **settings), tmp_path)


def before(run_dir: Path) -> None:
    """Makes the checkpoints those of code that did not mark what depends on the budget."""
    for path in checkpoint_paths(run_dir / "checkpoints"):
        if ".common" in path.name:
            path.unlink()
            continue
        content = torch.load(path, weights_only=True)
        del content["common"]
        torch.save(content, path)
        digest = sha256(path)
        path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


@pytest.mark.parametrize(
    "settings",
    [{}, IRREGULAR, pytest.param({"collect": "parallel"}, marks=pytest.mark.slow)],
)
def test_checkpoints_of_earlier_code_are_continued_where_that_is_exact(tmp_path, settings):
    often = settings | {"checkpoint_every_env_steps": 160}
    run_dir = tmp_path / "extended"
    train(small(400, **often), run_dir, should_stop=stopper(run_dir, 320))
    shutil.copytree(run_dir / "checkpoints", tmp_path / "earlier")
    train(small(400, **often), run_dir)
    shutil.copytree(tmp_path / "earlier", run_dir / "checkpoints", dirs_exist_ok=True)
    before(run_dir)
    shutil.copytree(tmp_path / "extended", tmp_path / "last_only")
    train(small(640, **often), tmp_path / "extended")
    train(small(640, **often), tmp_path / "at_once")
    assert_same_run(tmp_path / "extended", tmp_path / "at_once")
    if settings:  # nothing is left before the end that only the budget asked for
        only = tmp_path / "last_only"
        for path in checkpoint_paths(only / "checkpoints")[:-1]:
            path.unlink()
        with pytest.raises(UserError, match="cannot continue this run exactly"):
            train(small(640, **often), only)
