"""A user environment with Gymnasium's methods; most episodes end after three steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class Short:
    """A dot at a random place; one episode in five is long."""

    observation_space = SimpleNamespace(shape=(64, 64, 3), dtype=np.dtype(np.uint8))
    action_space = SimpleNamespace(
        shape=(1,), dtype=np.dtype(np.float32), low=-np.ones(1), high=np.ones(1)
    )

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        place = np.random.default_rng(seed).uniform()
        self._steps, self._end = 0, 30 if place > 0.8 else 3
        self._image = np.full((64, 64, 3), int(255 * place), np.uint8)
        return self._image, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._image, float(action[0]), self._steps >= self._end, False, {}

    def render(self) -> np.ndarray:
        return self._image

    def close(self) -> None:
        """Nothing to close."""


make = Short
