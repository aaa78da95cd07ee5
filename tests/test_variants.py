"""What each variant is for, shown on toys."""

from __future__ import annotations

import numpy as np
import torch

from dreamer.config import make_config
from dreamer.networks import Encoder, to_float
from dreamer.toys import GREEN, RED, glows
from dreamer.world_model import Contrastive

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
    encoder, contrastive = Encoder(config.conv_depth), Contrastive(config)
    parameters = [*encoder.parameters(), *contrastive.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=2e-3)
    generator = np.random.default_rng(1)

    def information() -> torch.Tensor:
        image, state = pictures_and_states(generator, shuffled, config.feature_size)
        embed = encoder(image)[:, None]
        return -contrastive(image, embed, state[:, None])["contrastive_loss"]

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
