"""The choice of MuJoCo's renderer.

MuJoCo takes its renderer from MUJOCO_GL when it is imported, and drivers can fail or hang at the
first frame. So a process of its own draws one first (first_frame.py). What it found is kept in the
environment, for this process and those that it starts.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dreamer.errors import UserError, nearest

RENDERERS = ("egl", "osmesa", "glfw")
FIRST_FRAME_TIMEOUT_S = 60.0
FIRST_FRAME = Path(__file__).with_name("first_frame.py")
_CHECKED = "DREAMER_RENDERER"  # "<MUJOCO_GL> <what draws>", set once a first frame came
_EGL_DEVICE = "MUJOCO_EGL_DEVICE_ID"
_GIVEN_EGL_DEVICE = "DREAMER_EGL_DEVICE"  # the same number where no user has chosen it
_INSTALL = (
    "install one: apt-get install libosmesa6 (CPU), or libegl1 and libgl1 beside a GPU driver"
)


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
    if asked and asked not in RENDERERS:
        raise UserError(f"MUJOCO_GL={asked}: no such renderer; {nearest(asked, RENDERERS)}")
    problems: list[str] = []
    for name in [asked] if asked else ["egl", "osmesa"]:
        draws, problem = _first_frame_of(name)
        if not problem:
            if problems:
                print(
                    f"warning: rendering with OSMesa, on the CPU ({problems[0]})", file=sys.stderr
                )
            os.environ["MUJOCO_GL"] = name
            os.environ[_CHECKED] = f"{name} {draws}"
            return name
        if asked:
            raise UserError(f"MUJOCO_GL={asked}: {problem}; unset it, or {_INSTALL}")
        problems.append(f"{name}: {problem}")
    raise UserError(f"no renderer works ({'; '.join(problems)}); {_INSTALL}")


def _first_frame_of(name: str) -> tuple[str, str]:
    """`_first_frame` on the EGL device of this worker's GPU; if that draws nothing, on any device:
    EGL and CUDA may number the GPUs differently (suites/execution/environment.py).
    """
    draws, problem = _first_frame(name)
    number = os.environ.get(_EGL_DEVICE)
    given = number is not None and os.environ.get(_GIVEN_EGL_DEVICE) == number
    if problem and name == "egl" and given:
        del os.environ[_EGL_DEVICE]
        draws, elsewhere = _first_frame(name)
        if not elsewhere:
            print(f"warning: {_EGL_DEVICE}={number}: {problem}; using {draws}", file=sys.stderr)
        problem = elsewhere
    return draws, problem


class _RendererFirst:
    """Finds no module itself: it chooses the renderer before one is imported that draws."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in ("mujoco", "dm_control"):
            choose_renderer()


def choose_renderer_at_import() -> None:
    """Calls `choose_renderer` just before MuJoCo is imported, whoever imports it: other people's
    environments may do so at any time, or never, and then need no renderer.
    """
    if not any(isinstance(finder, _RendererFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RendererFirst())


def renderer_name() -> str:
    """The renderer in use and what draws with it; "" before `choose_renderer` was called."""
    return os.environ.get(_CHECKED, "")


@contextlib.contextmanager
def first_frame_or_end() -> Iterator[None]:
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


def _first_frame(name: str) -> tuple[str, str]:
    """(what draws, "") or ("", what went wrong), from a process that draws one frame."""
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    environment["MUJOCO_GL"] = name
    command = [sys.executable, "-P", str(FIRST_FRAME)]  # -P: no module beside it is found
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
