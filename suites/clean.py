"""Free disk that a suite no longer needs: what may go, its size, and then a question.

    python -m suites.clean suites/figure6.yaml --dry-run
    python -m suites.clean suites/figure6.yaml [--only 'task=walker_*'] [--yes]

What may go: the replay of finished runs, earlier results that `suites.run --fresh` set aside,
copies of the code that no job needs, and the cache of figures. Checkpoints, metrics, provenance and
Sacred's records always stay, so that runs can be resumed, evaluated, drawn and audited; only more
env_steps for a finished run need its replay. Exit code 0; 2 for bad input or without a yes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dreamer import run_folder
from dreamer.errors import UserError
from suites import command
from suites.execution.executor import Executor
from suites.execution.executors import EXECUTORS
from suites.language.suite import Run
from suites.record.folder import BusyError, largest_budgets, locked

MAX_NAMED = 20  # of each kind


class Item(NamedTuple):
    """Something that may go."""

    kind: str
    path: Path
    remove: Callable[[], int]  # decides anew, under a lock; returns the bytes that became free


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command.parser("clean", __doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="show what may go and stop")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    return command.main(parser.parse_args, clean, arguments)


def clean(options: argparse.Namespace) -> int:
    _, runs = command.chosen(options)
    items = [*find(options.results, runs)]
    if not items:
        print("nothing may go")
        return 0
    show(items)
    if options.dry_run:
        return 0
    if not options.yes:
        if not sys.stdin.isatty():
            raise UserError("clean: nobody can be asked here; give --yes, or --dry-run to look")
        if not command.agreed("Remove this for good?"):
            raise UserError("clean: nothing was removed")
    freed = 0
    for item in items:
        try:
            freed += item.remove()
        except BusyError as error:
            print(f"kept  {error}", file=sys.stderr)
        except OSError as error:
            print(f"kept  {error.filename or item.path}: {error.strerror}", file=sys.stderr)
    print(f"{run_folder.size_text(freed)} freed")
    return 0


def find(results: Path, runs: Sequence[Run]) -> Iterator[Item]:
    """What may go now, in the order in which it is shown."""
    budgets = largest_budgets(results, {run.run_id: run.config["env_steps"] for run in runs})
    for run in runs:
        folder, budget = run_folder.run_path(results, run.run_id), budgets[run.run_id]
        replay = folder / run_folder.REPLAY
        if _is_finished(folder, budget) and replay.is_dir():
            yield Item("replays of finished runs", replay, partial(_remove_replay, folder, budget))
    ids = {run.run_id for run in runs}
    for folder in _folders(run_folder.discarded_path(results, "", 0).parent):
        run_id, _, number = folder.name.rpartition("-")
        if run_id in ids and number.isdecimal():
            yield Item("runs set aside by --fresh", folder, partial(_remove_run, folder))
    for executor in EXECUTORS.values():
        for folder in executor.unneeded(results):
            remove = partial(_remove_unneeded, executor, results, folder)
            yield Item("code of earlier jobs", folder, remove)
    cache = run_folder.cache_path(results)
    if any(_files(cache)):
        yield Item("cache of figures", cache, partial(_remove_files, cache))


def show(items: Sequence[Item]) -> None:
    """Prints each kind with its size, and the largest of its items."""
    for kind in dict.fromkeys(item.kind for item in items):
        sizes = {item.path: _bytes(item.path) for item in items if item.kind == kind}
        print(f"{run_folder.size_text(sum(sizes.values())):>10}  {len(sizes)} {kind}")
        for path in sorted(sizes, key=lambda path: -sizes[path])[:MAX_NAMED]:
            print(f"{run_folder.size_text(sizes[path]):>14}  {path}")
        if len(sizes) > MAX_NAMED:
            print(f"{'':14}  and {len(sizes) - MAX_NAMED} more")


# --- Each kind ------------------------------------------------------------------------------------


def _is_finished(folder: Path, budget: int) -> bool:
    return run_folder.is_complete(run_folder.read_status(folder) or {}, budget)


def _remove_replay(folder: Path, budget: int) -> int:
    with locked(folder):
        if not _is_finished(folder, budget):
            raise BusyError(f"{folder.name}: it goes on since")
        return run_folder.discard_replay(folder, "suites.clean made room")


def _remove_run(folder: Path) -> int:
    size_bytes = _bytes(folder)
    with locked(folder):  # raises if a process still executes it
        shutil.rmtree(folder)
    return size_bytes


def _remove_unneeded(executor: Executor, results: Path, folder: Path) -> int:
    size_bytes = _bytes(folder)
    return size_bytes if folder in executor.unneeded(results, remove=folder) else 0


def _remove_files(folder: Path) -> int:
    """Removes the files; a process that writes others meanwhile is not disturbed."""
    freed = 0
    for path in _files(folder):
        size_bytes = path.stat().st_size
        path.unlink(missing_ok=True)
        freed += size_bytes
    return freed


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    """The files in a folder that are whole, sorted."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _bytes(path: Path) -> int:
    """Disk that a folder's files take up."""
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_blocks * 512 for file in found)


if __name__ == "__main__":
    sys.exit(main())
