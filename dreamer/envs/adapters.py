"""Other people's environments as simulators: Atari, DeepMind Lab, anything that is a Gymnasium.

    atari:pong                     a game that comes with ale-py
    dmlab:rooms_watermaze          a level of DMLab-30, where its Python module is installed
    gymnasium:CarRacing-v3         a name in Gymnasium's registry
    my_package.my_module:my_env    a function of yours that makes an environment of that interface

Each package is imported when its first simulator is made; where it is missing, UserError says what
to install.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamer.config import IMAGE_SHAPE
from dreamer.envs.simulators import ActionSpace, Outcome, Simulator, affine, as_picture
from dreamer.errors import ConfigError, UserError, nearest


def adapted(task: str, evaluation: bool) -> Simulator:
    """The simulator of a task `prefix:name`; ConfigError or UserError as the prefix' maker says."""
    prefix, _, name = task.partition(":")
    if prefix in PREFIXES:
        return PREFIXES[prefix](name, evaluation)
    return GymnasiumSimulator(task, _call_factory(prefix, name))


# --- Atari --------------------------------------------------------------------------------------


class AtariSimulator:
    """A game of the Atari 2600, one of its 60 frames per second at a time.

    As the released code plays: all 18 actions; with probability 0.25 the console keeps its last
    action for one more frame (sticky actions); an episode begins with 1 to 30 frames of no
    operation; pictures in colour are the brighter of the last two frames, since many games draw
    some of their objects in every other one only. While learning, a lost life ends the episode,
    and the next one begins with a new game; evaluation plays full games.
    """

    STICKINESS = 0.25
    MAX_NOOPS = 30

    def __init__(self, game: str, full_games: bool):
        ale_py = _imported("ale_py", f"atari:{game}", "pip install ale-py")
        from ale_py import roms

        games = roms.get_all_rom_ids()
        if game not in games:
            raise ConfigError("task", f"no Atari game {game!r}; {nearest(game, games)}")
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        # Stickiness is ours, from the episode's seed: so the console itself is deterministic.
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("random_seed", 0)
        self._ale.loadROM(roms.get_rom_path(game))
        self._switched_on = self._ale.cloneSystemState()
        self._actions = self._ale.getLegalActionSet()
        self._full_games = full_games
        self.action_space = ActionSpace(len(self._actions), discrete=True)

    def reset(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._ale.restoreSystemState(self._switched_on)
        self._ale.reset_game()
        self._held = self._actions[0]  # no operation
        for _ in range(int(self._random.integers(1, self.MAX_NOOPS + 1))):
            self._ale.act(self._held)
            if self._ale.game_over():
                self._ale.reset_game()
        self._lives = self._ale.lives()
        self._frame = self._ale.getScreenRGB()
        self._frame_before = self._frame

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        if self._random.random() >= self.STICKINESS:
            self._held = self._actions[int(action.argmax())]
        reward = float(self._ale.act(self._held))
        self._frame_before, self._frame = self._frame, self._ale.getScreenRGB()
        died = self._ale.lives() < self._lives
        self._lives = self._ale.lives()
        over = self._ale.game_over(with_truncation=False)
        terminal = over or (died and not self._full_games)
        return Outcome(reward, terminal, truncated=self._ale.game_truncated())

    def image(self) -> NDArray[np.uint8]:
        return as_picture(np.maximum(self._frame_before, self._frame))

    def close(self) -> None:
        pass


# --- DeepMind Lab -------------------------------------------------------------------------------


class LabSimulator:
    """A level of DMLab-30, by the nine actions of the released code.

    Levels end when their time is over, and the module does not tell that from other ends: so an end
    is a truncation. Evaluation plays the held-out variants of a level, where it has some.
    """

    ACTIONS = np.array(  # look left/right, look down/up, strafe, move, fire, jump, crouch
        [
            (0, 0, 0, 1, 0, 0, 0),
            (0, 0, 0, -1, 0, 0, 0),
            (0, 0, -1, 0, 0, 0, 0),
            (0, 0, 1, 0, 0, 0, 0),
            (-20, 0, 0, 0, 0, 0, 0),
            (20, 0, 0, 0, 0, 0, 0),
            (-20, 0, 0, 1, 0, 0, 0),
            (20, 0, 0, 1, 0, 0, 0),
            (0, 0, 0, 0, 1, 0, 0),
        ],
        np.intc,
    )
    PICTURE = "RGB_INTERLEAVED"  # [height, width, 3]

    action_space = ActionSpace(len(ACTIONS), discrete=True)

    def __init__(self, level: str, held_out: bool):
        lab = _imported(
            "deepmind_lab",
            f"dmlab:{level}",
            "it is not on PyPI, build it as github.com/google-deepmind/lab says "
            "(docs/users/build.md, its PIP package)",
        )
        height, width, _ = IMAGE_SHAPE
        settings = {"width": str(width), "height": str(height), "logLevel": "WARN"}
        if held_out:
            settings |= {"allowHoldOutLevels": "true", "mixerSeed": str(0x600D5EED)}
        self._lab = lab.Lab(f"contributed/dmlab30/{level}", [self.PICTURE], config=settings)

    def reset(self, seed: int) -> None:
        words = np.random.SeedSequence(seed).generate_state(1)
        self._lab.reset(seed=int(words[0] >> 1))  # the module takes 31 bits

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        reward = self._lab.step(self.ACTIONS[int(action.argmax())], num_steps=1)
        return Outcome(float(reward), terminal=False, truncated=not self._lab.is_running())

    def image(self) -> NDArray[np.uint8]:
        if not self._lab.is_running():  # then there is none; black, as in the released code
            return np.zeros(IMAGE_SHAPE, np.uint8)
        return as_picture(self._lab.observations()[self.PICTURE])

    def close(self) -> None:
        self._lab.close()


# --- Gymnasium ----------------------------------------------------------------------------------


class GymnasiumSimulator:
    """Any environment of Gymnasium's interface that can be seen.

    Pictures are its observations, if these are images, else what `render()` returns; shrunk to
    64x64. Box actions are mapped from [-1, 1] to their bounds, Discrete ones are one-hot.
    """

    def __init__(self, task: str, env: Any):
        self._task, self._env = task, env
        shape = getattr(env.observation_space, "shape", None)
        dtype = getattr(env.observation_space, "dtype", None)
        self._observes_images = dtype == np.uint8 and _is_image_shape(shape)
        space = env.action_space
        self._start = getattr(space, "start", 0)
        if hasattr(space, "n") and np.ndim(space.n) == 0:
            self.action_space = ActionSpace(int(space.n), discrete=True)
        elif hasattr(space, "low") and np.issubdtype(space.dtype, np.floating):
            self.action_space = ActionSpace(int(np.prod(space.shape)), discrete=False)
        else:
            raise UserError(f"task: {task} has actions {space}; only Discrete and Box (float) work")

    def reset(self, seed: int) -> None:
        self._observation, _ = self._env.reset(seed=seed)

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        self._observation, reward, terminal, truncated, _ = self._env.step(self._native(action))
        return Outcome(float(reward), bool(terminal), bool(truncated))

    def _native(self, action: NDArray[np.float32]) -> Any:
        space = self._env.action_space
        if self.action_space.discrete:
            return int(self._start + action.argmax())
        return affine(action.reshape(space.shape), space.low, space.high).astype(space.dtype)

    def image(self) -> NDArray[np.uint8]:
        if self._observes_images:
            return as_picture(self._observation)
        frame = self._env.render()
        if not (isinstance(frame, np.ndarray) and _is_image_shape(frame.shape)):
            raise UserError(
                f"task: {self._task} shows no picture: its observations are none, and render() "
                f"gives {type(frame).__name__}; make it with render_mode='rgb_array'"
            )
        return as_picture(frame)

    def close(self) -> None:
        self._env.close()


def _is_image_shape(shape: Any) -> bool:
    return shape is not None and len(shape) in (2, 3) and (len(shape) == 2 or shape[2] in (1, 3))


def _registered(name: str, evaluation: bool) -> GymnasiumSimulator:
    task = f"gymnasium:{name}"
    gymnasium = _imported("gymnasium", task, "pip install gymnasium")
    if name.startswith("ALE/"):
        _imported("ale_py", task, "pip install ale-py")  # registers its games
    try:
        env = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
    except gymnasium.error.UnregisteredEnv:
        known = gymnasium.registry
        raise ConfigError("task", f"Gymnasium has no {name!r}; {_near(name, known)}") from None
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise UserError(f"task: {task} needs more than is installed: {error}") from None
    return GymnasiumSimulator(task, env)


def _near(name: str, known: Any) -> str:
    """The nearest name, but not a list of hundreds."""
    hint = nearest(name, known)
    return hint if hint.startswith("did") else "see gymnasium.pprint_registry()"


def _call_factory(module: str, function: str) -> Any:
    """The environment that `module:function` makes; ConfigError if there is no such function."""
    task = f"{module}:{function}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"task: {task}: {error}") from None  # the module's own import fails
        hint = nearest(module, PREFIXES)
        raise ConfigError(
            "task", f"{task!r}: no module {module!r} here, and no prefix; {hint}"
        ) from None
    factory = getattr(found, function, None)
    if not callable(factory):
        names = [key for key, value in vars(found).items() if callable(value)]
        raise ConfigError(
            "task", f"{task!r}: no function {function!r} in it; {nearest(function, names)}"
        )
    return factory()


def _imported(module: str, task: str, how: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"task: {task} needs the Python module {module}: {how}") from None


# What stands before the colon of a task's name -> its maker (name, evaluation).
PREFIXES: dict[str, Callable[[str, bool], Simulator]] = {
    "atari": AtariSimulator,
    "dmlab": LabSimulator,
    "gymnasium": _registered,
}
