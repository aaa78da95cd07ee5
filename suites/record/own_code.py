"""What a user's own environment or variant is made of: files and packages, as part of provenance.

A task `my_module:make` is code that no commit of ours knows. Its files, what they import from the
same folder, the data that they name there (`model.xml`), and the version of its package are hashed,
so that runs of different environments under one name are told apart.
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

from dreamer.run_folder import sha256

SETTINGS = ("task", "behaviour", "representation")  # that may name code as `module:NAME`
OURS = {"dreamer", "suites", "slurm", "analysis"}
MOST_BYTES = 100_000_000  # of data that is hashed
WRITTEN = (".log", ".csv")  # data that an environment rather writes than reads


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
    files = [f"{sha256(path)}  {name}" for name, path in named]
    whole = json.dumps([package, files]).encode()
    version = hashlib.sha256(whole).hexdigest()[:12]
    return {"version": version, "package": package or None, "files": files}


def _files(top: str) -> list[tuple[str, Path]]:
    """The files of a module or package, those beside it that it imports, and the data that they
    name, by their paths from its folder."""
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise ImportError(f"no file behind module {top!r}")
    origin = Path(spec.origin)
    folder = origin.parents[1] if spec.submodule_search_locations else origin.parent
    todo, names = [top], set(OURS)
    paths: set[Path] = set()
    while todo:
        name = todo.pop()
        if name in names:
            continue
        names.add(name)
        file, package = folder / f"{name}.py", folder / name
        inside = [path for path in package.rglob("*") if path.is_file()]
        code = [path for path in inside if path.suffix == ".py"]
        code += [file] if not code and file.exists() else []
        paths |= set(code)
        if folder.name not in ("site-packages", "dist-packages"):  # there, versions say enough
            for path in code:
                tree = ast.parse(path.read_bytes())
                todo += _imported(tree)
                paths |= _data(tree, path.parent, inside)
    return sorted((path.relative_to(folder).as_posix(), path) for path in paths or {origin})


def _imported(tree: ast.AST) -> set[str]:
    """The top-level modules that code imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def _data(tree: ast.AST, folder: Path, inside: Iterable[Path]) -> set[Path]:
    """The data that code in `folder` names in its texts: there, or by their last part among the
    files `inside` its package."""
    by_name = {path.name: path for path in inside}
    found: set[Path] = set()
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and text.isprintable() and 0 < len(text) < 200:
            named = Path(text)
            outside = named.is_absolute() or ".." in named.parts
            found |= {by_name.get(named.name, folder), folder if outside else folder / named}
    return {path for path in found if path.suffix not in WRITTEN and _is_small_file(path)}


def _is_small_file(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= MOST_BYTES
