"""What a user's own environment or variant is made of: files and packages, as part of provenance.

A task `my_module:make` is code that no commit of ours knows. Its files, what they import from the
same folder, and the version of its package are hashed, so that runs of different environments under
one name are told apart.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SETTINGS = ("task", "behaviour", "representation")  # that may name code as `module:NAME`
OURS = {"dreamer", "suites", "slurm", "analysis"}


def own_code(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{setting: {version, package, files}} of each setting that names a user's own code; `version`
    is a hash of the rest. Code that cannot be found has a `problem` instead of files; the run
    itself then fails with the same error.
    """
    found = {}
    for setting in SETTINGS:
        prefix, colon, name = str(config[setting]).partition(":")
        if colon:
            try:
                found[setting] = _described(*_origin(prefix, name))
            except Exception as error:  # whatever the import of a foreign package raises
                problem = f"{type(error).__name__}: {error}"
                found[setting] = {"version": "unknown", "problem": problem}
    return found


def _origin(prefix: str, name: str) -> tuple[str, list[Path]]:
    """(top-level module, further files) behind `prefix:name`."""
    if prefix == "atari":
        return "ale_py", _rom(name)
    if prefix == "dmlab":
        return "deepmind_lab", []
    if prefix == "gymnasium":
        import gymnasium

        module, _, name = f":{name}".rpartition(":")
        for needed in filter(None, (module[1:], "ale_py" if name.startswith("ALE/") else "")):
            importlib.import_module(needed)  # registers its environments
        spec = gymnasium.spec(name)
        entry: Any = spec.entry_point
        module = entry if isinstance(entry, str) else entry.__module__
        top = module.partition(":")[0].partition(".")[0]
        return top, _rom(spec.kwargs["game"]) if top == "ale_py" else []
    return prefix.partition(".")[0], []


def _rom(game: str) -> list[Path]:
    from ale_py import roms

    path = roms.get_rom_path(game)
    return [Path(path)] if path else []


def _described(top: str, more: Iterable[Path]) -> dict[str, Any]:
    distributions = importlib.metadata.packages_distributions().get(top, ())
    package = ", ".join(f"{d} {importlib.metadata.version(d)}" for d in sorted(set(distributions)))
    named = [*_files(top), *((path.name, path) for path in more)]
    files = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}" for name, path in named]
    whole = json.dumps([package, files]).encode()
    version = hashlib.sha256(whole).hexdigest()[:12]
    return {"version": version, "package": package or None, "files": files}


def _files(top: str) -> list[tuple[str, Path]]:
    """The Python files of a module or package, and of those beside it that they import, by their
    paths from its folder."""
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise ImportError(f"no file behind module {top!r}")
    origin = Path(spec.origin)
    folder = origin.parents[1] if spec.submodule_search_locations else origin.parent
    todo, names = [top], set(OURS)
    paths: list[Path] = []
    while todo:
        name = todo.pop()
        if name in names:
            continue
        names.add(name)
        file, package = folder / f"{name}.py", folder / name
        new = sorted(package.rglob("*.py")) if package.is_dir() else [file] if file.exists() else []
        paths += new
        if folder.name not in ("site-packages", "dist-packages"):  # there, versions say enough
            todo += [imported for path in new for imported in _imported(path)]
    paths = paths or [origin]
    return sorted((path.relative_to(folder).as_posix(), path) for path in paths)


def _imported(path: Path) -> set[str]:
    """The top-level modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
