"""Environments as 64x64 pixels: one table of tasks, one way to count time.

A simulator knows its physics and its picture, nothing else. `Environment` wraps it and is the one
place for action repeat, the time limit and the count of env_steps, so that these mean the same
for every task:

    reset(seed)   o_0                      reward 0, env_steps 0
    step(a)       a held for R env_steps   reward summed; fewer env_steps if the episode ends inside

An episode is a pure function of the seed given to `reset` and of the actions: a run can be resumed
exactly by replaying them, without saving a simulator.

Simulators are imported when first used; so is the renderer (`choose_renderer`).
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from dreamer.config import IMAGE_SHAPE, Config, ConfigError, UserError, nearest


class Step(NamedTuple):
    """What one call of `reset` or `step` gives."""

    image: NDArray[np.uint8]  # [64, 64, 3] height, width, colour
    reward: float  # summed over the repeat
    terminal: bool  # the task ended: discount 0
    truncated: bool  # a time limit cut the episode: the discount stays
    env_steps: int  # simulator steps of this call: R or fewer, 0 for a reset


class ActionSpace(NamedTuple):
    """Continuous: float32 [A] in [-1, 1]. Discrete: one-hot float32 [A]."""

    size: int  # A
    discrete: bool


class Environment(Protocol):
    """What agents act in."""

    @property
    def action_space(self) -> ActionSpace: ...

    def reset(self, seed: int) -> Step:
        """Start the episode that belongs to `seed` (any whole number from 0)."""

    def step(self, action: NDArray[np.float32]) -> Step:
        """Hold `action` [A] for R env_steps, or until the episode ends."""

    def close(self) -> None:
        """Free the simulator and its renderer."""


class Outcome(NamedTuple):
    """What one simulator step gives."""

    reward: float
    terminal: bool
    truncated: bool = False  # by a limit inside the simulator


class Simulator(Protocol):
    """A task, one simulator step at a time. Pictures are drawn only when asked for."""

    action_space: ActionSpace

    def reset(self, seed: int) -> None: ...

    def advance(self, action: NDArray[np.float32]) -> Outcome: ...

    def image(self) -> NDArray[np.uint8]: ...

    def close(self) -> None: ...


def make_environment(config: Config) -> RepeatedEnvironment:
    """The environment of `config.task`, with its action repeat and time limit.

    Raises ConfigError for a task that is not in the table, and UserError where no renderer works.
    """
    simulator = task_factory(config.task)()
    return RepeatedEnvironment(simulator, config.action_repeat, config.time_limit_env_steps)


class RepeatedEnvironment:
    """A simulator seen in decisions: action repeat, time limit, count of env_steps."""

    def __init__(self, simulator: Simulator, action_repeat: int, time_limit_env_steps: int):
        self.simulator = simulator
        self.action_repeat = action_repeat
        self.time_limit_env_steps = time_limit_env_steps
        self._env_steps_left = 0  # of the running episode; 0: there is none

    @property
    def action_space(self) -> ActionSpace:
        return self.simulator.action_space

    def reset(self, seed: int) -> Step:
        self.simulator.reset(seed)
        self._env_steps_left = self.time_limit_env_steps
        return Step(self.simulator.image(), 0.0, terminal=False, truncated=False, env_steps=0)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Raises RuntimeError outside an episode and ValueError for an action out of its space."""
        if self._env_steps_left == 0:
            raise RuntimeError("the episode is over: reset the environment before the next step")
        action = self._checked(action)
        reward, env_steps = 0.0, 0
        terminal = truncated = False
        while env_steps < self.action_repeat and not terminal and not truncated:
            outcome = self.simulator.advance(action)
            reward += outcome.reward
            env_steps += 1
            self._env_steps_left -= 1
            terminal = outcome.terminal
            cut = outcome.truncated or self._env_steps_left == 0
            truncated = cut and not terminal  # a task that ended in its last step has ended
        if terminal or truncated:
            self._env_steps_left = 0
        return Step(self.simulator.image(), reward, terminal, truncated, env_steps)

    def close(self) -> None:
        self._env_steps_left = 0
        self.simulator.close()

    def _checked(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        action = np.asarray(action, np.float32)
        space = self.action_space
        if action.shape != (space.size,):
            raise ValueError(f"an action has shape ({space.size},), not {action.shape}")
        if space.discrete:
            valid = np.count_nonzero(action) == 1 and action.max() == 1
        else:
            valid = bool(np.all(np.abs(action) <= 1))  # false for NaN
        if not valid:
            kind = "one-hot" if space.discrete else "in [-1, 1]"
            raise ValueError(f"an action is {kind}, not {action.tolist()}")
        return action


class ControlSimulator:
    """A task of the DeepMind Control Suite, seen by one of its cameras.

    Actions in [-1, 1] are mapped to the task's bounds (the quadruped's differ). The suite's own
    time limit (1000 env_steps in every task here) is off; ours is exact.
    """

    def __init__(self, domain: str, task: str, camera: int = 0):
        choose_renderer()  # before anything imports mujoco
        from dm_control import suite

        unlimited = {"time_limit": float("inf")}
        self._env = suite.load(domain, task, task_kwargs=unlimited)
        self._camera = camera
        self._renderer: Any = None
        # A frame buffer of the picture's size: the same picture, faster.
        self._env.physics.model.vis.global_.offheight = IMAGE_SHAPE[0]
        self._env.physics.model.vis.global_.offwidth = IMAGE_SHAPE[1]
        spec = self._env.action_spec()
        bounded = np.isfinite(spec.minimum) & np.isfinite(spec.maximum)
        self._low = np.where(bounded, spec.minimum, -1.0)
        self._high = np.where(bounded, spec.maximum, 1.0)
        self.action_space = ActionSpace(spec.shape[0], discrete=False)

    def reset(self, seed: int) -> None:
        # The task draws from this generator only, so the episode depends on the seed alone.
        self._env.task.random.seed(np.random.SeedSequence(seed).generate_state(4))
        self._env.reset()

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        step = self._env.step(self.scaled(action))
        return Outcome(float(step.reward), terminal=step.last() and step.discount == 0)

    def scaled(self, action: NDArray[np.float32]) -> NDArray[np.float64]:
        """From [-1, 1] to the task's bounds, affinely."""
        return self._low + (action.astype(np.float64) + 1) / 2 * (self._high - self._low)

    def image(self) -> NDArray[np.uint8]:
        if self._renderer is None:
            with _first_frame_or_end():
                self._open_renderer()
                return self._draw()
        return self._draw()

    def _open_renderer(self) -> None:
        # Not the suite's own renderer: that builds a new scene for every frame, and its OSMesa
        # thread complains when the process ends. The pictures are the same.
        import mujoco

        self._renderer = mujoco.Renderer(self._env.physics.model.ptr, *IMAGE_SHAPE[:2])
        self._look = mujoco.MjvOption()
        self._look.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = False  # as the suite does
        atexit.register(self.close)  # else its context outlives the display, and complains

    def _draw(self) -> NDArray[np.uint8]:
        self._renderer.update_scene(self._env.physics.data.ptr, self._camera, self._look)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            atexit.unregister(self.close)
            self._renderer.close()
            self._renderer = None
        self._env.close()


class ToyDot:
    """A red glow is steered onto a green one by its velocity. Needs no renderer.

    The field is the unit square, start and target are uniform in it. Reward per env_step:
    (1 - distance / diagonal)^2, so in [0, 1] with a slope everywhere. No end of its own. The glows
    are wide, so that a small network finds them within a few hundred updates.
    """

    SPEED = 0.06  # field widths per env_step at action 1: 17 env_steps from wall to wall
    WIDTH = 7.0  # pixels, standard deviation of a glow
    BACKGROUND, TARGET, DOT = (16, 20, 40), (0, 210, 40), (235, 0, 60)

    action_space = ActionSpace(2, discrete=False)

    def reset(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._position, self._target = random.uniform(size=(2, 2))

    def advance(self, action: NDArray[np.float32]) -> Outcome:
        self._position = np.clip(self._position + self.SPEED * action, 0.0, 1.0)
        distance = float(np.hypot(*(self._target - self._position)))
        return Outcome((1 - distance / 2**0.5) ** 2, terminal=False)

    def optimal_action(self, action_repeat: int = 1) -> NDArray[np.float32]:
        """Straight to the target: each axis as fast as it can, so no distance could be smaller.

        (With a repeat, up to the decision in which it arrives: that one is slowed to stop there.)
        """
        way = (self._target - self._position) / (self.SPEED * action_repeat)
        return np.clip(way, -1, 1).astype(np.float32)

    def image(self) -> NDArray[np.uint8]:
        """The sum of both glows, as one product: rows [64, 2] by columns x colours [2, 64 * 3]."""
        size = IMAGE_SHAPE[0]
        centres = self.WIDTH + np.stack([self._target, self._position]) * (size - 2 * self.WIDTH)
        across = (np.arange(size) - centres[..., None]) / self.WIDTH  # [glow, axis, pixel]
        columns, rows = np.exp(-0.5 * across**2).swapaxes(0, 1)
        colours = np.array([self.TARGET, self.DOT], float)
        columns = (columns[:, :, None] * colours[:, None, :]).reshape(2, -1)
        picture = (rows.T @ columns).reshape(IMAGE_SHAPE) + self.BACKGROUND
        return np.rint(np.minimum(picture, 255)).astype(np.uint8)

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


# Every task there is. The 20 of the paper are seen by camera 0, the quadruped by camera 2.
TASKS: dict[str, Callable[[], Simulator]] = {
    "acrobot_swingup": partial(ControlSimulator, "acrobot", "swingup"),
    "cartpole_balance": partial(ControlSimulator, "cartpole", "balance"),
    "cartpole_balance_sparse": partial(ControlSimulator, "cartpole", "balance_sparse"),
    "cartpole_swingup": partial(ControlSimulator, "cartpole", "swingup"),
    "cartpole_swingup_sparse": partial(ControlSimulator, "cartpole", "swingup_sparse"),
    "cheetah_run": partial(ControlSimulator, "cheetah", "run"),
    "cup_catch": partial(ControlSimulator, "ball_in_cup", "catch"),
    "finger_spin": partial(ControlSimulator, "finger", "spin"),
    "finger_turn_easy": partial(ControlSimulator, "finger", "turn_easy"),
    "finger_turn_hard": partial(ControlSimulator, "finger", "turn_hard"),
    "hopper_hop": partial(ControlSimulator, "hopper", "hop"),
    "hopper_stand": partial(ControlSimulator, "hopper", "stand"),
    "pendulum_swingup": partial(ControlSimulator, "pendulum", "swingup"),
    "quadruped_run": partial(ControlSimulator, "quadruped", "run", camera=2),
    "quadruped_walk": partial(ControlSimulator, "quadruped", "walk", camera=2),
    "reacher_easy": partial(ControlSimulator, "reacher", "easy"),
    "reacher_hard": partial(ControlSimulator, "reacher", "hard"),
    "walker_run": partial(ControlSimulator, "walker", "run"),
    "walker_stand": partial(ControlSimulator, "walker", "stand"),
    "walker_walk": partial(ControlSimulator, "walker", "walk"),
    # Ours, in numpy alone.
    "toy_dot": ToyDot,
    "probe": Probe,
}


def task_factory(task: str) -> Callable[[], Simulator]:
    """The maker of a task's simulator; ConfigError naming the nearest task if there is none."""
    if task not in TASKS:
        raise ConfigError("task", f"no task {task!r}; {nearest(task, TASKS)}")
    return TASKS[task]


# --- Renderer -----------------------------------------------------------------------------------
# MuJoCo takes its renderer from MUJOCO_GL when it is imported, and drivers can fail or hang at the
# first frame. So a process of its own draws one first. What it found is kept in the environment,
# for this process and those that it starts.

RENDERERS = ("egl", "osmesa", "glfw")
FIRST_FRAME_TIMEOUT_S = 60.0
_CHECKED = "DREAMER_RENDERER"  # "<MUJOCO_GL> <what draws>", set once a first frame came
_INSTALL = (
    "install one: apt-get install libosmesa6 (CPU), or libegl1 and libgl1 beside a GPU driver"
)
_FIRST_FRAME = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
assert renderer.render().any(), "the first frame is black"
from OpenGL import GL
print("draws:", GL.glGetString(GL.GL_RENDERER).decode())
renderer.close()
"""


def choose_renderer() -> str:
    """Set MUJOCO_GL to a renderer that works and return it: egl, else osmesa with a warning.

    MUJOCO_GL is respected where it is set. Must be called before mujoco is imported. Raises
    UserError if the first frame fails or does not come within FIRST_FRAME_TIMEOUT_S.
    """
    # Mesa's software renderer takes all cores; a 64x64 frame gains little from more than one.
    os.environ.setdefault("LP_NUM_THREADS", "2")
    asked = os.environ.get("MUJOCO_GL", "").lower()
    checked = os.environ.get(_CHECKED, "").split(" ", 1)
    if asked and checked[0] == asked:
        return asked
    if asked:
        if asked not in RENDERERS:
            raise UserError(f"MUJOCO_GL={asked}: no such renderer; {nearest(asked, RENDERERS)}")
        draws, problem = _first_frame(asked)
        if problem:
            raise UserError(f"MUJOCO_GL={asked}: {problem}; unset it, or {_INSTALL}")
        return _keep(asked, draws)
    problems: list[str] = []
    for name in ("egl", "osmesa"):
        draws, problem = _first_frame(name)
        if not problem:
            if problems:
                print(
                    f"warning: rendering with OSMesa, on the CPU ({problems[0]})", file=sys.stderr
                )
            return _keep(name, draws)
        problems.append(f"{name}: {problem}")
    raise UserError(f"no renderer works ({'; '.join(problems)}); {_INSTALL}")


def renderer_name() -> str:
    """The renderer in use and what draws with it; "" before `choose_renderer` was called."""
    return os.environ.get(_CHECKED, "")


@contextlib.contextmanager
def _first_frame_or_end() -> Iterator[None]:
    """Guard a process' own first frame, which can hang although the one tried before came.

    Some drivers hang when several processes start to draw at once. So they take turns, as long as
    nobody takes too long. A hanging driver holds the interpreter: no exception could be raised, so
    after FIRST_FRAME_TIMEOUT_S the process says where it hangs and ends.
    """
    path = os.path.join(tempfile.gettempdir(), f"dreamer-first-frame-{os.getuid()}.lock")
    with open(path, "w") as turn:
        patience = time.monotonic() + FIRST_FRAME_TIMEOUT_S
        while not _locked(turn) and time.monotonic() < patience:
            time.sleep(0.05)
        faulthandler.dump_traceback_later(
            FIRST_FRAME_TIMEOUT_S, exit=True, file=sys.__stderr__ or 2
        )
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keep(name: str, draws: str) -> str:
    os.environ["MUJOCO_GL"] = name
    os.environ[_CHECKED] = f"{name} {draws}"
    return name


def _first_frame(name: str) -> tuple[str, str]:
    """(what draws, "") or ("", what went wrong), from a process that draws one frame."""
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    environment["MUJOCO_GL"] = name
    command = [sys.executable, "-c", _FIRST_FRAME]
    try:
        done = subprocess.run(
            command,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=FIRST_FRAME_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "", f"no first frame within {FIRST_FRAME_TIMEOUT_S:g} s"
    for line in done.stdout.splitlines():
        if line.startswith("draws:"):
            return line.removeprefix("draws:").strip(), ""
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    if "'NoneType' object has no attribute" in said[-1]:  # so says PyOpenGL
        return "", f"its libraries are not installed ({said[-1].strip()})"
    return "", said[-1].strip()
