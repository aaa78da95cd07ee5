"""A stand-in with the documented interface of DeepMind Lab's Python module, for tests.

The real one is not on PyPI. From its documentation (docs/users/python_api.md): `Lab(level,
observations, config, renderer)` with string settings; `reset(episode=-1, seed=None)`; `step(action
int32 [7], num_steps)` gives the reward; `is_running()` is false once the episode is over, and
`observations()` then raises; `close()`.
"""

import numpy as np

FRAMES = 30  # of an episode


class Lab:
    def __init__(self, level, observations, config=None, renderer="software"):
        self.level, self.config = level, dict(config or {})
        assert all(type(x) is str for pair in self.config.items() for x in pair)
        assert observations == ["RGB_INTERLEAVED"] and renderer in ("software", "hardware")
        self._size = int(self.config.get("height", 240)), int(self.config.get("width", 320))
        self._left = 0
        self.closed = False

    def reset(self, episode=-1, seed=None):
        assert type(seed) is int and 0 <= seed < 2**31
        self._random = np.random.default_rng(seed)
        self._place = self._random.integers(50, 200, size=7)
        self._left = FRAMES
        return True

    def step(self, action, num_steps=1):
        if not self._left:
            raise RuntimeError("Environment in wrong status, call reset before stepping")
        assert action.dtype == np.intc and action.shape == (7,) and type(num_steps) is int
        self._place = self._place + action * num_steps
        self._left = max(0, self._left - num_steps)
        return float(np.abs(action).sum())

    def is_running(self):
        return self._left > 0

    def observations(self):
        if not self._left:
            raise RuntimeError("Environment in wrong status for call to observations()")
        image = np.zeros((*self._size, 3), np.uint8)
        image[:, : self._left] = (self._place[:3] + self._place[3:6]) % 256
        return {"RGB_INTERLEAVED": image}

    def close(self):
        self.closed = True
