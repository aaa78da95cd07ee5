"""Toys in numpy alone: small tasks that show, in minutes on one core, what each variant is for.

toy_dot        a glow is steered onto another       pictures are needed, and little foresight
toy_home       the same, always to the middle       pictures alone, for states told apart by them
toy_discrete   the same by five moves               one-hot actions
toy_far        a hill, and a light on its top       a value is needed beyond a short horizon
toy_end        the last step pays well, and ends    a discount head is needed
probe          writes what it knows into pictures   tests of time and alignment
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dreamer.config import IMAGE_SHAPE
from dreamer.envs.simulators import ActionSpace, Outcome

SPEED = 0.06  # field widths per env_step at action 1: 17 env_steps from wall to wall
WIDTH = 7.0  # pixels, standard deviation of a glow: a small network finds it within 100s of updates
BACKGROUND = (16, 20, 40)
GREEN, RED = (0, 210, 40), (235, 0, 60)


def glows(positions: ArrayLike, colours: Sequence[ArrayLike]) -> NDArray[np.uint8]:
    """Glows at `positions` [n, 2] (x from left, y from top, in the unit square), summed.

    One product: rows [64, n] by columns times colours [n, 64 * 3].
    """
    size = IMAGE_SHAPE[0]
    centres = WIDTH + np.asarray(positions) * (size - 2 * WIDTH)
    across = (np.arange(size) - centres[..., None]) / WIDTH  # [glow, axis, pixel]
    columns, rows = np.exp(-0.5 * across**2).swapaxes(0, 1)
    coloured = columns[:, :, None] * np.array(colours, float)[:, None, :]
    picture = (rows.T @ coloured.reshape(len(rows), -1)).reshape(IMAGE_SHAPE) + BACKGROUND
    return np.rint(np.minimum(picture, 255)).astype(np.uint8)


class ToyDot:
    """A red glow is steered onto a green one by its velocity.

    The field is the unit square, start and target are uniform in it. Reward per env_step:
    (1 + cos(pi distance / diagonal)) / 2, from 0 to 1: steep on the way, flat at the target, so
    that pictures which show positions to a pixel or two are enough. No end of its own.
    """

    action_space = ActionSpace(2, discrete=False)

    def reset(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._position, self._target = random.uniform(size=(2, 2))

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        self._position = np.clip(self._position + SPEED * action, 0.0, 1.0)
        distance = float(np.hypot(*(self._target - self._position)))
        return Outcome(float(1 + np.cos(np.pi * distance / 2**0.5)) / 2, terminal=False)

    def optimal_action(self, action_repeat: int = 1) -> NDArray[np.float32]:
        """Straight to the target: each axis as fast as it can, so no distance could be smaller.

        (With a repeat, up to the decision in which it arrives: that one is slowed to stop there.)
        """
        way = (self._target - self._position) / (SPEED * action_repeat)
        return np.clip(way, -1, 1).astype(np.float32)

    def image(self) -> NDArray[np.uint8]:
        return glows([self._target, self._position], [GREEN, RED])

    def close(self) -> None:
        pass


class ToyHome(ToyDot):
    """`ToyDot` with its target always in the middle: pictures differ by the dot alone.

    Contrastive states keep only what distinguishes the pictures of a batch. In `ToyDot` one of the
    two glows is enough for that, so the target is neglected. Here there is only the dot.
    """

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._target = np.full(2, 0.5)


class ToyDiscrete(ToyDot):
    """`ToyDot` by five moves: left, right, up, down, stay, each at full speed."""

    MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1], [0, 0]], np.float32)

    action_space = ActionSpace(len(MOVES), discrete=True)

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        return super().advance(self.MOVES[int(action.argmax())])

    def optimal_action(self, action_repeat: int = 1) -> NDArray[np.float32]:
        """The move that ends nearest to the target."""
        ends = np.clip(self._position + SPEED * action_repeat * self.MOVES, 0.0, 1.0)
        nearest = np.hypot(*(self._target - ends).T).argmin()
        return np.eye(len(self.MOVES), dtype=np.float32)[nearest]


class ToyFar:
    """A hill with a light on its top: is the climb worth it?

    A dot on a line, which starts anywhere; the top is on the right. Reward per env_step: up to 1
    in the light, minus 3 for each field width climbed, so that going down pays at once. Who looks
    less far ahead than the darkness is wide goes down; who values what comes later climbs. No end
    of its own.
    """

    TOP = 1.0
    REACH = 0.1  # field widths, standard deviation of the light
    CLIMB = 3.0  # reward that a field width costs

    action_space = ActionSpace(1, discrete=False)

    def reset(self, seed: int) -> None:
        self._x = float(np.random.default_rng(seed).uniform())

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        before = self._x
        self._x = float(np.clip(self._x + SPEED * action[0], 0.0, 1.0))
        light = np.exp(-0.5 * ((self.TOP - self._x) / self.REACH) ** 2)
        return Outcome(float(light - self.CLIMB * (self._x - before)), terminal=False)

    def optimal_action(self, action_repeat: int = 1) -> NDArray[np.float32]:
        """To the top: from the very bottom 17 env_steps that cost 3, and then 1 in each."""
        return np.ones(1, np.float32)

    def image(self) -> NDArray[np.uint8]:
        return glows([(self.TOP, 0.5), (self._x, 0.5)], [GREEN, RED])

    def close(self) -> None:
        pass


class ToyEnd:
    """Better to stop before the edge: what lies behind it pays more, but only once.

    A dot on a line, which starts uniform in its left half. Reward per env_step rises from 0 at the
    left end to 1 at 0.5 and stays there; the env_step that crosses the edge at 0.8 pays 3 and is
    the last, terminal. Who does not know of ends expects 3 for ever and goes over the edge.
    """

    PLATEAU, EDGE = 0.5, 0.8
    PRIZE = 3.0

    action_space = ActionSpace(1, discrete=False)

    def reset(self, seed: int) -> None:
        self._x = float(np.random.default_rng(seed).uniform(0, 0.5))

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        self._x = float(np.clip(self._x + SPEED * action[0], 0.0, 1.0))
        if self._x > self.EDGE:
            return Outcome(self.PRIZE, terminal=True)
        return Outcome(min(1.0, self._x / self.PLATEAU), terminal=False)

    def optimal_action(self, action_repeat: int = 1) -> NDArray[np.float32]:
        """As fast as it can to the middle of the plateau, and no further. (The prize in the very
        last env_step, which the agent cannot foresee, is left out.)"""
        way = ((self.PLATEAU + self.EDGE) / 2 - self._x) / (SPEED * action_repeat)
        return np.clip([way], -1, 1).astype(np.float32)

    def image(self) -> NDArray[np.uint8]:
        return glows([(1, 0.5), (self._x, 0.5)], [GREEN, RED])

    def close(self) -> None:
        pass


class Probe:
    """Counts, and writes what it knows into its pictures: for tests of time and alignment.

    After env_step n of an episode the picture holds the seed, n and the last action, and the
    reward of that env_step is n / 1024 (exact in float32). No end of its own.
    """

    action_space = ActionSpace(2, discrete=False)

    def reset(self, seed: int) -> None:
        self._seed, self._count = seed, 0
        self._action = np.zeros(2, np.float32)

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        self._count += 1
        self._action = action.copy()
        return Outcome(self._count / 1024, terminal=False)

    def image(self) -> NDArray[np.uint8]:
        image = np.full(IMAGE_SHAPE, self._count % 256, np.uint8)
        counts = np.array([self._seed, self._count], np.int64)
        known = np.frombuffer(counts.tobytes() + self._action.tobytes(), np.uint8)
        image.reshape(-1)[: known.size] = known
        return image

    @staticmethod
    def read(image: NDArray[np.uint8]) -> tuple[int, int, NDArray[np.float32]]:
        """(seed, env_steps since the reset, last action [2]) from a picture."""
        known = image.reshape(-1)[:24].tobytes()
        seed, count = np.frombuffer(known[:16], np.int64)
        return int(seed), int(count), np.frombuffer(known[16:], np.float32)

    def close(self) -> None:
        pass
