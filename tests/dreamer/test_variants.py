"""Every variant runs whole, and what each is for, shown on toys."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_runs import assert_same_run, minute, stopper

from dreamer import evaluate
from dreamer.config import make_config
from dreamer.envs.toys import GREEN, RED, glows
from dreamer.networks import Encoder, to_float
from dreamer.train import train
from dreamer.variants import BEHAVIOURS, REPRESENTATIONS
from dreamer.world_model import Contrastive, Seen

PLANNER = {"planner_candidates": 20, "planner_elites": 5, "planner_horizon": 3}
ENDS = {"task": "toy_end", "discount_head": True}
VARIANTS = [
    *(
        {"behaviour": behaviour, "representation": representation}
        for behaviour, representation in itertools.product(BEHAVIOURS, REPRESENTATIONS)
    ),
    {"task": "toy_discrete"},
    *({**ENDS, "behaviour": behaviour} for behaviour in BEHAVIOURS),
    {"value_target": "slow", "slow_value_every_updates": 5, "exploration_action": "mode"},
]


@pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values()))
)
def test_every_variant_trains_resumes_exactly_and_makes_videos(
    variant, tmp_path: Path, capsys
) -> None:
    config = minute(**PLANNER, **variant, env_steps=280)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(config, whole).status == "COMPLETED"
    assert train(config, cut, should_stop=stopper(cut, 150)).status == "INTERRUPTED"
    assert train(config, cut).status == "COMPLETED"
    assert_same_run(cut, whole)
    video, prediction = tmp_path / "agent.gif", tmp_path / "prediction.gif"
    options = ["--episodes", "2", "--video", str(video), "--prediction", str(prediction)]
    assert evaluate.main([str(cut), *options]) == 0
    assert "return of 2 episodes: mean" in capsys.readouterr().out
    assert video.stat().st_size > 0 and prediction.stat().st_size > 0


PAIRS = 32
MOST = np.log(PAIRS)  # nats: more cannot be told from a batch


def pictures_and_states(generator: np.random.Generator, shuffled: bool, size: int):
    """Pictures of two glows, and states that hold where they are, or where others' are."""
    places = generator.uniform(size=(PAIRS, 2, 2))
    images = np.stack([glows(place, [GREEN, RED]) for place in places])
    where = torch.from_numpy(places.reshape(PAIRS, 4)).float() * 4 - 2
    states = torch.zeros(PAIRS, size)
    states[:, :4] = where
    if shuffled:
        states = states[torch.from_numpy(generator.permutation(PAIRS))]
    states = states + 0.1 * torch.from_numpy(generator.normal(size=(PAIRS, size))).float()
    return to_float(torch.from_numpy(images)), states


def information_learned(shuffled: bool) -> tuple[float, float]:
    """The bound in nats on new pairs, before and after 200 updates of encoder and state model."""
    config = make_config("tiny", {"conv_depth": 2, "deter_size": 4, "stoch_size": 2})
    torch.manual_seed(0)
    encoder, contrastive = Encoder(config.conv_depth), Contrastive(config, 2)
    parameters = [*encoder.parameters(), *contrastive.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=2e-3)
    generator = np.random.default_rng(1)

    def information() -> torch.Tensor:
        image, state = pictures_and_states(generator, shuffled, config.feature_size)
        embed = encoder(image)[:, None]
        seen = Seen(image, embed, action=None, observed=None, feature=state[:, None])
        return -contrastive(seen)["contrastive_loss"]

    def measured() -> float:
        with torch.no_grad():
            return float(np.mean([information().item() for _ in range(10)]))

    before = measured()
    for _ in range(200):
        loss = -information()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return before, measured()


def test_mutual_information_rises_where_pictures_tell_of_states() -> None:
    before, after = information_learned(shuffled=False)
    assert before < 0.1 * MOST
    assert 0.6 * MOST < after <= MOST


def test_and_not_where_pictures_and_states_are_shuffled() -> None:
    _, after = information_learned(shuffled=True)
    assert after < 0.05 * MOST
