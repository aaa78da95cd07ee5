"""Every task by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dreamer.envs.adapters import PREFIXES, adapted
from dreamer.envs.checked import AUTO
from dreamer.envs.control_suite import CONTROL_TASKS, SHADOW_SIZE, ControlSimulator
from dreamer.envs.simulators import Simulator
from dreamer.envs.toys import Probe, ToyDiscrete, ToyDot, ToyEnd, ToyFar, ToyHome
from dreamer.errors import ConfigError, nearest

TOYS: dict[str, Callable[[], Simulator]] = {
    "toy_dot": ToyDot,
    "toy_discrete": ToyDiscrete,
    "toy_home": ToyHome,
    "toy_far": ToyFar,
    "toy_end": ToyEnd,
    "probe": Probe,
}
# Every task with a name of its own; adapters.py has those with a prefix.
TASKS = (*CONTROL_TASKS, *TOYS)


def is_task(task: str) -> bool:
    """Whether `task` is in the table or has a known prefix (`prefix:name`). Imports nothing, so a
    wrong name behind a prefix is only noticed when its simulator is made.
    """
    prefix, _, name = task.partition(":")
    return task in TASKS or bool(prefix and name)


def check_task(task: str) -> None:
    """Raises ConfigError, with the nearest name, where `is_task` says no."""
    if not is_task(task):
        known = [*TASKS, *(f"{prefix}:NAME" for prefix in PREFIXES)]
        raise ConfigError("task", f"no task {task!r}; {nearest(task, known)}")


def make_simulator(
    task: str,
    camera: int = -1,
    shadow_size: int = SHADOW_SIZE,
    evaluation: bool = False,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    observation: str = AUTO,
) -> Simulator:
    """A task's simulator.

    `camera` and `shadow_size` concern the control suite: the task's own camera unless another is
    named, and the size of the shadow map. `evaluation` is for Atari (full games), `arguments` and
    `observation` for environments that others made (adapters.py).
    """
    check_task(task)
    if task in CONTROL_TASKS:
        domain, name, own_camera = CONTROL_TASKS[task]
        return ControlSimulator(domain, name, own_camera if camera < 0 else camera, shadow_size)
    if camera >= 0:
        raise ConfigError("camera", f"{task} has no cameras to choose from; leave it at -1")
    if task in TOYS:
        return TOYS[task]()
    return adapted(task, evaluation, arguments, observation)
