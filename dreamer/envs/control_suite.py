"""The DeepMind Control Suite, seen by its cameras."""

from __future__ import annotations

import atexit
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamer.config import IMAGE_SHAPE
from dreamer.envs.rendering import choose_renderer, first_frame_or_end
from dreamer.envs.simulators import ActionSpace, Outcome, affine
from dreamer.errors import ConfigError

# The paper's 20 tasks: domain and task in the suite, and the camera that sees them.
CONTROL_TASKS: dict[str, tuple[str, str, int]] = {
    "acrobot_swingup": ("acrobot", "swingup", 0),
    "cartpole_balance": ("cartpole", "balance", 0),
    "cartpole_balance_sparse": ("cartpole", "balance_sparse", 0),
    "cartpole_swingup": ("cartpole", "swingup", 0),
    "cartpole_swingup_sparse": ("cartpole", "swingup_sparse", 0),
    "cheetah_run": ("cheetah", "run", 0),
    "cup_catch": ("ball_in_cup", "catch", 0),
    "finger_spin": ("finger", "spin", 0),
    "finger_turn_easy": ("finger", "turn_easy", 0),
    "finger_turn_hard": ("finger", "turn_hard", 0),
    "hopper_hop": ("hopper", "hop", 0),
    "hopper_stand": ("hopper", "stand", 0),
    "pendulum_swingup": ("pendulum", "swingup", 0),
    "quadruped_run": ("quadruped", "run", 2),
    "quadruped_walk": ("quadruped", "walk", 2),
    "reacher_easy": ("reacher", "easy", 0),
    "reacher_hard": ("reacher", "hard", 0),
    "walker_run": ("walker", "run", 0),
    "walker_stand": ("walker", "stand", 0),
    "walker_walk": ("walker", "walk", 0),
}

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
            with first_frame_or_end():
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
