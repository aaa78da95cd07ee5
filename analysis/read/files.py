"""Run folders as a source of records."""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from analysis.read.source import UNKNOWN_ATTEMPT, Points, RunRow, points_of, run_row
from dreamer import run_folder
from dreamer.errors import UserError
from suites.record.metrics import read_metrics, values_of


@dataclass(frozen=True)
class FileSource:
    """Run folders under `<results>/runs/`."""

    results: Path

    def __str__(self) -> str:
        return str(self.results)

    @property
    def cache(self) -> Path:
        return run_folder.cache_path(self.results)

    def folder(self, run_id: str) -> Path:
        return run_folder.run_path(self.results, run_id)

    def run_ids(self) -> list[str]:
        runs = run_folder.runs_path(self.results)
        if not runs.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(runs) if entry.is_dir())

    def fingerprint(self, run_id: str) -> str:
        """A hash of size, time and inode of the files that are read, and of the last metrics."""
        folder = f"{self.folder(run_id)}/"  # text: paths cost a second for 5,000 runs
        record = folder + run_folder.METRICS
        digest = hashlib.blake2b(digest_size=12)
        attempts = [
            f"{folder}{run_folder.ATTEMPTS}/{number}/{run_folder.PROVENANCE}"
            for number in run_folder.attempts(folder)
        ]
        for path in (folder + run_folder.CONFIG, record, *attempts):
            try:
                stat = os.stat(path)
            except FileNotFoundError:
                continue
            print_of_file = f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino};"
            digest.update(os.fsencode(print_of_file))  # a path may be no UTF-8
        try:
            with run_folder.reading(record) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 512))
                digest.update(file.read())
        except FileNotFoundError:
            pass
        return digest.hexdigest()

    def config(self, run_id: str) -> dict[str, Any] | None:
        return _read_object(self.folder(run_id) / run_folder.CONFIG)

    def read(self, run_id: str, metrics: Sequence[str]) -> RunRow:
        folder = self.folder(run_id)
        config = self.config(run_id)
        if config is None:
            raise UserError(f"{run_id}: no {run_folder.CONFIG} in its run folder")
        attempts = []
        for number in run_folder.attempts(folder):
            origin = _read_object(run_folder.attempt_path(folder, number) / run_folder.PROVENANCE)
            attempts.append({"attempt": number, **(origin or {})})
        path = folder / run_folder.METRICS
        data = run_folder.read_bytes(path) if path.exists() else b""
        points, warnings = parse_metrics(data, metrics)
        points = points._replace(attempt=_attempt_of(points, metrics, attempts))
        return run_row(run_id, config, attempts, points, warnings)

    def metric_names(self, run_id: str) -> list[str]:
        records, _ = read_metrics(self.folder(run_id) / run_folder.METRICS)
        return sorted(values_of(records))

    def status(self, run_id: str) -> dict[str, Any]:
        return run_folder.read_status(self.folder(run_id)) or {}

    def prediction(self, run_id: str) -> bytes | None:
        path = self.folder(run_id) / run_folder.PREDICTION
        return run_folder.read_bytes(path) if path.exists() else None


def parse_metrics(data: bytes, metrics: Sequence[str]) -> tuple[Points, list[str]]:
    """The chosen metrics of a metrics.jsonl.

    A line that is not a JSON object is skipped with a warning: the last line of a crashed run is
    often half-written. null and NaN become NaN and are counted in a warning. The attempt of a value
    is not known here.
    """
    rows: list[tuple[int, int, float, int]] = []
    warnings: list[str] = []
    unfinished = not data.endswith(b"\n")
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            record = _lenient(line)
        if not isinstance(record, dict) or not _is_count(record.get("env_steps")):
            what = "half-written last line" if unfinished and number == len(lines) else "bad line"
            warnings.append(f"{run_folder.METRICS} line {number}: {what} skipped")
            continue
        for index, name in enumerate(metrics):
            if name in record:
                given = record[name]
                finite = isinstance(given, (int, float)) and abs(given) < math.inf
                value = given if finite else math.nan
                rows.append((record["env_steps"], index, value, UNKNOWN_ATTEMPT))
    points = points_of(sorted(rows, key=operator.itemgetter(1)))
    for index, name in enumerate(metrics):
        bad = np.isnan(points.value[points.metric == index]).sum()
        if bad:
            warnings.append(f"{bad} values of {name} are not numbers")
    return points, warnings


def _attempt_of(
    points: Points, metrics: Sequence[str], attempts: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """The attempt that made each value [P].

    Where the provenance of an attempt after the first has no `from_values`, the attempt of every
    value is unknown (0).
    """
    begun = {item["attempt"]: item.get("from_values") for item in attempts}
    known = all(
        "from_values" in item and (item["from_values"] is None or _are_counts(item["from_values"]))
        for item in attempts[1:]
    )
    if not attempts or not known:
        return points.attempt
    made = points.attempt.copy()
    for index, name in enumerate(metrics):
        places = np.flatnonzero(points.metric == index)
        for attempt, span in run_folder.made_by(name, len(places), begun):
            made[places[span]] = attempt
    return made


def _are_counts(values: Any) -> bool:
    return isinstance(values, dict) and all(_is_count(value) for value in values.values())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _lenient(line: bytes) -> Any:
    """JSON that may contain NaN and Infinity; None if it cannot be parsed."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None if there is no file. Raises UserError if it is damaged."""
    try:
        data = run_folder.read_bytes(path)
    except FileNotFoundError:
        return None
    found = _lenient(data)
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged, not a JSON object")
    return found
