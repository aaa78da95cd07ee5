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
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dreamer.adapters import PREFIXES, adapted
from dreamer.config import IMAGE_SHAPE, Config
from dreamer.errors import ConfigError, UserError, nearest
from dreamer.simulators import ActionSpace, Outcome, Simulator, affine
from dreamer.toys import Probe, ToyDiscrete, ToyDot, ToyEnd, ToyFar, ToyHome


class Step(NamedTuple):
    """What one call of `reset` or `step` gives."""

    image: NDArray[np.uint8]  # [64, 64, 3] height, width, colour
    reward: float  # summed over the repeat
    terminal: bool  # the task ended: discount 0
    truncated: bool  # a time limit cut the episode: the discount stays
    env_steps: int  # simulator steps of this call: R or fewer, 0 for a reset


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


def make_environment(config: Config, evaluation: bool = False) -> RepeatedEnvironment:
    """The environment of `config.task`, with its action repeat and time limit.

    `evaluation`: as scores are taken, where that differs (Atari: full games instead of lives).
    Raises ConfigError for a task that does not exist, and UserError where no renderer works or
    something is not installed.
    """
    simulator = make_simulator(config.task, config.camera, config.shadow_size, evaluation)
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


SHADOW_SIZE = 2048  # pixels along each side of the suite's shadow maps


class ControlSimulator:
    """A task of the DeepMind Control Suite, seen by one of its cameras.

    A shadow map of `shadow_size` pixels squared is drawn for every picture: on a CPU it takes up to
    half of the time. A smaller one blurs the edges of shadows and leaves everything else as it is.

    Actions in [-1, 1] are mapped to the task's bounds (the quadruped's differ). The suite's own
    time limit (1000 env_steps in every task here) is off; ours is exact.
    """

    def __init__(self, domain: str, task: str, camera: int = 0, shadow_size: int = SHADOW_SIZE):
        choose_renderer()  # before anything imports mujoco
        from dm_control import suite

        unlimited = {"time_limit": float("inf")}
        self._env = suite.load(domain, task, task_kwargs=unlimited)
        cameras = self._env.physics.model.ncam
        if camera >= cameras:
            raise ConfigError("camera", f"{domain} {task} has cameras 0 to {cameras - 1}")
        self._camera = camera
        self._renderer: Any = None
        # A frame buffer of the picture's size: the same picture, faster.
        visual = self._env.physics.model.vis
        visual.global_.offheight, visual.global_.offwidth = IMAGE_SHAPE[:2]
        visual.quality.shadowsize = shadow_size
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum, spec.maximum
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
        return affine(action, self._low, self._high)

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


# Every task with a name of its own; adapters.py has those with a prefix. The paper's 20 are
# seen by camera 0, the quadruped by camera 2.
TASKS: dict[str, Callable[..., Simulator]] = {
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
    "toy_discrete": ToyDiscrete,
    "toy_home": ToyHome,
    "toy_far": ToyFar,
    "toy_end": ToyEnd,
    "probe": Probe,
}


def is_task(task: str) -> bool:
    """Whether `task` is in the table or reads `prefix:name`. Imports nothing: whether there is such
    a name behind the prefix is seen when its simulator is made."""
    prefix, _, name = task.partition(":")
    return task in TASKS or bool(prefix and name)


def make_simulator(
    task: str, camera: int = -1, shadow_size: int = SHADOW_SIZE, evaluation: bool = False
) -> Simulator:
    """A task's simulator. In the control suite it is seen by its own camera or another one, and
    `shadow_size` is that of its shadow map; elsewhere there are no shadows."""
    if not is_task(task):
        known = [*TASKS, *(f"{prefix}:NAME" for prefix in PREFIXES)]
        raise ConfigError("task", f"no task {task!r}; {nearest(task, known)}")
    factory = TASKS.get(task)
    controlled = isinstance(factory, partial) and factory.func is ControlSimulator
    if camera >= 0 and not controlled:
        raise ConfigError("camera", f"{task} has no cameras to choose from; leave it at -1")
    if factory is None:
        return adapted(task, evaluation)
    if not controlled:
        return factory()
    chosen = {"camera": camera} if camera >= 0 else {}
    return factory(shadow_size=shadow_size, **chosen)


# --- Renderer -----------------------------------------------------------------------------------
# MuJoCo takes its renderer from MUJOCO_GL when it is imported, and drivers can fail or hang at the
# first frame. So a process of its own draws one first. What it found is kept in the environment,
# for this process and those that it starts.

RENDERERS = ("egl", "osmesa", "glfw")
FIRST_FRAME_TIMEOUT_S = 60.0
_CHECKED = "DREAMER_RENDERER"  # "<MUJOCO_GL> <what draws>", set once a first frame came
_EGL_DEVICE = "MUJOCO_EGL_DEVICE_ID"
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
        draws, problem = _first_frame_of(asked)
        if problem:
            raise UserError(f"MUJOCO_GL={asked}: {problem}; unset it, or {_INSTALL}")
        return _keep(asked, draws)
    problems: list[str] = []
    for name in ("egl", "osmesa"):
        draws, problem = _first_frame_of(name)
        if not problem:
            if problems:
                print(
                    f"warning: rendering with OSMesa, on the CPU ({problems[0]})", file=sys.stderr
                )
            return _keep(name, draws)
        problems.append(f"{name}: {problem}")
    raise UserError(f"no renderer works ({'; '.join(problems)}); {_INSTALL}")


def _first_frame_of(name: str) -> tuple[str, str]:
    """`_first_frame`, on any EGL device if the one with this process' number does not draw: EGL and
    CUDA may number the GPUs differently."""
    draws, problem = _first_frame(name)
    number = os.environ.get(_EGL_DEVICE)
    if problem and name == "egl" and number is not None:
        del os.environ[_EGL_DEVICE]
        draws, elsewhere = _first_frame(name)
        if not elsewhere:
            print(f"warning: {_EGL_DEVICE}={number}: {problem}; using {draws}", file=sys.stderr)
        problem = elsewhere
    return draws, problem


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
    with _lock_file(path) as turn:
        patience = time.monotonic() + FIRST_FRAME_TIMEOUT_S
        while turn and not _locked(turn) and time.monotonic() < patience:
            time.sleep(0.05)
        faulthandler.dump_traceback_later(
            FIRST_FRAME_TIMEOUT_S, exit=True, file=sys.__stderr__ or 2
        )
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _lock_file(path: str) -> Iterator[int | None]:
    """The file's descriptor; None where it cannot be opened, or is a link: others may write in the
    folder, and a link could lead to any file of ours."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(file: int) -> bool:
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
