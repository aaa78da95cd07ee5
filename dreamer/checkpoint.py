"""Checkpoints: atomic, verified, the last two kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

KEEP = 2


def save_checkpoint(folder: Path, updates: int, env_steps: int, content: dict[str, Any]) -> Path:
    """Writes `checkpoint-<env_steps>-<updates>.pt` and its SHA-256 beside it, durably.

    The checkpoint appears under its name only when it and its checksum are on the disk. Older ones
    than the last two are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{env_steps:010d}-{updates:09d}.pt"
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        torch.save(content, file)
        _flush(file)
    line = f"{_sha256(partial)}  {path.name}\n"
    with open(path.with_suffix(".pt.sha256"), "w") as file:
        file.write(line)
        _flush(file)
    os.replace(partial, path)
    _flush_folder(folder)
    for old in checkpoint_paths(folder)[:-KEEP]:
        old.unlink()
        old.with_suffix(".pt.sha256").unlink(missing_ok=True)
    return path


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint's content. Raises ValueError if its checksum is missing or wrong."""
    try:
        expected = path.with_suffix(".pt.sha256").read_text().split()[0]
    except (OSError, IndexError):
        raise ValueError(f"{path}: no checksum beside it") from None
    if _sha256(path) != expected:
        raise ValueError(f"{path}: damaged (its SHA-256 is not {expected[:12]}...)")
    return torch.load(path, map_location=map_location, weights_only=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
