"""metrics.jsonl: its records, the values in them, and which attempt made which values."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from dreamer.run_folder import made_by, read_bytes

COUNTERS = ("kind", "env_steps", "agent_steps", "updates")  # in every record

Values = dict[str, list[tuple[int, float]]]  # {metric: [(env_steps, value)]}


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """(records of a metrics.jsonl, what is wrong with its lines)"""
    try:
        lines = read_bytes(path).splitlines()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{path.name} cannot be read: {error.strerror}"]
    try:  # all lines at once, which is quick; NaN and Infinity are no JSON and go below
        found = orjson.loads(b"[" + b",".join(lines) + b"]")
        if len(found) == len(lines) and _are_records(found):
            return found, []
    except orjson.JSONDecodeError:
        pass
    found, problems = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not _are_records([record]):
            problems.append(f"line {number} of {path.name} cannot be read")
            continue
        found.append(record)
        problems += [
            f"{name} is {value} at {record['env_steps']} env_steps"
            for name, value in record.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
    return found, problems


_counters = operator.itemgetter(*COUNTERS)


def _are_records(found: Sequence[Any]) -> bool:
    """Whether all are objects with counters of the right types; quick for thousands."""
    try:
        kinds, *counts = zip(*map(_counters, found), strict=True)
    except (KeyError, TypeError, ValueError):
        return not found
    return set(map(type, kinds)) == {str} and all(set(map(type, c)) == {int} for c in counts)


def values_of(metrics: Iterable[dict[str, Any]]) -> Values:
    """The numbers that records hold, without their counters; each metric's in order."""
    values: Values = {}
    for record in metrics:
        for name, value in record.items():
            if type(value) in (int, float) and name not in COUNTERS:
                values.setdefault(name, []).append((record["env_steps"], value))
    return values


def values_by_attempt(
    values: Values, attempts: Sequence[int], provenances: Mapping[int, Mapping[str, Any]]
) -> dict[int, Values]:
    """The values that each attempt made. `provenances`: the provenance.json of each attempt that
    has one.
    """
    from_values = {n: provenances.get(n, {}).get("from_values") for n in attempts}
    made: dict[int, Values] = {number: {} for number in attempts}
    for name, points in values.items():
        for number, span in made_by(name, len(points), from_values):
            made[number][name] = points[span]
    return made
