"""What comes from other people's environments, checked: actions, pictures, rewards, calls, seeds.

Each mistake is a UserError of one line. Where the environment leaves a choice, what was chosen is
printed once.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamer.envs.simulators import ActionSpace, affine
from dreamer.errors import ConfigError, UserError, nearest, shorten

MAX_CHOICES = 10_000  # one-hot actions, or combinations of switches
MIN_SIDE = 16  # pixels; smaller observations are boards, if something else can be seen
MAX_CODE = 15  # uint8 observations up to this are codes, if something else can be seen
ROUNDING = 1e-3  # by which floats may leave [0, 1]
AUTO, RENDER = "auto", "render"  # settings `observation`; anything else names an entry
LARGEST = float(np.finfo(np.float32).max)  # replay holds rewards as float32

_SAID = "DREAMER_SAID"  # in the environment: the processes that collect repeat nothing


def say_once(line: str) -> None:
    """Prints a line to stderr, once in this process and those that it starts."""
    said = os.environ.get(_SAID, "").split("\n")
    if line not in said:
        os.environ[_SAID] = "\n".join([*said, line]).strip("\n")
        print(line, file=sys.stderr)


def in_short(value: object) -> str:
    """One short line of anything, for messages."""
    return shorten(" ".join(str(value).split()), 200)


# --- Calls --------------------------------------------------------------------------------------

INTERFACE = (
    "Gymnasium's interface is expected: reset(seed=...) gives (observation, info), step(action) "
    "gives (observation, reward, terminated, truncated, info); wrap an environment of the old Gym "
    "with shimmy.GymV21CompatibilityV0"
)


def call(task: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A method's result; UserError where it needs a package that is missing, or ends the process.
    Packages may be imported as late as in the first picture."""
    try:
        return function(*args, **kwargs)
    except SystemExit as error:
        name = getattr(function, "__name__", "it")
        raise UserError(f"task: {task}: {name}() ends the process (exit {error.code})") from error
    except Exception as error:
        if isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled":
            raise missing(task, error) from error
        raise


def missing(task: str, error: BaseException) -> UserError:
    return UserError(f"task: {task} needs more than is installed: {in_short(error)}")


def check_interface(task: str, env: Any) -> None:
    """Raises UserError for what is no environment, or many at once."""
    lacking = [name for name in ("reset", "step", "action_space") if not hasattr(env, name)]
    if lacking:
        kind = type(env).__name__
        raise UserError(f"task: {task} makes {kind}, without {', '.join(lacking)}; {INTERFACE}")
    if getattr(env, "num_envs", None) is not None:
        raise UserError(f"task: {task} makes {env.num_envs} environments in one; make a single one")


def reset(task: str, env: Any, seed: int) -> Any:
    """The first observation of an episode."""
    try:
        result = call(task, env.reset, seed=seed)
    except TypeError as error:
        if "seed" not in str(error):
            raise
        raise UserError(f"task: {task}: reset() takes no seed; {INTERFACE}") from error
    pair = isinstance(result, (tuple, list)) and len(result) == 2
    if not pair or not isinstance(result[1], (Mapping, type(None))):
        raise UserError(f"task: {task}: reset() gives {_described(result)}; {INTERFACE}")
    return result[0]


def step(task: str, env: Any, action: Any) -> tuple[Any, Any, bool, bool]:
    """(observation, reward, terminal, truncated)"""
    result = call(task, env.step, action)
    if not (isinstance(result, (tuple, list)) and len(result) == 5):
        raise UserError(f"task: {task}: step() gives {_described(result)}; {INTERFACE}")
    observation, reward, terminal, truncated, _ = result
    return observation, reward, _flag(task, terminal), _flag(task, truncated)


def _described(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"{len(value)} values"
    array = _array(value)
    return f"one {type(value).__name__}" if array is None else _kind(array)


def _flag(task: str, value: Any) -> bool:
    if type(value) is bool:
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        given = in_short(repr(value))
        raise UserError(f"task: {task}: step() gives {given} as an end; True or False is expected")
    return bool(array.item())


def as_reward(value: Any) -> float | None:
    """A reward as a float; None where it is not one finite number (of float32)."""
    if type(value) is not float:
        try:
            value = np.asarray(value, np.float64).item()
        except (TypeError, ValueError, OverflowError, RuntimeError):  # a tensor with gradients
            return None
    return value if abs(value) <= LARGEST else None


# --- Randomness ---------------------------------------------------------------------------------


def short_seed(seed: int) -> int:
    """A seed below 2^31, which is as much as environments take."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)


def seed_global_generators(seed: int) -> None:
    """So that an environment that draws from them depends on its seed alone. Nothing of ours does.

    Python's, NumPy's and, where it is loaded, PyTorch's on the CPU.
    """
    random.seed(seed)
    np.random.seed(short_seed(seed))
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(seed)


# --- Actions ------------------------------------------------------------------------------------


class Actions:
    """An environment's space of actions as ours.

    Box (float) is mapped from [-1, 1] to its bounds. Discrete, MultiDiscrete and MultiBinary are
    one-hot; of several switches, all combinations.
    """

    def __init__(self, task: str, space: Any):
        self._task, self._described = task, in_short(space)
        self._choices = self._sizes(space)
        usual = np.float32 if self._choices is None else np.int64
        self._dtype = getattr(space, "dtype", None) or usual
        if self._choices is not None:
            self.space = ActionSpace(self._combinations(self._choices), discrete=True)
            self._start: Any = getattr(space, "start", 0)
        elif hasattr(space, "low") and np.issubdtype(np.dtype(self._dtype), np.floating):
            self._low, self._high = self._bounds(space)
            self.space = ActionSpace(self._low.size, discrete=False)
        else:
            raise self._error("only Discrete, MultiDiscrete, MultiBinary and Box (float) work")

    def native(self, action: NDArray[np.float32]) -> Any:
        """Our action [A] as the environment takes it."""
        if self._choices is None:
            scaled = affine(action.reshape(self._low.shape), self._low, self._high)
            return scaled.astype(self._dtype)
        number = int(action.argmax())
        if self._choices.ndim == 0:
            return int(self._start + number)
        switches = np.reshape(np.unravel_index(number, self._choices.ravel()), self._choices.shape)
        return (switches + self._start).astype(self._dtype)

    def _sizes(self, space: Any) -> NDArray[np.int64] | None:
        """How many choices there are: of one number, or of each switch; None for other spaces."""
        if hasattr(space, "nvec"):  # MultiDiscrete
            return np.array(space.nvec, np.int64)
        if not hasattr(space, "n"):
            return None
        if np.ndim(space.n) > 0:  # MultiBinary of several dimensions
            return np.full(tuple(space.n), 2)
        if getattr(space, "shape", None) == (space.n,):  # MultiBinary
            return np.full(space.n, 2)
        return np.array(int(space.n))

    def _combinations(self, choices: NDArray[np.int64]) -> int:
        if choices.size == 0 or choices.min() < 1:
            raise self._error("there is none to choose")
        count = float(np.prod(choices, dtype=np.float64))
        if count > MAX_CHOICES:
            raise self._error(
                f"{count:.4g} choices are more than {MAX_CHOICES}; wrap it with a space of fewer"
            )
        return int(count)

    def _bounds(self, space: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        shape = getattr(space, "shape", None)
        shape = np.shape(space.low) if shape is None else tuple(shape)
        low, high = (np.broadcast_to(x, shape) for x in (space.low, space.high))
        if low.size == 0:
            raise self._error("there is none to choose")
        free = ~(np.isfinite(low) & np.isfinite(high))
        if not (low <= high).all() or (free & ((low > -1) | (high < 1))).any():
            raise self._error("each needs a lower and a higher bound, or none of both")
        if free.any():
            say_once(f"note: task {self._task}: actions without bounds are taken from [-1, 1]")
        return low, high

    def _error(self, problem: str) -> UserError:
        return UserError(f"task: {self._task} has actions {self._described}; {problem}")


# --- Pictures -----------------------------------------------------------------------------------

PICTURE = "a picture is uint8, or float in [0, 1], of [height, width, 3]"
MODE = f"make it with render_mode='rgb_array'; {PICTURE}"


def rgb(frame: Any) -> NDArray[np.uint8]:
    """A frame in colour, uint8 [height, width, 3]. Raises ValueError that describes another one.

    Grey, RGBA (without its alpha) and channels first are understood, and floats in [0, 1].
    """
    array = _array(frame)
    if array is None:
        raise ValueError(type(frame).__name__)
    shown = array
    if shown.ndim == 2:
        shown = shown[..., None]
    if shown.ndim == 3 and shown.shape[2] not in (1, 3, 4) and shown.shape[0] in (1, 3):
        shown = np.moveaxis(shown, 0, 2)
    if shown.ndim != 3 or shown.shape[2] not in (1, 3, 4) or shown.size == 0:
        raise ValueError(_kind(array))
    return np.broadcast_to(_bytes(shown[..., :3]), (*shown.shape[:2], 3))


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Values as uint8 from 0 to 255."""
    if array.dtype == np.uint8:
        return array
    top = 1 if array.dtype.kind in "bf" else 255
    if not (array.min() >= -ROUNDING and array.max() <= top + ROUNDING):  # NaN is refused, too
        raise ValueError(_kind(array))
    return np.rint(np.clip(array, 0, top) * np.float32(255 / top)).astype(np.uint8)


def _array(value: Any) -> NDArray[Any] | None:
    """A numeric array of what is one (a tensor, an image of Pillow), else None."""
    if not (hasattr(value, "__array__") or hasattr(value, "__array_interface__")):
        return None
    array = np.asarray(value)
    return array if array.dtype.kind in "biuf" else None


def _kind(array: NDArray[Any]) -> str:
    """An array in words, with its range where that matters."""
    text = f"{array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8 and array.size:
        text += f" from {array.min():.4g} to {array.max():.4g}"
    return text


class Pictures:
    """Where an environment's pictures come from: its observations, one entry of them, or render().

    Decided once, from the first observation: so it must be that of the same seed in every process.
    """

    def __init__(
        self, task: str, env: Any, wanted: str, observation: Any, render: Callable[[], Any]
    ):
        self._task, self._render = task, render
        self._last: Any = None
        self._entry = None if wanted in (AUTO, RENDER) else wanted
        source, space = "its observations", getattr(env, "observation_space", None)
        if self._entry is not None:
            source = f"its observation {wanted!r}"
            space, observation = self._entry_of(space), self._entry_of(observation)
        sure, unlikely = _no_picture(space, observation)
        is_none, doubts = bool(sure or len(unlikely) > 1), sure or ", ".join(unlikely)
        if self._entry is not None and is_none:
            raise UserError(f"task: {task}: observation {wanted!r} is no picture: {doubts}")
        self.rendered = False
        if wanted == RENDER or (wanted == AUTO and doubts):
            try:
                frame = self._frame()
                rgb(frame)
            except UserError:  # a package is missing
                raise
            except Exception as error:
                if wanted == RENDER or is_none:
                    came = isinstance(error, ValueError)
                    drawn = f"gives {error}" if came else f"fails: {error!r}"
                    names = ", ".join(_pictures_in(observation))
                    raise UserError(
                        f"task: {task} shows no picture: its observations are none "
                        f"({doubts or 'render() was asked for'}), and render() {in_short(drawn)}; "
                        + (f"choose one with `observation`: {names}" if names else MODE)
                    ) from error
            else:
                self.rendered = True
                self._say(f"what render() gives, {_described(frame)}", [])
                return
        self._say(f"{source}, {_described(observation)}", unlikely)

    def of(self, observation: Any) -> NDArray[np.uint8]:
        """The picture that belongs to an observation, uint8 [height, width, 3]."""
        if self.rendered:
            source, shown = "render()", self._frame()
        else:
            source, shown = "its observation", observation
            if self._entry is not None:
                shown = self._entry_of(observation)
        try:
            return rgb(shown)
        except ValueError as error:
            raise UserError(f"task: {self._task}: {source} gives {error}; {PICTURE}") from None

    def _frame(self) -> Any:
        """What render() gives: with render_mode="rgb_array_list" all since it was last asked."""
        frame = self._render()
        if isinstance(frame, list):
            frame = frame[-1] if frame else self._last
        self._last = frame
        return frame

    def _entry_of(self, value: Any) -> Any:
        """The named entry of an observation, or of its space."""
        entries = getattr(value, "spaces", value)
        if not isinstance(entries, Mapping):
            raise ConfigError(
                "observation",
                f"{self._task} observes no dict, so it has no entry {self._entry!r}; leave it at "
                f"{AUTO!r}, or set {RENDER!r}",
            )
        if self._entry not in entries:
            raise ConfigError(
                "observation",
                f"{self._task} observes no {self._entry!r}; {nearest(self._entry, entries)}",
            )
        return entries[self._entry]

    def _say(self, source: str, doubts: list[str]) -> None:
        line = f"task {self._task}: its pictures are {source}"
        if doubts:
            say_once(f"warning: {line}: {', '.join(doubts)}; is that a picture?")
        else:
            say_once(f"note: {line}")


def _no_picture(space: Any, observation: Any) -> tuple[str, list[str]]:
    """(why an observation is none for certain, why it is none in all likelihood)"""
    try:
        height, width, _ = rgb(observation).shape
    except ValueError as error:
        return str(error), []
    array = _array(observation)
    if array is None or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        return _described(observation), []
    if tuple(getattr(space, "shape", None) or array.shape) != array.shape:
        return f"{_kind(array)}, whose space has shape {list(space.shape)}", []
    high = np.max(getattr(space, "high", np.inf))
    if array.dtype == np.uint8 and high < 128:
        return f"{_kind(array)}, whose space has values to {high:g} only", []
    if array.dtype.kind == "f" and high > 1 and hasattr(space, "high"):
        return f"{_kind(array)}, whose space has values to {high:g}", []
    doubts = []
    if min(height, width) < MIN_SIDE:
        doubts.append(f"{_kind(array)} is small")
    if array.dtype == np.uint8 and array.max() <= MAX_CODE:
        doubts.append(f"no value of the first one exceeds {array.max()}")
    if array.shape[-1:] == (4,) and np.ptp(array[..., 3]) > 0:
        doubts.append("its fourth channel is no plain alpha: are these four frames?")
    return "", doubts


def _pictures_in(observation: Any) -> list[str]:
    """The entries of a dict that are pictures."""
    if not isinstance(observation, Mapping):
        return []
    return [
        str(name) for name, value in observation.items() if _no_picture(None, value) == ("", [])
    ]
