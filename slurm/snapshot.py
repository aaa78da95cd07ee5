"""A copy of the code, made at submission, so that jobs run the code that was submitted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dreamer import run_folder

PACKAGES = ("dreamer", "suites", "slurm")
SUFFIXES = {".py", ".yaml", ".sh"}


def snapshot(root: Path, version: dict[str, Any], into: Path) -> Path:
    """Copies the packages of `root` into a folder under `into` that is named by their content, so
    that the same code is copied once. `version` is written into it. The folder appears when it is
    complete; its files are read-only."""
    files = {
        path.relative_to(root): path.read_bytes()
        for package in PACKAGES
        for path in sorted((root / package).rglob("*"))
        if path.suffix in SUFFIXES and path.is_file()
    }
    text = json.dumps(version, indent=2, sort_keys=True) + "\n"
    digest = hashlib.sha256(text.encode())
    for name, content in files.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    folder = into / digest.hexdigest()[:16]
    if folder.is_dir():
        return folder
    into.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=into))
    try:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o444)
        (partial / run_folder.CODE).write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        os.rename(partial, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
