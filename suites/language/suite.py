"""Expands a suite file to a list of runs: a pure function of the file and those it includes.

suites/README.md explains every key. A run is identified by its settings (identity.py), so a run
that several suites name is one run. Its budget is no part of it: of several the largest counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer.config import PRESETS, check_together, outcome_values
from dreamer.errors import ConfigError, UserError, nearest, one_line
from suites.execution.executors import EXECUTORS, FALLBACK
from suites.language import nodes
from suites.language.axes import (
    MAX_RUNS,
    Choice,
    Rule,
    entries,
    exclude_rule,
    grid_axes,
    seeds_of,
    setting_value,
    task_sets,
    task_settings,
    unknown_key,
    zip_axis,
)
from suites.language.figures import Shown, published_method, shown
from suites.language.identity import SETTINGS, preset_settings, run_id
from suites.language.nodes import Node, show

SUITE_KEYS = (
    "about", "include", "seeds", "task_sets", "grid", "zip", "tasks", "exclude", "executor",
    "profile", "workers", "runs_per_gpu", "observers", "published", "figures", "x", "scale",
)  # fmt: skip
COMMITTED = Path(__file__).resolve().parents[1]  # the folder of the suites that come along
MAX_INCLUDES = 50  # one inside another


class Run(NamedTuple):
    """One run: its settings, and the suites that have it."""

    run_id: str
    suites: tuple[str, ...]  # the suites that have this run
    config: dict[str, Any]  # all resolved settings, as `config_dict` gives them


class Suite(NamedTuple):
    """A suite file, expanded."""

    name: str  # the file's name without its ending
    path: Path
    about: str
    executor: str  # a name in suites/execution/executors.py
    profile: str | None  # of slurm/profiles.yaml
    workers: int | None  # local worker processes; None: by the machine
    runs_per_gpu: int
    observers: tuple[str, ...]  # MongoDB URLs, without credentials
    published: tuple[str, ...]  # methods of results/published to show in figures
    shown: Shown  # its figures, their x-axis and the scale of scores
    runs: list[Run]


def expand(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Suite:
    """The suite in the file. `overrides` replace settings of every run, or `seeds`, at the end.

    Raises UserError with file, line and key path.
    """
    return _expand(Path(path), check_overrides(overrides or {}), (), {})


def find_suite(name: str | Path) -> Path:
    """The file of a suite: a path as it is, or without its ending, or a name in this package.

    Raises UserError for a name that is neither; paths that lead nowhere are left to the reader."""
    path = Path(name)
    ways = [path, path.with_name(f"{path.name}.yaml")] if path.name else [path]
    if path == Path(path.name):
        ways += [COMMITTED / way for way in ways]
    found = next((way for way in ways if way.is_file()), None)
    if found or path.suffix or path.exists() or path != Path(path.name):
        return found or path
    known = [file.stem for folder in (COMMITTED, Path()) for file in folder.glob("*.yaml")]
    raise UserError(f"{path}: no such suite; {nearest(path.name, known)}")


def merge(suites: Iterable[Suite]) -> list[Run]:
    """The runs of several suites, each once, in order of first appearance."""
    merged: dict[str, Run] = {}
    for run in itertools.chain.from_iterable(suite.runs for suite in suites):
        _add(merged, run)
    return list(merged.values())


def check_overrides(overrides: Mapping[str, Any], option: str = "--set") -> dict[str, Any]:
    """The overrides, checked. Raises UserError that names the option."""
    checked: dict[str, Any] = {}
    names = (*SETTINGS, "seeds")
    for key, value in overrides.items():
        if key not in names:
            raise UserError(f"{option} {show(key)}: no such setting; {nearest(key, names)}")
        if key == "seed" and "seeds" in overrides:
            raise UserError(f"{option}: seed and seeds are given; one is enough")
        node = Node(value, option, str(key))
        checked[key] = seeds_of(node) if key == "seeds" else setting_value(node, str(key))
    return checked


# --- One file -------------------------------------------------------------------------------------


def _expand(
    path: Path, overrides: dict[str, Any], parents: tuple[Path, ...], known: dict[Path, Suite]
) -> Suite:
    """`parents`: the files that include this one; `known`: what was expanded already."""
    root = nodes.load(path)
    body = root.mapping()
    for key, node in body.items():
        if key not in SETTINGS and key not in SUITE_KEYS:
            raise unknown_key(node, key, (*SETTINGS, *SUITE_KEYS))
    name = path.stem
    if not name.isprintable():  # it stands in tables, figures and names of folders
        raise UserError(f"{path}: the name of a suite is printable text in UTF-8; rename the file")
    runs: dict[str, Run] = {}
    parents = (*parents, path.resolve())
    for entry in entries(body, "include"):
        included = path.parent / entry.text()
        try:
            nodes.read(included)
        except UserError as error:
            raise entry.error(str(error)) from None
        place = included.resolve()
        if place in parents:
            raise entry.error(f"{entry.value} includes itself")
        if len(parents) > MAX_INCLUDES:
            raise entry.error(f"more than {MAX_INCLUDES} files that include one another")
        suite = known.get(place) or _expand(included, overrides, parents, known)
        known[place] = suite
        for run in suite.runs:
            _add(runs, run._replace(suites=(*run.suites, name)))
    own = body.keys() & {*SETTINGS, "grid", "zip", "seeds", "tasks", "exclude"}
    if own or "include" not in body:
        for run in _own_runs(root, name, overrides):
            _add(runs, run)
    if not runs:
        raise root.error("no runs")
    executor = body["executor"].one_of(EXECUTORS) if "executor" in body else FALLBACK.name
    return Suite(
        name=name,
        path=path,
        about=body["about"].text() if "about" in body else "",
        executor=executor,
        profile=body["profile"].text() if "profile" in body else None,
        workers=body["workers"].whole(1) if "workers" in body else None,
        runs_per_gpu=body["runs_per_gpu"].whole(1) if "runs_per_gpu" in body else 1,
        observers=tuple(_observer(node) for node in entries(body, "observers")),
        published=tuple(published_method(node) for node in entries(body, "published")),
        shown=shown(body),
        runs=list(runs.values()),
    )


def _own_runs(root: Node, name: str, overrides: dict[str, Any]) -> Iterable[Run]:
    """The runs of the file itself, without those of `include`; overrides are applied."""
    body = root.mapping()
    base = {key: node for key, node in body.items() if key in SETTINGS}
    sets = task_sets(body)
    zipped = [zip_axis(node, sets) for node in entries(body, "zip")]
    grids = [grid_axes(node, sets) for node in entries(body, "grid")] or [[]]
    seeds = overrides.get("seeds") or (seeds_of(body["seeds"]) if "seeds" in body else None)
    if seeds:
        place = body.get("seeds", root)
        zipped.append([Choice.of({"seed": place._replace(value=seed)}) for seed in seeds])
    by_task = task_settings(body)
    rules = [exclude_rule(node, sets) for node in entries(body, "exclude")]
    final = {key: value for key, value in overrides.items() if key != "seeds"}
    tasks_met: set[str] = set()
    count = 0
    for grid in grids:
        axes = [*grid, *zipped]
        _refuse_twice(base, axes, by_task)
        count += math.prod(map(len, axes))
        if count > MAX_RUNS:
            raise root.error(f"more than {MAX_RUNS} runs")
        yield from _combine(root, name, base, axes, by_task, rules, final, tasks_met)
    for task, node in by_task.items():
        if task not in tasks_met:
            raise node.error(f"this suite has no such task; {nearest(task, tasks_met)}")
    for rule in rules:
        if not rule.hits:
            raise rule.node.error("excludes nothing")


def _combine(root: Node, name: str, base: dict[str, Node], axes: Sequence[list[Choice]],
             by_task: dict[str, Node], rules: list[Rule], final: dict[str, Any],
             tasks_met: set[str]) -> Iterable[Run]:  # fmt: skip
    """A run for each combination of the axes. Later ones override earlier ones: settings, settings
    of the task, axes, --set."""
    base_values = {key: setting_value(node, key) for key, node in base.items()}
    task_values = {
        task: {key: node.value for key, node in given.value.items()}
        for task, given in by_task.items()
    }
    seen: set[tuple[str, int]] = set()
    for combination in itertools.product(*axes):
        settings = dict(base_values)
        for choice in combination:
            settings.update(choice.values)
        task = settings.get("task")
        if task is None:
            raise root.error("which task? give `task:`, or `task` in `grid` or `zip`")
        tasks_met.add(task)
        settings.update(task_values.get(task, ()))
        if "preset" not in settings:
            raise root.error(
                f"which preset? give `preset:`; choose from {', '.join(sorted(PRESETS))}"
            )
        if rules:
            config = {**preset_settings(settings["preset"]), **settings}
            matched = [rule.matches(config) for rule in rules]  # every rule counts its hits
            if any(matched):
                continue
        settings.update(final)
        config = {**preset_settings(settings["preset"]), **settings}
        try:
            check_together(config)
        except ConfigError as error:
            raise _blame(root, error, final, base, by_task.get(task), combination) from None
        run = Run(run_id(config), (name,), config)
        if (key := (run.run_id, config["env_steps"])) not in seen:
            seen.add(key)
            yield run


def _add(runs: dict[str, Run], run: Run) -> None:
    """Adds a run, or its suites and a larger budget if the run is there already."""
    known = runs.get(run.run_id)
    if known is None:
        runs[run.run_id] = run
        return
    if outcome_values(known.config) != outcome_values(run.config):
        raise UserError(f"two different runs share the id {run.run_id}; change any setting of one")
    always = "always" in (known.config["keep_replay"], run.config["keep_replay"])
    kept = {"keep_replay": "always"} if always else {}  # one suite that needs it is enough
    suites = (*known.suites, *(suite for suite in run.suites if suite not in known.suites))
    further = max(known, run, key=lambda one: one.config["env_steps"])
    runs[run.run_id] = further._replace(suites=suites, config={**further.config, **kept})


def _blame(
    root: Node,
    error: ConfigError,
    final: Mapping[str, Any],
    base: Mapping[str, Node],
    task: Node | None,
    combination: Sequence[Choice],
) -> UserError:
    """The error, with the place where its setting was given, or else the file."""
    if error.key in final:
        return UserError(one_line(f"--set {error.key}: {error.message}"))
    for given in (*(choice.nodes for choice in combination), task.value if task else {}, base):
        if error.key in given:
            return given[error.key].error(error.message)
    return root.error(str(error))


# --- Parts of a file ------------------------------------------------------------------------------


def _refuse_twice(base: Mapping[str, Node], axes: Sequence[list[Choice]],
                  by_task: Mapping[str, Node]) -> None:  # fmt: skip
    """Raises if a setting is given twice: at the top, on an axis, or on an axis and for a task."""
    met: dict[str, str] = {key: node.where for key, node in base.items()}
    for axis in axes:
        for key, node in axis[0].nodes.items():
            if key in met:
                raise node.error(f"{key} is also given at {met[key]}")
            met[key] = node.where
            for given in by_task.values():
                if key in given.value:
                    raise given.value[key].error(f"{key} is also an axis, at {node.where}")


def _observer(node: Node) -> str:
    """A MongoDB URL without credentials, which do not belong in a file that is shared."""
    url = node.text()
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise node.error("a URL that starts with mongodb:// is expected")
    if "@" in url:
        raise node._replace(value=None).error(
            "no credentials in suites; give the URL in DREAMER_MONGO_URL instead"
        )
    return url
