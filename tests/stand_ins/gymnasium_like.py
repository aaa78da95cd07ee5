"""An environment of Gymnasium's interface without Gymnasium: `gymnasium_like:make` in a task."""

from types import SimpleNamespace

import numpy as np

LIMIT = 40


class Drift:
    """Observes a grey picture of 96x80; actions [2, 1] with bounds of their own."""

    observation_space = SimpleNamespace(shape=(96, 80, 1), dtype=np.dtype(np.uint8))
    action_space = SimpleNamespace(
        shape=(2, 1),
        dtype=np.dtype(np.float32),
        low=np.array([[0.0], [-10.0]], np.float32),
        high=np.array([[1.0], [30.0]], np.float32),
    )

    def reset(self, *, seed=None):
        self.level, self.steps = float(np.random.default_rng(seed).uniform(0, 150)), 0
        return self._picture(), {}

    def step(self, action):
        assert action.shape == (2, 1) and action.dtype == np.float32
        self.taken = action
        self.level, self.steps = self.level + abs(float(action.sum())) % 7, self.steps + 1
        reached = self.level > 10_000
        return self._picture(), np.float64(self.level), reached, self.steps >= LIMIT, {}

    def _picture(self):
        picture = np.zeros((96, 80, 1), np.uint8)
        picture[:48] = int(self.level) % 256
        return picture

    def close(self):
        pass


def make():
    return Drift()


def blind():
    """An environment that shows nothing."""
    env = Drift()
    env.observation_space = SimpleNamespace(shape=(4,), dtype=np.dtype(np.float32))
    env.render = lambda: None
    return env


def odd():
    """An environment with actions that are neither numbers nor choices."""
    env = Drift()
    env.action_space = SimpleNamespace(spaces=())
    return env
