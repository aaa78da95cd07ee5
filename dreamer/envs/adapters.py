"""Other people's environments as simulators: Atari, DeepMind Lab, anything that is a Gymnasium.

    atari:pong                     a game that comes with ale-py
    dmlab:rooms_watermaze          a level of DMLab-30, where its Python module is installed
    gymnasium:CarRacing-v3         a name in Gymnasium's registry
    my_package.my_module:my_env    a function of yours that makes an environment of that interface

Each package is imported when its first simulator is made; where it is missing, UserError says what
to install.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamer.config import IMAGE_SHAPE
from dreamer.envs import checked
from dreamer.envs.rendering import choose_renderer_at_import, first_frame_or_end
from dreamer.envs.simulators import ActionSpace, Outcome, Simulator, as_picture
from dreamer.errors import ConfigError, UserError, nearest


def adapted(
    task: str, evaluation: bool, arguments: Mapping[str, Any], observation: str
) -> Simulator:
    """The simulator of a task `prefix:name`; ConfigError or UserError as the prefix' maker says.

    `arguments` for making it and `observation` are of Gymnasium's and one's own environments.
    """
    prefix, _, name = task.partition(":")
    if prefix == "atari":
        return AtariSimulator(name, full_games=evaluation)
    if prefix == "dmlab":
        return LabSimulator(name, held_out=evaluation)
    choose_renderer_at_import()
    if prefix == "gymnasium":
        env = _registered(name, arguments)
    else:
        env = _call_factory(prefix, name, arguments)
    return GymnasiumSimulator(task, env, observation)


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
        self._lab.reset(seed=checked.short_seed(seed))

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
    """Any environment of Gymnasium's interface that can be seen, checked by checked.py.

    Pictures are its observations, if these are images, else what `render()` returns; shrunk to
    64x64. `observation` says which by `render`, or by the name of an entry of dict observations.
    """

    def __init__(self, task: str, env: Any, observation: str = checked.AUTO):
        checked.check_interface(task, env)
        self._task, self._env = task, env
        self._actions = checked.Actions(task, env.action_space)
        self.action_space = self._actions.space
        _say_own_repeat(task, env)
        # What is taken for its picture may depend on the first one: so that has a seed of its own.
        self.reset(0)
        with first_frame_or_end() if "mujoco" in sys.modules else contextlib.nullcontext():
            self._pictures = checked.Pictures(
                task, env, observation, self._observation, self._render
            )
        if "mujoco" in sys.modules:
            atexit.register(self.close)  # else its context outlives the display, and complains
        first = self.image()
        self.reset(0)
        if np.any(self.image() != first):
            checked.say_once(
                f"warning: task {task}: one seed gives two different first pictures; runs cannot "
                "be repeated, nor continued exactly; draw all that is random from reset's seed"
            )

    def reset(self, seed: int) -> None:
        checked.seed_global_generators(seed)
        self._observation = checked.reset(self._task, self._env, checked.short_seed(seed))

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        native = self._actions.native(action)
        self._observation, reward, *ends = checked.step(self._task, self._env, native)
        return Outcome(reward, *ends)

    def image(self) -> NDArray[np.uint8]:
        return as_picture(self._pictures.of(self._observation))

    def close(self) -> None:
        atexit.unregister(self.close)
        if hasattr(self._env, "close"):
            self._env.close()

    def _render(self) -> Any:
        return checked.call(self._task, self._env.render)


def _say_own_repeat(task: str, env: Any) -> None:
    """Says so where an environment repeats actions itself: then env_steps are of several frames."""
    game, wrapper = getattr(env, "unwrapped", env), env
    repeats = [getattr(game, "_frameskip", 1)]  # of ALE's own environments
    while wrapper is not game and hasattr(wrapper, "env"):
        repeats += [getattr(wrapper, name, 1) for name in ("frame_skip", "_skip")]
        wrapper = wrapper.env
    for repeat in repeats:
        if repeat != 1:
            checked.say_once(
                f"warning: task {task} repeats each action {repeat} times itself: its env_steps "
                "are of as many frames, and action_repeat multiplies them"
            )


# Packages whose environments Gymnasium knows only once they were imported.
REGISTER_AT_IMPORT = ("ale_py", "minigrid", "miniworld", "gymnasium_robotics", "highway_env")


def _registered(name: str, arguments: Mapping[str, Any]) -> Any:
    """The environment of a name in Gymnasium's registry."""
    task = f"gymnasium:{name}"
    gymnasium = _imported("gymnasium", task, "pip install gymnasium")
    if name.startswith("ALE/"):
        _imported("ale_py", task, "pip install ale-py")  # registers its games
    if name not in gymnasium.registry:
        for package in REGISTER_AT_IMPORT:
            with contextlib.suppress(ImportError):
                importlib.import_module(package)
    given = {"render_mode": "rgb_array", **arguments}
    spec = gymnasium.registry.get(name)
    own_repeat = spec.kwargs.get("frameskip", 1) if spec else 1
    if own_repeat != 1 and "frameskip" not in given:  # one place repeats actions: action_repeat
        given["frameskip"] = 1
        checked.say_once(
            f"note: task {task} is made with frameskip=1 instead of {own_repeat}: set action_repeat"
        )

    def make() -> Any:
        try:
            return gymnasium.make(name, disable_env_checker=True, **given)
        except gymnasium.error.UnregisteredEnv:
            known = gymnasium.registry
            raise ConfigError("task", f"Gymnasium has no {name!r}; {_near(name, known)}") from None
        except TypeError as error:
            if "'render_mode'" not in str(error) or "render_mode" in arguments:
                raise
            del given["render_mode"]  # its observations may be pictures
            return gymnasium.make(name, disable_env_checker=True, **given)

    return _made(task, make, arguments)


def _near(name: str, known: Any) -> str:
    """The nearest name, but not a list of hundreds."""
    hint = nearest(name, known)
    if hint.startswith("did"):
        return hint
    return (
        "see gymnasium.pprint_registry(); where a package registers it: "
        f"gymnasium:PACKAGE:{name.rpartition(':')[2]}"
    )


def _call_factory(module: str, function: str, arguments: Mapping[str, Any]) -> Any:
    """The environment that `module:function` makes; ConfigError if there is no such function."""
    task = f"{module}:{function}"
    try:
        found = importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if not isinstance(error, ModuleNotFoundError):
            raise UserError(f"task: {task}: importing it fails: {_told(error)}") from error
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
    return _made(task, lambda: factory(**arguments), arguments)


def _made(task: str, make: Callable[[], Any], arguments: Mapping[str, Any]) -> Any:
    """What `make` makes; UserError that says why it fails, and what it was given."""
    try:
        return checked.call(task, make)
    except UserError:
        raise
    except Exception as error:
        given = f" with {dict(arguments)}" if arguments else ""
        message = f"{task} cannot be made{given}: {_told(error)}"
        if arguments and isinstance(error, TypeError):
            raise ConfigError("environment", message) from error
        raise UserError(f"task: {message}") from error


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {checked.in_short(error)}"


def _imported(module: str, task: str, how: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise checked.missing(task, error) from error
        raise UserError(f"task: {task} needs the Python module {module}: {how}") from None


# What may stand before the colon of a task's name; anything else is a module of one's own.
PREFIXES = ("atari", "dmlab", "gymnasium")
