"""Random streams without state: what is drawn depends on the run's seed, the purpose and an index.

Episode 12 and update 345 draw the same numbers whether the run was interrupted before them or not,
so no generator has to be saved for an exact resume.
"""

from __future__ import annotations

import numpy as np
import torch

STREAMS = {  # purpose -> what the index counts
    "initialise": 0,  # nothing: the networks' first weights
    "train": 1,  # training episodes
    "evaluate": 2,  # evaluation episodes
    "sample": 3,  # updates: which sequences are drawn from replay
    "update": 4,  # updates: noise of states and actions
    "predict": 5,  # evaluations: noise of the open-loop prediction
    "score": 6,  # episodes played by `python -m dreamer.evaluate`
}


def stream_seed(seed: int, purpose: str, index: int) -> int:
    """A 63-bit seed for draw `index` of a purpose in STREAMS."""
    words = np.random.SeedSequence([seed, STREAMS[purpose], index]).generate_state(2, np.uint64)
    return int(words[0] >> 1)


def numpy_generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    return np.random.default_rng(stream_seed(seed, purpose, index))


def torch_generator(
    seed: int, purpose: str, index: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, index))


def randn(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Standard Normal noise of this shape, on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)
