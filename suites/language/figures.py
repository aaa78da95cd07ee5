"""What a suite's figures show: its keys `figures`, `x` and `scale`. They change no run.

    figures: [bars, aggregates, curves]       any of FIGURES, in the order in which they are saved
    x: horizon                                a setting on the x-axis, or with more detail:
    x: {setting: horizon, planet: planner_horizon, label: Imagination horizon}
    scale: control                            a scale in results/published/scales.csv,
    scale: [0, 200]                           or lowest and highest score of every task,
    scale: {toy_dot: [33, 49]}                or of single tasks

Scores of different tasks are averaged on the scale only: lowest is 0, highest is 1.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dreamer.config import Config
from dreamer.envs.tasks import TASKS, is_task
from dreamer.errors import nearest
from dreamer.variants import BEHAVIOURS
from suites.language.nodes import Node, kind, show

PUBLISHED = Path(__file__).resolve().parents[2] / "results" / "published"
FIGURES = ("curves", "sweep", "heatmap", "bars", "aggregates", "strips", "predictions",
           "observations")  # fmt: skip
DEFAULT_FIGURES = ("curves", "aggregates", "strips", "observations")
DEFAULT_SWEEP_FIGURES = ("sweep", "strips", "observations")  # of a suite with an `x`
DEFAULT_SCALE = "control"
NUMBERS = tuple(
    name for name, field in Config.__dataclass_fields__.items() if field.type in ("int", "float")
)


class Axis(NamedTuple):
    """The setting on the x-axis."""

    setting: str
    of_behaviour: Mapping[str, str]  # behaviours that call it by another name: {planet: ...}
    label: str

    @property
    def settings(self) -> tuple[str, ...]:
        """All settings that the axis may show."""
        return tuple(dict.fromkeys([self.setting, *self.of_behaviour.values()]))

    def setting_of(self, behaviour: str) -> str:
        return self.of_behaviour.get(behaviour, self.setting)


class Scale(NamedTuple):
    """Lowest and highest score of each task: 0 and 1 on the common scale."""

    of_task: Mapping[str, tuple[float, float]]
    of_others: tuple[float, float] | None = None

    def range_of(self, task: str) -> tuple[float, float] | None:
        """(lowest, highest) score of a task; None where the task is not on the scale."""
        return self.of_task.get(task, self.of_others)


class Shown(NamedTuple):
    """What a suite's figures show."""

    figures: tuple[str, ...]
    x: Axis | None
    given_scale: Scale | None

    @property
    def scale(self) -> Scale:
        """The suite's scale, else the control suite's."""
        return self.given_scale or named_scale(DEFAULT_SCALE)


def shown(body: Mapping[str, Node]) -> Shown:
    """The three keys of a suite file, checked; defaults where they are absent."""
    x = _axis(body["x"]) if "x" in body else None
    default = DEFAULT_SWEEP_FIGURES if x else DEFAULT_FIGURES
    figures = _figures(body["figures"]) if "figures" in body else default
    if "sweep" in figures and x is None:
        raise body["figures"].error("sweep needs a setting on its x-axis: give `x:`")
    return Shown(figures, x, _scale(body["scale"]) if "scale" in body else None)


def _figures(node: Node) -> tuple[str, ...]:
    names: list[str] = []
    for item in node.items():
        name = item.one_of(FIGURES, "figure")
        if name in names:
            raise item.error(f"{show(name)} is given twice")
        names.append(name)
    return tuple(names)


def _axis(node: Node) -> Axis:
    if not isinstance(node.value, dict):
        setting = _number_setting(node)
        return Axis(setting, {}, _words(setting))
    body = node.mapping()
    if "setting" not in body:
        raise node.error("which setting? give `setting:`")
    known = ("setting", "label", *BEHAVIOURS)
    for key, value in body.items():
        if key not in known:
            raise value.error(f"no such key; {nearest(key, known)}")
    setting = _number_setting(body["setting"])
    others = {key: _number_setting(body[key]) for key in BEHAVIOURS if key in body}
    return Axis(setting, others, body["label"].text() if "label" in body else _words(setting))


def _number_setting(node: Node) -> str:
    name = node.text()
    if name not in NUMBERS:
        raise node.error(f"no setting {show(name)} with numbers; {nearest(name, NUMBERS)}")
    return name


def _words(setting: str) -> str:
    """`free_nats` -> `Free nats`"""
    return setting.replace("_", " ").capitalize()


def _scale(node: Node) -> Scale:
    if isinstance(node.value, list):
        return Scale({}, _range(node))
    if isinstance(node.value, dict):
        ranges = {}
        for task, value in node.mapping().items():
            if not is_task(task):
                raise value.error(f"no task {show(task)}; {nearest(task, TASKS)}")
            ranges[task] = _range(value)
        return Scale(ranges)
    return named_scale(node.one_of(scales(), "scale"))


def _range(node: Node) -> tuple[float, float]:
    values = [item.value for item in node.sequence()]
    if len(values) != 2:
        raise node.error(f"lowest and highest score are expected, not {len(values)} values")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise node.error(f"a number is expected, not {kind(value)}")
    low, high = float(values[0]), float(values[1])
    if not low < high:
        raise node.error("the lowest score comes first, the highest second")
    return low, high


def published_method(node: Node) -> str:
    """A method of results/published/scores.csv."""
    return node.one_of(published_methods(), "published method")


@cache
def published_methods() -> frozenset[str]:
    with open(PUBLISHED / "scores.csv", encoding="utf-8", newline="") as file:
        return frozenset(row["method"] for row in csv.DictReader(file))


def named_scale(name: str) -> Scale:
    """A scale in results/published/scales.csv."""
    return Scale(scales()[name])


@cache
def scales() -> dict[str, dict[str, tuple[float, float]]]:
    """{scale: {task: (lowest, highest)}}"""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with open(PUBLISHED / "scales.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["scale"], {})[row["task"]] = float(row["low"]), float(row["high"])
    return found
