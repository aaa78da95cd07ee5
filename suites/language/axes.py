"""The parts of a suite that span its runs: values, task sets, grid, zip, tasks, exclude."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dreamer.config import Config, check_setting
from dreamer.envs.control_suite import CONTROL_TASKS
from dreamer.envs.tasks import TASKS, is_task
from dreamer.errors import ConfigError, UserError, nearest
from suites.language.identity import SETTINGS
from suites.language.nodes import Node, kind, show

TASK_SETS: dict[str, tuple[str, ...]] = {"control_suite": tuple(CONTROL_TASKS)}
MAX_RUNS = 250_000


class Choice(NamedTuple):
    """One value of an axis: the settings that it gives, checked."""

    nodes: dict[str, Node]
    values: dict[str, Any]

    @staticmethod
    def of(nodes: dict[str, Node]) -> Choice:
        return Choice(nodes, {key: node.value for key, node in nodes.items()})


def entries(body: Mapping[str, Node], key: str) -> list[Node]:
    """The entries of a key: a list, or a single entry. An empty list is an error."""
    return body[key].items() if key in body else []


def unknown_key(node: Node, key: str, names: Iterable[str]) -> UserError:
    """The error about a key that is none of `names`; `node` is its value."""
    parent = node.path[: -len(key)].rstrip(".") if node.path.endswith(key) else node.path
    return node._replace(path=parent).error(f"no {show(key)}; {nearest(key, names)}")


def setting_value(node: Node, key: str, sets: Iterable[str] = TASK_SETS) -> Any:
    """The value of a setting, checked without the other settings. `sets`: names of task sets, for
    the error about an unknown task."""
    if key == "environment" and isinstance(node.value, dict):  # arguments of its maker
        node = node._replace(value=node.plain())
    elif isinstance(node.value, (dict, list)):
        raise node.error(f"one value is expected, not {kind(node.value)}")
    if key == "task" and not is_task(node.text()):
        raise node.error(f"no task {show(node.value)}; {nearest(node.value, (*TASKS, *sets))}")
    try:
        return check_setting(key, node.value)
    except ConfigError as error:
        raise node.error(error.message) from None


def seeds_of(node: Node) -> list[int]:
    """The seeds that `seeds` gives: 0, 1, 2 for 3; a list as it is."""
    if isinstance(node.value, list):
        items = [i if isinstance(i, Node) else node._replace(value=i) for i in node.items()]
        seeds = [setting_value(item, "seed") for item in items]
        if len(set(seeds)) < len(seeds):
            raise node.error("a seed is given twice")
        return seeds
    count = node.whole(1)
    if count > MAX_RUNS:
        raise node.error(f"more than {MAX_RUNS} seeds")
    return list(range(count))


def task_sets(body: Mapping[str, Node]) -> dict[str, tuple[str, ...]]:
    """The built-in task sets and the file's own."""
    sets = dict(TASK_SETS)
    for name, node in (body["task_sets"].mapping() if "task_sets" in body else {}).items():
        if name in TASKS or name in TASK_SETS:
            raise node.error(f"{show(name)} is already the name of a task or task set")
        sets[name] = tuple(item.value for item in axis_values(node, "task", sets))
    return sets


def axis_values(node: Node, key: str, sets: Mapping[str, Sequence[str]]) -> list[Node]:
    """The values of an axis, checked, without repetition; task sets are replaced by their tasks."""
    values: list[Node] = []
    for item in node.items():
        if key == "task" and isinstance(item.value, str) and item.value in sets:
            values += [item._replace(value=task) for task in sets[item.value]]
        else:
            values.append(item._replace(value=setting_value(item, key, sets)))
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
            raise unknown_key(values, key, SETTINGS)
    return axes


def grid_axes(node: Node, sets: Mapping[str, Sequence[str]]) -> list[list[Choice]]:
    """The axes of a grid."""
    return [
        [Choice.of({key: value}) for value in axis_values(values, key, sets)]
        for key, values in _axes(node).items()
    ]


def zip_axis(node: Node, sets: Mapping[str, Sequence[str]]) -> list[Choice]:
    """One axis of several settings: lists of equal length, in which values may repeat."""
    columns: dict[str, list[Node]] = {}
    for key, values in _axes(node).items():
        columns[key] = [item._replace(value=setting_value(item, key)) for item in values.sequence()]
        first = next(iter(columns))
        if len(columns[key]) != len(columns[first]):
            raise values.error(f"{len(columns[key])} values, but {first} has {len(columns[first])}")
    if not next(iter(columns.values())):
        raise node.error("empty lists")
    return [
        Choice.of(dict(zip(columns, row, strict=True)))
        for row in zip(*columns.values(), strict=True)
    ]


def task_settings(body: Mapping[str, Node]) -> dict[str, Node]:
    """The settings of single tasks: {task: its place, with {setting: value} as value}."""
    overrides: dict[str, Node] = {}
    for task, node in (body["tasks"].mapping() if "tasks" in body else {}).items():
        if not is_task(task):
            raise unknown_key(node, task, TASKS)
        settings: dict[str, Node] = {}
        for key, value in node.mapping().items():
            if key not in SETTINGS or key == "task":
                raise unknown_key(value, key, (s for s in SETTINGS if s != "task"))
            settings[key] = value._replace(value=setting_value(value, key))
        overrides[task] = node._replace(value=settings)
    return overrides


class Rule:
    """An entry of `exclude`. It matches a run if every key matches one of its values or globs."""

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


def exclude_rule(node: Node, sets: Mapping[str, Sequence[str]]) -> Rule:
    """The rule that an entry of `exclude` describes."""
    values: dict[str, set[Any]] = {}
    globs: dict[str, list[str]] = {}
    for key, given in _axes(node).items():
        items = given.items()
        is_text = Config.__dataclass_fields__[key].type == "str"
        globs[key] = [
            i.value for i in items if is_text and isinstance(i.value, str) and is_glob(i.value)
        ]
        plain = [item for item in items if item.value not in globs[key]]
        checked = axis_values(given._replace(value=plain), key, sets) if plain else []
        values[key] = {item.value for item in checked}
    return Rule(node, values, globs)


def is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")
