"""Where a run's numbers come from: code, packages, machine, command."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dreamer import run_folder
from suites.execution.environment import cores
from suites.record.metrics import read_metrics, values_of
from suites.record.secrets import hide

ROOT = Path(__file__).resolve().parents[2]
MAX_DIFF_BYTES = 1_000_000
OURS = ("dreamer", "suites", "slurm")  # the packages that a run uses


class Code(NamedTuple):
    """The version of the code that runs."""

    commit: str | None  # None where git does not know this code, or does not say
    diff: str  # of tracked files against the commit, cut at MAX_DIFF_BYTES
    untracked: dict[str, str]  # Python and YAML files that git does not know, with their SHA-256
    sources: str = ""  # where the commit is not known: a hash of the packages' files
    problem: str = ""  # why the commit is not known
    repository: bool = True  # False: it is no checkout, as when installed

    @property
    def dirty(self) -> bool:
        return bool(self.diff or self.untracked)

    @property
    def version(self) -> str:
        """Commit, and a hash of what differs from it: `1a2b3c4d5e6f+0f1e2d3c`. Where the commit is
        not known, a hash of the sources: `sources-5d6e7f8a9b0c`."""
        if not self.commit:
            return f"sources-{self.sources[:12]}"
        commit = self.commit[:12]
        if not self.dirty:
            return commit
        changes = hashlib.sha256((self.diff + repr(self.untracked)).encode()).hexdigest()
        return f"{commit}+{changes[:8]}"


def code(root: Path = ROOT) -> Code:
    """The version of the code in `root`; a snapshot (slurm/snapshot.py) names what it copied."""
    try:
        return Code(**json.loads((root / run_folder.CODE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    try:
        top = Path(_git(root, "rev-parse", "--show-toplevel").rstrip("\n"))
        if not top.samefile(root):
            raise _NoCommitError(f"the repository around it, {top}, is another one")
        commit = _git(root, "rev-parse", "HEAD").strip()
        _git(root, "ls-files", "--error-unmatch", "--", *(f"{name}/__init__.py" for name in OURS))
        diff = _git(root, "diff", "HEAD", "--", "*.py", "*.yaml", "*.toml", "*.txt")
        listed = _git(root, "ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml")
    except (_NoCommitError, OSError) as error:
        return Code(None, "", {}, _sources(root), str(error), _may_be_there(root / ".git"))
    untracked = {name: _sha256(root / name) for name in sorted(listed.splitlines())}
    return Code(commit, hide(diff[:MAX_DIFF_BYTES]), untracked)


class _NoCommitError(Exception):
    """The commit of the code cannot be known; the message says why."""


def _may_be_there(path: Path) -> bool:
    """False only if there is certainly no such path."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _sources(root: Path) -> str:
    """A hash of all files of our packages that a run may use."""
    digest = hashlib.sha256()
    for package in OURS:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml", ".sh"):
                digest.update(f"{path.relative_to(root)} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # it went away in the meantime
        return ""


def _git(root: Path, *arguments: str) -> str:
    """What git prints. Raises _NoCommitError where it fails or is not installed."""
    # Without GIT_DIR and the like, which belong to another repository, as in a hook.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
            env={**environment, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NoCommitError(f"git cannot be asked: {error}") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _NoCommitError(f"git: {lines[0] if lines else done.returncode}")
    return done.stdout.decode("utf-8", "replace")


@cache
def packages() -> dict[str, str]:
    """Every installed distribution and its version."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def machine() -> dict[str, Any]:
    """Host, processor, memory, GPUs as PyTorch sees them (only if it is already imported)."""
    torch = sys.modules.get("torch")
    gpus = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpus": gpus,
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = re.findall(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return names[0] if names else platform.processor()


def origin(values: Mapping[str, Any]) -> dict[str, Any]:
    """What Sacred's record keeps of a provenance.json: all but configuration and packages, which
    have places of their own there."""
    return {key: value for key, value in values.items() if key not in ("config", "packages")}


class Provenance:
    """provenance.json of an attempt, and its copy in Sacred's record."""

    def __init__(self, folder: Path, attempt: int, values: dict[str, Any]):
        """`folder`: of the run. Writes `values` at once, since training may fail early."""
        self._path = run_folder.attempt_path(folder, attempt) / run_folder.PROVENANCE
        self._metrics = folder / run_folder.METRICS
        self._info: dict[str, Any] = {}
        self.values = values
        self.update()

    def update(self, **values: Any) -> None:
        """Sets values and writes the file again."""
        self.values.update(values)
        run_folder.write_json(self._path, self.values)
        self._info["provenance"] = origin(self.values)

    def copy_to(self, info: dict[str, Any]) -> None:
        """Keeps a copy in `info` of Sacred's record from now on."""
        self._info = info
        self.update()

    def begin(self, logged: int) -> None:
        """At the first progress of the attempt: notes what metrics.jsonl held before. `logged`: how
        many of its records the attempt has added already."""
        if self.values["from_values"] is None:
            before, _ = read_metrics(self._metrics)
            before = before[: len(before) - logged]
            env_steps = before[-1]["env_steps"] if before else 0
            counts = {name: len(points) for name, points in values_of(before).items()}
            self.update(from_env_steps=env_steps, from_values=counts)
