"""A user's behaviour and representation, outside the package: from YAML to a figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from dreamer.agent import Agent
from dreamer.config import make_config
from dreamer.envs.simulators import ActionSpace
from dreamer.errors import ConfigError
from dreamer.variants import BEHAVIOURS, REPRESENTATIONS, BehaviourCard, load_class

ROOT = Path(__file__).parents[1]
MODULE = '''\
"""Two variants, each a class and a card."""

import torch

from dreamer.variants import BehaviourCard, RepresentationCard

still = BehaviourCard(label="Still", code="own_variants:Still")
actions = RepresentationCard(label="Actions", code="own_variants:Actions")


def __getattr__(name):  # classes need torch, cards do not
    import own_classes

    return getattr(own_classes, name)
'''
CLASSES = '''\
"""Their classes."""

import torch
from torch import nn

from dreamer.networks import Dense
from dreamer.world_model import Representation


class Still(nn.Module):
    """It never acts, and learns nothing."""

    def __init__(self, config, space):
        super().__init__()
        self.space = space

    def parameter_groups(self):
        return {}

    def draw_noise(self, starts, generator):
        return None

    def losses(self, model, states, noise):
        return {}, {}

    def after_update(self, updates):
        pass

    def act(self, model, state, explore, generator):
        return torch.zeros(len(state.deter), self.space.size)


class Actions(Representation):
    """States should tell the action that led to them, and the one before."""

    def __init__(self, config, action_size):
        super().__init__()
        self.inverse = Dense(2 * config.feature_size, action_size, config.dense_units, 1)

    def forward(self, seen):
        pairs = torch.cat([seen.feature[:, :-1], seen.feature[:, 1:]], -1)
        error = self.inverse(pairs) - seen.action[:, 1:]
        surprise = (seen.observed.posterior.mean - seen.observed.prior.mean).square().mean()
        return {"action_loss": error.square().mean(), "surprise_loss": 0.1 * surprise}
'''
SUITE = """\
about: Variants of one's own
preset: tiny
env_steps: 120
time_limit_env_steps: 40
seed_episodes: 2
first_updates: 6
updates_per_1000_env_steps: 10
eval_every_env_steps: 60
log_every_updates: 2
batch_size: 4
length: 5
horizon: 3
probe_decoder: false
seeds: 1
workers: 1
scale: [0, 50]
figures: [curves, aggregates]
grid:
  - task: toy_dot
  - task: toy_dot
    behaviour: own_variants:still
    representation: own_variants:actions
"""


def test_from_yaml_to_a_figure(tmp_path: Path) -> None:
    (tmp_path / "own_variants.py").write_text(MODULE.replace("import torch\n\n", ""))
    (tmp_path / "own_classes.py").write_text(CLASSES)
    (tmp_path / "own.yaml").write_text(SUITE)

    def run(*words: str) -> str:
        environment = {
            **os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "2 done" in run("-m", "suites.run", "own.yaml")
    (metrics,) = (tmp_path / "results" / "runs").glob("toy_dot-own_variants_still-*/metrics.jsonl")
    assert '"action_loss"' in metrics.read_text()
    run(str(ROOT / "analysis" / "make_figures.py"), "--suite", "own.yaml")
    folder = tmp_path / "results" / "figures" / "own"
    assert set(pd.read_csv(folder / "scores.csv").label) == {"Dreamer", "Still, actions"}
    assert (folder / "curves.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dreemer", "did you mean 'dreamer'"),
        ("nowhere:card", "No module named 'nowhere'; is its folder in PYTHONPATH?"),
        ("dreamer.variants:card", "has no attribute 'card'"),
        ("dreamer.variants:BEHAVIOURS", "is a dict, not a BehaviourCard"),
    ],
)
def test_mistakes_are_named(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match="behaviour: ") as error:
        make_config("tiny", {"behaviour": value})
    assert message in str(error.value)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_card_that_forgets_a_group_is_an_error(name: str, monkeypatch) -> None:
    config = make_config("tiny", {"behaviour": name})
    Agent(config, ActionSpace(2, discrete=False))  # the card is right
    card = BEHAVIOURS[name]
    wrong = BehaviourCard(label=card.label, code=card.code, learning_rates={"critic": "discount"})
    monkeypatch.setitem(BEHAVIOURS, name, wrong)
    with pytest.raises(ConfigError, match="its card has the learning rates of"):
        Agent(config, ActionSpace(2, discrete=False))


def test_every_card_has_its_class() -> None:
    for card in (*BEHAVIOURS.values(), *REPRESENTATIONS.values()):
        assert issubclass(load_class(card), torch.nn.Module)
