"""What the commands share: the options that choose runs."""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from dreamer.command_line import Parser, main
from dreamer.errors import UserError, nearest
from dreamer.run_folder import RESULTS
from suites.language.axes import is_glob
from suites.language.identity import SETTINGS, overrides_of
from suites.language.nodes import scalar, show
from suites.language.suite import COMMITTED, Run, Suite, check_overrides, expand, find_suite, merge
from suites.record.contents import as_recorded

__all__ = ["Parser", "agreed", "chosen", "group_by_seed", "main", "parser", "read_suite", "select"]
SELECTABLE = ("run_id", "suites", *SETTINGS)


def parser(module: str, about: str, suites: str = "+") -> Parser:
    """A parser with the options that choose runs. `suites`: how many, as argparse's `nargs`."""
    made = Parser(f"python -m suites.{module}", description=about, allow_abbrev=False)
    add = made.add_argument
    add("suites", nargs=suites, metavar="SUITE",
        help="a YAML file or the name of one; a run in several suites is one run")  # fmt: skip
    add("--only", action="append", default=[], metavar="KEY=GLOB", help="only these runs")
    add("--except", action="append", default=[], metavar="KEY=GLOB", dest="leave_out",
        help="all but these runs")  # fmt: skip
    add_set(made)
    add("--results", type=Path, default=RESULTS, metavar="DIR",
        help="default: results, in the folder you are in")  # fmt: skip
    return made


def add_set(parser: argparse.ArgumentParser) -> None:
    """`--set`, as `parse_settings` reads it."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="change a setting of every run, or seeds; give it to every command",
    )  # fmt: skip


def chosen(options: argparse.Namespace) -> tuple[list[Suite], list[Run]]:
    """The expanded suites, and those of their runs that the options choose."""
    settings = parse_settings(options.settings)
    suites = [read_suite(path, settings) for path in options.suites]
    suites = [s._replace(runs=as_recorded(options.results, s.runs)) for s in suites]
    return suites, select(merge(suites), options.only, options.leave_out)


def read_suite(name: str | Path, settings: Mapping[str, Any] | None = None) -> Suite:
    """The suite of a file or a name. From now on Python also finds modules beside the file, in this
    process and in those that it starts."""
    path = find_suite(name)
    if path.is_file():
        _find_modules_in(str(path.resolve().parent))
    return expand(path, settings)


def _find_modules_in(folder: str) -> None:
    paths = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    if folder not in (*paths, os.getcwd(), str(COMMITTED)):
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, folder])
        sys.path.append(folder)


def agreed(question: str) -> bool:
    """Whether the user answers yes; Ctrl-D is no answer."""
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def json_text(value: Any) -> str:
    """JSON for people and programs; what is no number is null."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return orjson.dumps(value, default=lambda one: one._asdict(), option=options).decode()


def select(runs: Sequence[Run], only: Iterable[str], leave_out: Iterable[str]) -> list[Run]:
    """The runs that match `only` (every key, by any of its globs) and nothing of `leave_out`."""
    wanted: dict[str, list[str]] = {}
    for text in only:
        key, glob = _condition("--only", text)
        wanted.setdefault(key, []).append(glob)
    unwanted = [_condition("--except", text) for text in leave_out]
    kept = [
        r
        for r in runs
        if all(any(_matches(r, key, g) for g in globs) for key, globs in wanted.items())
        and not any(_matches(r, key, g) for key, g in unwanted)
    ]
    if not kept:
        raise UserError("--only and --except leave no run")
    return kept


def _condition(option: str, text: str) -> tuple[str, str]:
    key, glob = _pair(option, text)
    if key not in SELECTABLE:
        raise UserError(f"{option} {text}: no {key!r}; {nearest(key, SELECTABLE)}")
    if key in SETTINGS and not is_glob(glob):
        glob = as_text(_value(key, glob, option))  # 2e6 matches 2000000
    return key, glob


def _matches(run: Run, key: str, glob: str) -> bool:
    if key == "run_id":
        return fnmatch.fnmatchcase(run.run_id, glob)
    if key == "suites":
        return any(fnmatch.fnmatchcase(suite, glob) for suite in run.suites)
    return fnmatch.fnmatchcase(as_text(run.config[key]), glob)


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_settings(texts: Iterable[str]) -> dict[str, Any]:
    """{key: value} of `--set KEY=VALUE`; if a key is given twice, the last one counts."""
    return {key: _value(key, value) for key, value in (_pair("--set", text) for text in texts)}


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{option} {show(text)}: KEY=VALUE is expected")
    return key.strip(), value.strip()


def _value(key: str, text: str, option: str = "--set") -> Any:
    """The value as YAML would read it, checked."""
    try:
        return check_overrides({key: scalar(text)}, option)[key]
    except ValueError as error:
        raise UserError(f"{option} {key}: {error}") from None


def varying(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that tell these runs apart, seeds aside: preset, task, method, env_steps and
    whatever differs from a preset, where not all runs have the same."""
    keys = dict.fromkeys(("task", "behaviour", "representation", "preset", "env_steps"))
    for config in configs:
        keys.update(dict.fromkeys(overrides_of(config)))
    keys.pop("seed", None)
    return [key for key in keys if len({config[key] for config in configs}) > 1]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def setting_text(key: str, value: Any) -> str:
    """A setting where several are named: those of a method speak for themselves."""
    plain = key in ("task", "behaviour", "representation", "preset")
    return as_text(value) if plain else f"{key}={as_text(value)}"


def group_by_seed(runs: Sequence[Run]) -> list[tuple[Run, list[int]]]:
    """The first of the runs that differ only in their seed, with the seeds of all of them."""
    groups: dict[tuple[Any, ...], tuple[Run, list[int]]] = {}
    for run in runs:
        key = tuple(value for name, value in run.config.items() if name != "seed")
        groups.setdefault(key, (run, []))[1].append(run.config["seed"])
    return list(groups.values())
