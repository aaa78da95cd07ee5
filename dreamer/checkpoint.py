"""Checkpoints: atomic, verified, the last two kept; written while training goes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dreamer import run_folder
from dreamer.errors import DamagedError
from dreamer.run_folder import checkpoint_paths

KEEP = 2
PARTIAL = "checkpoint.partial"


def save_checkpoint(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Writes the checkpoint of this name, sealed with its SHA-256, durably.

    It takes its name, or the place of one that has it, whole or not at all. Older ones than the
    last two are removed, except the one that `content["common"]` names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    partial = folder / PARTIAL
    with open(partial, "wb") as file:  # by its name alone torch would not say that a disk is full
        torch.save(content, file)
    run_folder.seal(partial)
    os.replace(partial, path)
    run_folder.checksum_path(path).unlink(missing_ok=True)  # of the one that had the name
    _flush_folder(folder)
    for old in checkpoint_paths(folder)[:-KEEP]:
        if old.name != content.get("common"):
            remove_checkpoint(old)
    return path


def remove_checkpoint(path: Path) -> None:
    path.unlink()
    run_folder.checksum_path(path).unlink(missing_ok=True)


class CheckpointWriter:
    """Saves checkpoints in a thread: only copying their tensors takes the caller's time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None

    def save(self, name: str, content: dict[str, Any], flush: Callable[[], None]) -> None:
        """Begins to save `content` as it is now, after `flush` returned; waits for the one before
        and raises what stopped it."""
        self.wait()
        content = on_host(content)

        def write() -> None:
            flush()
            save_checkpoint(self.folder, name, content)

        self._last = self._thread.submit(write)

    def wait(self) -> None:
        """Returns when the last one is on the disk; raises what stopped it."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def on_host(content: Any) -> Any:
    """The same with copies of its tensors in the host's memory."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: on_host(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(on_host(value) for value in content)
    return content


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's content. Raises DamagedError if it is not what was saved, and
    OSError if it cannot be read."""
    if path.exists() and not path.is_file():
        raise DamagedError(f"{path}: damaged (not a regular file)")
    if not run_folder.is_whole(path):
        raise DamagedError(f"{path}: damaged (it is not what its SHA-256 says)")
    return torch.load(path, map_location=map_location, weights_only=True)


def set_aside(paths: Iterable[Path]) -> None:
    """Renames checkpoints that a run could not continue from, so that none of them is taken for
    one of the run as it goes on."""
    for path in paths:
        path.rename(path.with_suffix(".refused"))
        with contextlib.suppress(FileNotFoundError):
            beside = run_folder.checksum_path(path)
            beside.rename(beside.with_suffix(".refused.sha256"))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
