"""User environments, each odd in one way; a task names them: `odd_environments:boards`."""

from __future__ import annotations

import importlib
import itertools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np

SIDE = 64


def space(shape: tuple[int, ...], dtype: Any = np.uint8, **bounds: Any) -> SimpleNamespace:
    return SimpleNamespace(shape=shape, dtype=np.dtype(dtype), **bounds)


class Slide:
    """A bar slides; observes its picture. `reward` and `shown` are what oddities replace."""

    observation_space = space((SIDE, SIDE, 3))
    action_space = space((1,), np.float32, low=-np.ones(1), high=np.ones(1))

    def __init__(self, length: int = 12):
        self.length = length
        self.taken: Any = None

    def reset(self, *, seed: int | None = None) -> Any:
        assert seed is not None and 0 <= seed < 2**31
        self.steps, self.place = 0, float(np.random.default_rng(seed).uniform())
        return self.shown(), {}

    def step(self, action: Any) -> Any:
        self.taken, self.steps = action, self.steps + 1
        self.place = (self.place + 0.1) % 1
        return self.shown(), self.reward(), False, self.steps >= self.length, {}

    def picture(self) -> np.ndarray:
        picture = np.full((SIDE, SIDE, 3), 51, np.uint8)
        column = int(self.place * (SIDE - 4))
        picture[20:40, column : column + 4] = (255, 102, 0)
        return picture

    def shown(self) -> Any:
        return self.picture()

    def reward(self) -> Any:
        return self.place

    def render(self) -> Any:
        return self.picture()


def variant(**odd: Any) -> type[Slide]:
    return type("Odd", (Slide,), odd)


# --- Actions ------------------------------------------------------------------------------------

switches = variant(action_space=space((4,), np.int8, n=4))
wide_switches = variant(action_space=space((2, 2), np.int8, n=[2, 2]))
dials = variant(action_space=space((2,), np.int64, nvec=np.array([2, 3]), start=np.array([0, 5])))
too_many = variant(action_space=space((20,), np.int8, n=20))
whole = variant(action_space=space((1,), np.int64, low=0, high=3))
one_sided = variant(action_space=space((1,), np.float32, low=0, high=np.inf))
nothing_to_do = variant(action_space=space((0,), np.float32, low=0, high=1))

# --- Pictures -----------------------------------------------------------------------------------

NUMBERS = space((1,), np.float32)


def sees(change: Any, its_space: Any = None) -> type[Slide]:
    """Observes its picture, changed."""
    shown = change(np.zeros((SIDE, SIDE, 3), np.uint8))
    its_space = its_space or space(shown.shape, shown.dtype)
    return variant(observation_space=its_space, shown=lambda self: change(self.picture()))


def draws(change: Any) -> type[Slide]:
    """Observes a number; render() gives its picture, changed."""
    return variant(
        observation_space=NUMBERS,
        shown=lambda self: np.array([self.place], np.float32),
        render=lambda self: change(self.picture()),
    )


def floats(picture: np.ndarray) -> np.ndarray:
    return picture / np.float32(255)


def rgba(picture: np.ndarray) -> np.ndarray:
    return np.concatenate([picture, np.full((SIDE, SIDE, 1), 7, np.uint8)], 2)


def first(picture: np.ndarray) -> np.ndarray:
    return np.moveaxis(picture, 2, 0)


def grey(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0]


def doubled(picture: np.ndarray) -> np.ndarray:
    return floats(picture).repeat(2, 0).repeat(2, 1)


drawn_floats, seen_floats = draws(floats), sees(floats)
drawn_large_floats = draws(doubled)
drawn_rgba, seen_rgba = draws(rgba), sees(rgba)
drawn_first, seen_first = draws(first), sees(first)
drawn_grey, seen_grey = draws(grey), sees(grey)
drawn_list = draws(lambda picture: [picture * 0, picture])
drawn_whole = draws(lambda picture: picture.astype(np.int64))
drawn_wrong = draws(lambda picture: picture.astype(np.float32))
drawn_flat = draws(np.ravel)
drawn_none = draws(lambda picture: None)
seen_stack = sees(lambda picture: np.stack([picture[..., 0]] * 4, 2))
seen_board = sees(lambda picture: picture[::8, ::8] // 100)
seen_codes = sees(lambda picture: picture // 50)
seen_bounded_codes = sees(
    lambda picture: picture // 3, space((SIDE, SIDE, 3), high=np.full((SIDE, SIDE, 3), 85))
)
blind_board = variant(
    observation_space=space((8, 8, 3)),
    shown=lambda self: self.picture()[::8, ::8] // 100,
    render=lambda self: None,
)
entries = variant(
    observation_space=SimpleNamespace(
        spaces={"pixels": space((SIDE, SIDE, 3)), "place": NUMBERS},
    ),
    shown=lambda self: {"pixels": self.picture(), "place": np.array([self.place], np.float32)},
    render=lambda self: None,
)


class Later(Slide):
    """From its third step on, a picture of floats beyond 1."""

    observation_space = NUMBERS

    def shown(self) -> Any:
        return np.array([self.place], np.float32)

    def render(self) -> Any:
        return floats(self.picture()) * (2 if self.steps >= 3 else 1)


# --- Rewards, randomness, calls -------------------------------------------------------------------


def pays(what: Any) -> type[Slide]:
    """Pays `what` in its third step."""
    return variant(reward=lambda self: what if self.steps == 3 else 1.0)


paid_array = pays(np.array([2.5]))
paid_scalar = pays(np.float32(2.5))
paid_nan = pays(np.nan)
paid_two = pays(np.array([1.0, 2.0]))
paid_none = pays(None)
paid_text = pays("much")
paid_huge = pays(1e39)


def ends(value: Any) -> type[Slide]:
    """An environment with this value in place of `terminated`."""

    class Ends(Slide):
        def step(self, action: Any) -> Any:
            see, reward, _, *rest = super().step(action)
            return see, reward, value, *rest

    return Ends


end_text = ends("False")
end_none = ends(None)
end_two = ends(np.array([False, False]))
end_nan = ends(np.nan)
end_array = ends(np.array([0]))


class Global(Slide):
    """Draws from the global generators."""

    def reset(self, *, seed: int | None = None) -> Any:
        super().reset(seed=seed)
        import torch

        self.place = (np.random.uniform() + random.random() + float(torch.rand(()))) % 1
        return self.shown(), {}


class Unseeded(Slide):
    """Ignores its seed: each episode of the process begins at another place."""

    places = itertools.cycle((0.2, 0.5, 0.8))

    def reset(self, *, seed: int | None = None) -> Any:
        super().reset(seed=seed)
        self.place = next(self.places)
        return self.shown(), {}


class OldReset(Slide):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset(seed=0)[0]


class OldResult(Slide):
    def reset(self, *, seed: int | None = None) -> Any:
        return super().reset(seed=seed)[0]


class OldStep(Slide):
    def step(self, action: Any) -> Any:
        observation, reward, _, over, info = super().step(action)
        return observation, reward, over, info


class Lacking(Slide):
    """Needs a package in its second step."""

    def step(self, action: Any) -> Any:
        if self.steps == 1:
            importlib.import_module("no_such_package")
        return super().step(action)


class Ending(Slide):
    def step(self, action: Any) -> Any:
        raise SystemExit(3)


class Draws(Slide):
    """Its maker draws a world."""

    def __init__(self) -> None:
        super().__init__()
        self.world = np.random.uniform()


def nothing() -> None:
    """Forgets to return what it made."""


def failing() -> Slide:
    raise RuntimeError("no display\nat all")


def several() -> Any:
    env = Slide()
    env.num_envs = 8  # type: ignore[attr-defined]
    return env
