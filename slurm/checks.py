"""The checks of the doctor that load drivers, each in a process of its own:

    python -m slurm.checks NAME [ARGUMENT ...]

prints its result as a line of JSON. Drivers that are broken may hang or crash; then only this
process does. It is the one module of slurm/ that loads the agent, inside its functions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def render(which: str, path: str) -> dict[str, Any]:
    """Draws a frame of the first task of each domain of the control suite (`quick`: of cartpole
    only) and saves them to `path`, an .npz. Returns renderer, ms per frame and black domains."""
    import numpy as np

    from dreamer.envs.control_suite import CONTROL_TASKS
    from dreamer.envs.rendering import renderer_name
    from dreamer.envs.tasks import make_simulator

    first: dict[str, str] = {}
    for task, (domain, _, _) in CONTROL_TASKS.items():
        first.setdefault(domain, task)
    chosen = {"cartpole": first["cartpole"]} if which == "quick" else first
    frames, times_s = {}, []
    for domain, task in chosen.items():
        simulator = make_simulator(task)
        simulator.reset(0)
        frames[domain] = simulator.image()
        start = time.perf_counter()
        for _ in range(5):
            simulator.image()
        times_s.append((time.perf_counter() - start) / 5)
        simulator.close()
    np.savez(path, **frames)  # type: ignore[arg-type]
    return {
        "renderer": renderer_name(),
        "ms": 1000 * sum(times_s) / len(times_s),
        "domains": len(frames),
        "black": [domain for domain, frame in frames.items() if not frame.any()],
    }


def compare(path: str, other: str) -> dict[str, Any]:
    """The domain whose frames differ most between two files of `render`, and the mean difference of
    their pixels, of 255."""
    import numpy as np

    a, b = np.load(path), np.load(other)
    means = {k: float(np.abs(a[k].astype(float) - b[k].astype(float)).mean()) for k in a.files}
    worst = max(means, key=lambda domain: means[domain])
    return {"domain": worst, "mean": means[worst]}


def cuda() -> list[str]:
    """The names of the GPUs that PyTorch sees."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(i) for i in range(count)]


def egl_devices() -> list[int | None]:
    """For each device of EGL, in its order, CUDA's number of the same GPU; None for others."""
    import ctypes

    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    from mujoco.egl import egl_ext
    from OpenGL import EGL
    from OpenGL.EGL.EXT.device_query import eglQueryDeviceAttribEXT
    from OpenGL.EGL.NV.device_cuda import EGL_CUDA_DEVICE_NV

    numbers: list[int | None] = []
    for device in egl_ext.eglQueryDevicesEXT():
        number = EGL.EGLAttrib()
        try:
            known = eglQueryDeviceAttribEXT(device, EGL_CUDA_DEVICE_NV, ctypes.byref(number))
        except EGL.EGLError:
            known = False
        numbers.append(number.value if known else None)
    return numbers


def update() -> dict[str, Any]:
    """Seconds of an update of preset `published` on random images, and whether it is finite."""
    import torch

    from dreamer.agent import Agent
    from dreamer.config import make_config
    from dreamer.envs.simulators import ActionSpace
    from dreamer.machine import prepare_machine
    from dreamer.replay import Batch

    config = make_config("published", {"task": "walker_walk"})
    device = prepare_machine(config)
    agent = Agent(config, ActionSpace(6, False), device)
    size = config.batch_size, config.length
    image = torch.randint(0, 256, (*size, 64, 64, 3), dtype=torch.uint8)
    batch = Batch(image, torch.zeros(*size, 6), torch.zeros(size), torch.zeros(size))
    seconds, finite = [], True
    for number in range(3 if device.type == "cuda" else 1):
        start = time.perf_counter()
        watched = agent.update(batch, number)
        finite = all(bool(torch.isfinite(value).all()) for value in watched.values())
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "finite": finite, "device": str(device)}


def disk_bytes() -> int:
    """Disk that a run of preset `published` needs."""
    from dreamer.config import make_config
    from dreamer.replay import forecast

    return int(forecast(make_config("published", {"task": "walker_walk"}), 6).disk_bytes)


def lock(path: str) -> str:
    """`held` if another process has the file at `path` locked, else `free`."""
    from suites.record.folder import flock

    with open(path, "rb+") as file:
        return "free" if flock(file, Path(path)) else "held"


def mongo() -> bool:
    """Reaches the MongoDB at the URL in DOCTOR_URL, which no other process can read there."""
    import pymongo

    client: Any = pymongo.MongoClient(os.environ["DOCTOR_URL"], serverSelectionTimeoutMS=5000)
    client.admin.command("ping")
    return True


CHECKS = (render, compare, cuda, egl_devices, update, disk_bytes, lock, mongo)

if __name__ == "__main__":
    chosen: Callable[..., Any] = {check.__name__: check for check in CHECKS}[sys.argv[1]]
    print(json.dumps(chosen(*sys.argv[2:])))
