"""User environments that exit, print or fail in ways that runs must survive."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np


class Dot:
    """One number from 0 to 1, moved by the action; an episode has 12 steps."""

    observation_space = SimpleNamespace(shape=(64, 64, 3), dtype=np.dtype(np.uint8))
    action_space = SimpleNamespace(
        shape=(1,), dtype=np.dtype(np.float32), low=-np.ones(1), high=np.ones(1)
    )

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self._steps, self._place = 0, float(np.random.default_rng(seed).uniform())
        return self.render(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._place = float(np.clip(self._place + 0.05 * action[0], 0, 1))
        return self.render(), self._place, False, self._steps >= 12, {}

    def render(self) -> np.ndarray:
        return np.full((64, 64, 3), int(255 * self._place), np.uint8)

    def close(self) -> None:
        """Nothing to close."""


class Breaks(Dot):
    def step(self, action: np.ndarray) -> Any:
        raise OSError("no answer — after 3 € \x1b[31mred")


class Exits(Dot):
    def step(self, action: np.ndarray) -> Any:
        sys.stdin.close()  # as exit() of an interactive session does
        raise SystemExit(0)


class Quits(Dot):
    def step(self, action: np.ndarray) -> Any:
        os._exit(0)


class FillsTheDisk(Dot):
    """That of the folder DISK, to the last byte."""

    def step(self, action: np.ndarray) -> Any:
        with contextlib.suppress(OSError), open(f"{os.environ['DISK']}/filler", "ab", 0) as filler:
            while filler.write(bytes(4096)):
                pass
        return super().step(action)


class Lingers(Dot):
    """Leaves a thread behind that never ends, and reads stdin."""

    def __init__(self) -> None:
        threading.Thread(target=time.sleep, args=[10**6]).start()

    def step(self, action: np.ndarray) -> Any:
        assert sys.stdin.read() == ""
        return super().step(action)


class Slow(Dot):
    def step(self, action: np.ndarray) -> Any:
        time.sleep(0.02)
        return super().step(action)
