"""A suite file becomes a list of runs: a pure function of the file (and of those it includes).

    preset: submission            settings: any name in dreamer/config.py, the same for every run
    env_steps: 2e6
    seeds: 3                      0, 1, 2; or a list
    grid:                         axes, combined with one another; a list of grids is their union
      task: control_suite         tasks or task sets
      behaviour: [dreamer, planet]
    zip:                          axes that advance together, combined with the grid's
      horizon: [10, 20]
      length: [25, 50]
    tasks:                        settings of single tasks
      walker_run: {env_steps: 5e6}
    exclude:                      combinations left out; values may be lists or globs
      - {behaviour: planet, task: quadruped_*}
    include: [figure7.yaml]       other suites, as they are; runs that both name are one run

The rest says how to run (`executor`, `profile`, `workers`, `runs_per_gpu`, `observers`) and what
is drawn (`about`, `published`, `figures`, `x`, `scale`: see figures.py). A suite's own task
sets go under `task_sets`.

A run is its resolved settings. Its id is a readable prefix and a hash of everything that changes
the outcome, so that a run which several suites name is the same run everywhere.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dreamer.config import (
    BEFORE,
    PRESETS,
    Config,
    ConfigError,
    UserError,
    check_setting,
    check_together,
    nearest,
)
from dreamer.envs import TASKS, is_task
from suites.language import nodes as strict_yaml
from suites.language.figures import Shown, shown
from suites.language.nodes import Node, one_line, show

TASK_SETS: dict[str, tuple[str, ...]] = {
    "control_suite": (
        "acrobot_swingup", "cartpole_balance", "cartpole_balance_sparse", "cartpole_swingup",
        "cartpole_swingup_sparse", "cheetah_run", "cup_catch", "finger_spin", "finger_turn_easy",
        "finger_turn_hard", "hopper_hop", "hopper_stand", "pendulum_swingup", "quadruped_run",
        "quadruped_walk", "reacher_easy", "reacher_hard", "walker_run", "walker_stand",
        "walker_walk",
    ),
}  # fmt: skip
EXECUTORS = ("local", "slurm", "debug")
SETTINGS = tuple(sorted(Config.__dataclass_fields__))
SUITE_KEYS = (
    "about", "include", "seeds", "task_sets", "grid", "zip", "tasks", "exclude", "executor",
    "profile", "workers", "runs_per_gpu", "observers", "published", "figures", "x", "scale",
)  # fmt: skip
MAX_RUNS = 250_000
HASH_DIGITS = 10


class Run(NamedTuple):
    """One run: what is computed and who asked for it."""

    run_id: str
    suites: tuple[str, ...]  # that name this run
    config: dict[str, Any]  # all resolved settings, as `config_dict` gives them


class Suite(NamedTuple):
    """A suite file, expanded."""

    name: str  # the file's name without its ending
    path: Path
    about: str
    executor: str  # local | slurm | debug
    profile: str | None  # of slurm/profiles.yaml
    workers: int | None  # local worker processes; None: by the machine
    runs_per_gpu: int
    observers: tuple[str, ...]  # MongoDB URLs, without credentials
    published: tuple[str, ...]  # methods of the published tables to show beside
    shown: Shown  # its figures, their x-axis and the scale of scores
    runs: list[Run]


def expand(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Suite:
    """The suite in the file. `overrides` replace settings (and `seeds`) of every run, last of all.

    Raises UserError, one line naming file, line and key path.
    """
    return _expand(Path(path), check_overrides(overrides or {}), ())


def merge(suites: Iterable[Suite]) -> list[Run]:
    """The runs of several suites, each once, in order of first appearance."""
    merged: dict[str, Run] = {}
    for run in itertools.chain.from_iterable(suite.runs for suite in suites):
        _add(merged, run)
    return list(merged.values())


def run_id(config: Mapping[str, Any]) -> str:
    """Readable prefix and hash of the settings that change the outcome."""
    outcome = {k: config[k] for k in outcome_settings() if config[k] != BEFORE.get(k)}
    digest = hashlib.sha256(_dumps(outcome).encode()).hexdigest()[:HASH_DIGITS]
    task = re.sub(r"[^A-Za-z0-9_.]", "_", config["task"])
    return (
        f"{task}-{config['behaviour']}-{config['representation']}"
        f"-{config['preset']}-s{config['seed']}-{digest}"
    )


def overrides_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from the run's preset (its task and seed aside)."""
    preset = preset_settings(config["preset"])
    return {k: v for k, v in config.items() if v != preset[k] and k not in ("task", "seed")}


@cache
def preset_settings(preset: str) -> Mapping[str, Any]:
    """Every setting of a preset, in the order of their names."""
    defaults = {name: field.default for name, field in Config.__dataclass_fields__.items()}
    given = {k: check_setting(k, v) for k, v in PRESETS[preset].items()}
    values = {**defaults, **given, "preset": preset}
    return {name: values[name] for name in SETTINGS}


def check_overrides(overrides: Mapping[str, Any], option: str = "--set") -> dict[str, Any]:
    """Overrides with their types right; raises UserError naming the option that gave them."""
    checked: dict[str, Any] = {}
    names = (*SETTINGS, "seeds")
    for key, value in overrides.items():
        if key not in names:
            raise UserError(f"{option} {show(key)}: no such setting; {nearest(key, names)}")
        if key == "seed" and "seeds" in overrides:
            raise UserError(f"{option}: seed and seeds are given; one is enough")
        node = Node(value, option, str(key))
        checked[key] = _seeds(node) if key == "seeds" else _value(node, str(key))
    return checked


@cache
def outcome_settings() -> tuple[str, ...]:
    """The settings that make a run's identity."""
    fields = Config.__dataclass_fields__
    return tuple(name for name in SETTINGS if fields[name].metadata["outcome"])


_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


# --- One file -------------------------------------------------------------------------------------


def _expand(path: Path, overrides: dict[str, Any], parents: tuple[Path, ...]) -> Suite:
    root = strict_yaml.load(path)
    body = root.mapping()
    for key, node in body.items():
        if key not in SETTINGS and key not in SUITE_KEYS:
            raise _unknown(node, key, (*SETTINGS, *SUITE_KEYS))
    name = path.stem
    runs: dict[str, Run] = {}
    parents = (*parents, path.resolve())
    for entry in _entries(body, "include"):
        included = path.parent / entry.text()
        try:
            strict_yaml.read(included)
        except UserError as error:
            raise entry.error(str(error)) from None
        if included.resolve() in parents:
            raise entry.error(f"{entry.value} includes itself")
        suite = _expand(included, overrides, parents)
        for run in suite.runs:
            _add(runs, run._replace(suites=(*run.suites, name)))
    own = [
        key
        for key in body
        if key in SETTINGS or key in ("grid", "zip", "seeds", "tasks", "exclude")
    ]
    if own or "include" not in body:
        for run in _own_runs(root, name, overrides):
            _add(runs, run)
    if not runs:
        raise root.error("no runs")
    executor = body["executor"].text() if "executor" in body else "local"
    if executor not in EXECUTORS:
        raise body["executor"].error(f"no {executor!r}; {nearest(executor, EXECUTORS)}")
    return Suite(
        name=name,
        path=path,
        about=body["about"].text() if "about" in body else "",
        executor=executor,
        profile=body["profile"].text() if "profile" in body else None,
        workers=body["workers"].whole(1) if "workers" in body else None,
        runs_per_gpu=body["runs_per_gpu"].whole(1) if "runs_per_gpu" in body else 1,
        observers=tuple(_observer(node) for node in _entries(body, "observers")),
        published=tuple(node.text() for node in _entries(body, "published")),
        shown=shown(body),
        runs=list(runs.values()),
    )


def _own_runs(root: Node, name: str, overrides: dict[str, Any]) -> Iterable[Run]:
    """The runs of a file's own grid, overrides applied; each combination once."""
    body = root.mapping()
    base = {key: node for key, node in body.items() if key in SETTINGS}
    sets = _task_sets(body)
    zipped = [_zip_axis(node, sets) for node in _entries(body, "zip")]
    grids = [_grid_axes(node, sets) for node in _entries(body, "grid")] or [[]]
    seeds = overrides.get("seeds") or (_seeds(body["seeds"]) if "seeds" in body else None)
    if seeds:
        zipped.append([_choice({"seed": body.get("seeds", root)._replace(value=s)}) for s in seeds])
    by_task = _task_overrides(body)
    rules = [_rule(node, sets) for node in _entries(body, "exclude")]
    final = {key: value for key, value in overrides.items() if key != "seeds"}
    tasks_met: set[str] = set()
    count = 0
    for grid in grids:
        axes = [*grid, *zipped]
        _refuse_twice(base, axes, by_task)
        count += _size(axes)
        if count > MAX_RUNS:
            raise root.error(f"more than {MAX_RUNS} runs")
        yield from _combine(root, name, base, axes, by_task, rules, final, tasks_met)
    for task, node in by_task.items():
        if task not in tasks_met:
            raise node[0].error(f"this suite has no such task; {nearest(task, tasks_met)}")
    for rule in rules:
        if not rule.hits:
            raise rule.node.error("excludes nothing")


class _Choice(NamedTuple):
    """One step along an axis: the settings that it chooses, checked."""

    nodes: dict[str, Node]
    values: dict[str, Any]


def _choice(nodes: dict[str, Node]) -> _Choice:
    return _Choice(nodes, {key: node.value for key, node in nodes.items()})


def _combine(root: Node, name: str, base: dict[str, Node], axes: Sequence[list[_Choice]],
             by_task: dict[str, tuple[Node, dict[str, Node]]], rules: list[_Rule],
             final: dict[str, Any], tasks_met: set[str]) -> Iterable[Run]:  # fmt: skip
    """Every combination of the axes as a run: settings < task's settings < axes < --set."""
    base_values = {key: _value(node, key) for key, node in base.items()}
    task_values = {
        task: {key: node.value for key, node in nodes.items()}
        for task, (_, nodes) in by_task.items()
    }
    seen: set[str] = set()
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
        if run.run_id not in seen:
            seen.add(run.run_id)
            yield run


def _add(runs: dict[str, Run], run: Run) -> None:
    """Keep a run once, with everyone who names it."""
    known = runs.get(run.run_id)
    if known is None:
        runs[run.run_id] = run
        return
    if any(known.config[key] != run.config[key] for key in outcome_settings()):
        raise UserError(f"two different runs share the id {run.run_id}; change any setting of one")
    suites = (*known.suites, *(suite for suite in run.suites if suite not in known.suites))
    runs[run.run_id] = known._replace(suites=suites)


def _blame(
    root: Node,
    error: ConfigError,
    final: Mapping[str, Any],
    base: Mapping[str, Node],
    task: tuple[Node, dict[str, Node]] | None,
    combination: Sequence[_Choice],
) -> UserError:
    """The error at the place where its setting was given, else at the file."""
    if error.key in final:
        return UserError(one_line(f"--set {error.key}: {error.message}"))
    for nodes in (*(choice.nodes for choice in combination), task[1] if task else {}, base):
        if error.key in nodes:
            return nodes[error.key].error(error.message)
    return root.error(str(error))


# --- Parts of a file ------------------------------------------------------------------------------


def _entries(body: Mapping[str, Node], key: str) -> list[Node]:
    """A key's list of entries; one entry may stand alone; an empty list is an error."""
    if key not in body:
        return []
    entries = body[key].items_or_self()
    if not entries:
        raise body[key].error("an empty list")
    return entries


def _unknown(node: Node, key: str, names: Iterable[str]) -> UserError:
    parent = node.path[: -len(key)].rstrip(".") if node.path.endswith(key) else node.path
    return node._replace(path=parent).error(f"no {show(key)}; {nearest(key, names)}")


def _value(node: Node, key: str) -> Any:
    """A setting's value, checked by itself."""
    if isinstance(node.value, (dict, list)):
        raise node.error(f"one value is expected, not {strict_yaml.kind(node.value)}")
    if key == "task" and not is_task(node.text()):
        raise node.error(f"no task {show(node.value)}; {nearest(node.value, (*TASKS, *TASK_SETS))}")
    try:
        return check_setting(key, node.value)
    except ConfigError as error:
        raise node.error(error.message) from None


def _seeds(node: Node) -> list[int]:
    """`seeds: 3` is 0, 1, 2; a list is itself."""
    if isinstance(node.value, list):
        if not node.value:
            raise node.error("an empty list")
        seeds = [_value(item if isinstance(item, Node) else node._replace(value=item), "seed")
                 for item in node.value]  # fmt: skip
        if len(set(seeds)) < len(seeds):
            raise node.error("a seed is given twice")
        return seeds
    count = node.whole(1)
    if count > MAX_RUNS:
        raise node.error(f"more than {MAX_RUNS} seeds")
    return list(range(count))


def _task_sets(body: Mapping[str, Node]) -> dict[str, tuple[str, ...]]:
    """The built-in task sets and the file's own."""
    sets = dict(TASK_SETS)
    for name, node in (body["task_sets"].mapping() if "task_sets" in body else {}).items():
        if name in TASKS or name in TASK_SETS:
            raise node.error(f"{show(name)} is already the name of a task or task set")
        sets[name] = tuple(item.value for item in _axis_values(node, "task", sets))
    return sets


def _axis_values(node: Node, key: str, sets: Mapping[str, Sequence[str]]) -> list[Node]:
    """An axis' values, checked, each once; task sets become their tasks."""
    items = node.items_or_self()
    if not items:
        raise node.error("an empty list")
    values: list[Node] = []
    for item in items:
        if key == "task" and isinstance(item.value, str) and item.value in sets:
            values += [item._replace(value=task) for task in sets[item.value]]
        elif key == "task" and isinstance(item.value, str) and not is_task(item.value):
            raise item.error(f"no task {show(item.value)}; {nearest(item.value, (*TASKS, *sets))}")
        else:
            values.append(item._replace(value=_value(item, key)))
    met: set[Any] = set()
    for value in values:
        if value.value in met:
            raise value.error(f"{show(value.value)} is given twice")
        met.add(value.value)
    return values


def _axes(node: Node) -> dict[str, Node]:
    axes = node.mapping()
    if not axes:
        raise node.error("no axes")
    for key, values in axes.items():
        if key not in SETTINGS:
            raise _unknown(values, key, SETTINGS)
    return axes


def _grid_axes(node: Node, sets: Mapping[str, Sequence[str]]) -> list[list[_Choice]]:
    return [
        [_choice({key: value}) for value in _axis_values(values, key, sets)]
        for key, values in _axes(node).items()
    ]


def _zip_axis(node: Node, sets: Mapping[str, Sequence[str]]) -> list[_Choice]:
    """Several settings advancing together: lists of one length, where values may repeat."""
    columns: dict[str, list[Node]] = {}
    for key, values in _axes(node).items():
        columns[key] = [item._replace(value=_value(item, key)) for item in values.sequence()]
        first = next(iter(columns))
        if len(columns[key]) != len(columns[first]):
            raise values.error(f"{len(columns[key])} values, but {first} has {len(columns[first])}")
    if not next(iter(columns.values())):
        raise node.error("empty lists")
    return [
        _choice(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
    ]


def _task_overrides(body: Mapping[str, Node]) -> dict[str, tuple[Node, dict[str, Node]]]:
    """{task: (where, {setting: node})}"""
    overrides: dict[str, tuple[Node, dict[str, Node]]] = {}
    for task, node in (body["tasks"].mapping() if "tasks" in body else {}).items():
        if not is_task(task):
            raise _unknown(node, task, TASKS)
        settings: dict[str, Node] = {}
        for key, value in node.mapping().items():
            if key not in SETTINGS or key == "task":
                raise _unknown(value, key, (s for s in SETTINGS if s != "task"))
            settings[key] = value._replace(value=_value(value, key))
        overrides[task] = (node, settings)
    return overrides


def _refuse_twice(base: Mapping[str, Node], axes: Sequence[list[_Choice]],
                  by_task: Mapping[str, tuple[Node, dict[str, Node]]]) -> None:  # fmt: skip
    """A setting has one place: the top of the file or one axis. Axes and tasks do not compete."""
    met: dict[str, str] = {key: node.where for key, node in base.items()}
    for axis in axes:
        for key, node in axis[0].nodes.items():
            if key in met:
                raise node.error(f"{key} is also given at {met[key]}")
            met[key] = node.where
            for _, settings in by_task.values():
                if key in settings:
                    raise settings[key].error(f"{key} is also an axis, at {node.where}")


def _size(axes: Sequence[list[_Choice]]) -> int:
    size = 1
    for axis in axes:
        size *= len(axis)
    return size


class _Rule:
    """One entry of `exclude`: all its keys must match; a key matches any of its values."""

    def __init__(self, node: Node, values: dict[str, set[Any]], globs: dict[str, list[str]]):
        self.node, self.values, self.globs = node, values, globs
        self.hits = 0

    def matches(self, config: Mapping[str, Any]) -> bool:
        for key, values in self.values.items():
            value = config[key]
            if value not in values and not any(
                fnmatch.fnmatchcase(value, g) for g in self.globs[key]
            ):
                return False
        self.hits += 1
        return True


def _rule(node: Node, sets: Mapping[str, Sequence[str]]) -> _Rule:
    values: dict[str, set[Any]] = {}
    globs: dict[str, list[str]] = {}
    for key, given in _axes(node).items():
        items = given.items_or_self()
        if not items:
            raise given.error("an empty list")
        is_text = Config.__dataclass_fields__[key].type == "str"
        globs[key] = [
            i.value for i in items if is_text and isinstance(i.value, str) and is_glob(i.value)
        ]
        plain = [item for item in items if item.value not in globs[key]]
        checked = _axis_values(given._replace(value=plain), key, sets) if plain else []
        values[key] = {item.value for item in checked}
    return _Rule(node, values, globs)


def is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _observer(node: Node) -> str:
    """A MongoDB URL. Credentials do not belong in a file that is shared and recorded."""
    url = node.text()
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise node.error("a URL that starts with mongodb:// is expected")
    if "@" in url:
        raise node._replace(value=None).error(
            "no credentials in suites; give the URL in DREAMER_MONGO_URL instead"
        )
    return url
