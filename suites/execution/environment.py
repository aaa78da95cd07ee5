"""The environment of a process that executes a run: its share of cores and GPUs.

Imports nothing of ours, since SLURM jobs use it too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs of this machine that may be used, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def module_paths() -> list[str]:
    """Where this process finds a user's own modules: PYTHONPATH and the folder that it is in, so
    that a process in another folder finds them, too."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return list(dict.fromkeys(os.path.abspath(path) for path in [*filter(None, named), ""]))


def worker_environment(
    code: Path | str, slot: int, workers: int, gpu_names: Sequence[str], core_count: int
) -> dict[str, str]:
    """The environment of worker `slot` of `workers`, which runs the packages in the folder `code`.

    Cores are divided among the workers, unless OMP_NUM_THREADS is set: on a CPU a run repeats bit
    for bit only with the same number of threads. GPUs are assigned in turn, to CUDA and to EGL
    (MuJoCo's renderer). Both number them alike on most machines; the doctor says where they do not.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, core_count // workers)))
    paths = (str(code), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if gpu_names:
        name = gpu_names[slot % len(gpu_names)]
        environment["CUDA_VISIBLE_DEVICES"] = name
        if name.isdecimal() and "MUJOCO_EGL_DEVICE_ID" not in environment:
            environment |= {"MUJOCO_EGL_DEVICE_ID": name, "DREAMER_EGL_DEVICE": name}
    return environment
