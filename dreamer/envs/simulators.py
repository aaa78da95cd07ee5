"""What a task is, to all that wraps it: one simulator step at a time, and a picture when asked."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dreamer.config import IMAGE_SHAPE


class ActionSpace(NamedTuple):
    """Continuous: float32 [A] in [-1, 1]. Discrete: one-hot float32 [A]."""

    size: int  # A
    discrete: bool


class Outcome(NamedTuple):
    """What one simulator step gives."""

    reward: float  # checked in environment.py
    terminal: bool
    truncated: bool = False  # by a limit inside the simulator


class Simulator(Protocol):
    """A task, one simulator step at a time. Pictures are drawn only when asked for."""

    action_space: ActionSpace

    def reset(self, seed: int) -> None: ...

    def advance(self, action: NDArray[np.float32]) -> Outcome: ...

    def image(self) -> NDArray[np.uint8]: ...

    def close(self) -> None: ...


def as_picture(frame: NDArray[Any]) -> NDArray[np.uint8]:
    """A frame uint8 [height, width, 3] as 64x64.

    Shrunk with a triangle filter as wide as what falls into a pixel (the released code's choice),
    so that thin things fade rather than vanish.
    """
    from PIL import Image

    if frame.shape == IMAGE_SHAPE:
        return np.array(frame, np.uint8)
    size = (IMAGE_SHAPE[1], IMAGE_SHAPE[0])
    return np.array(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def affine(
    action: NDArray[np.float32], low: NDArray[Any], high: NDArray[Any]
) -> NDArray[np.float64]:
    """From [-1, 1] to [low, high]; where one of them is not finite, to itself."""
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return low + (action.astype(np.float64) + 1) / 2 * (high - low)
