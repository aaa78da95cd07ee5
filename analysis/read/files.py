"""Run folders as a source of records."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from analysis.read.source import UNKNOWN_ATTEMPT, Points, RunRow, run_row
from dreamer.config import UserError


@dataclass(frozen=True)
class FileSource:
    """Run folders under `<results>/runs/`."""

    results: Path

    def __str__(self) -> str:
        return str(self.results)

    @property
    def cache(self) -> Path:
        return self.results / "cache"

    def folder(self, run_id: str) -> Path:
        return self.results / "runs" / run_id

    def run_ids(self) -> list[str]:
        runs = self.results / "runs"
        if not runs.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(runs) if entry.is_dir())

    def fingerprint(self, run_id: str) -> str:
        """A hash of size, time and inode of each file that is read, and of the record's last bytes."""
        folder = f"{self.results}/runs/{run_id}"  # strings: paths cost a second for 5,000 runs
        record = f"{folder}/metrics.jsonl"
        digest = hashlib.blake2b(digest_size=12)
        provenances = (path for _, path in _attempts(folder))
        for path in (f"{folder}/config.json", record, *provenances):
            try:
                stat = os.stat(path)
            except FileNotFoundError:
                continue
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino};".encode())
        try:
            with open(record, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 512))
                digest.update(file.read())
        except FileNotFoundError:
            pass
        return digest.hexdigest()

    def read(self, run_id: str, metrics: Sequence[str]) -> RunRow:
        folder = self.folder(run_id)
        config = _read_object(folder / "config.json")
        if config is None:
            raise UserError(f"{run_id}: no config.json in its run folder")
        attempts = [
            {"attempt": number, **(_read_object(Path(path)) or {})}
            for number, path in _attempts(folder)
        ]
        path = folder / "metrics.jsonl"
        data = path.read_bytes() if path.exists() else b""
        points, warnings = parse_metrics(data, metrics)
        points = points._replace(attempt=_attempt_of(points, metrics, attempts))
        return run_row(run_id, config, attempts, points, warnings)

    def status(self, run_id: str) -> dict[str, Any]:
        try:
            return _read_object(self.folder(run_id) / "status.json") or {}
        except UserError:
            return {}

    def prediction(self, run_id: str) -> bytes | None:
        path = self.folder(run_id) / "prediction.npz"
        return path.read_bytes() if path.exists() else None


def parse_metrics(data: bytes, metrics: Sequence[str]) -> tuple[Points, list[str]]:
    """The chosen metrics of a metrics.jsonl.

    A line that is not a JSON object is skipped with a warning: the last line of a crashed run is
    often half-written. null and NaN become NaN and are counted in a warning. The attempt of a value
    is not known here.
    """
    env_steps: list[int] = []
    metric: list[int] = []
    value: list[float] = []
    warnings: list[str] = []
    unfinished = not data.endswith(b"\n")
    lines = data.split(b"\n")
    wanted = [(index, name) for index, name in enumerate(metrics)]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            record = _lenient(line)
        if not isinstance(record, dict) or not _is_count(record.get("env_steps")):
            what = "half-written last line" if unfinished and number == len(lines) else "bad line"
            warnings.append(f"metrics.jsonl line {number}: {what} skipped")
            continue
        for index, name in wanted:
            if name in record:
                given = record[name]
                number_given = isinstance(given, (int, float)) and abs(given) < float("inf")
                env_steps.append(record["env_steps"])
                metric.append(index)
                value.append(given if number_given else float("nan"))
    order = np.argsort(np.array(metric, np.int16), kind="stable")
    points = Points(
        np.array(env_steps, np.int64)[order],
        np.array(metric, np.int16)[order],
        np.array(value, np.float64)[order],
        np.full(len(order), UNKNOWN_ATTEMPT, np.int16),
    )
    for index, name in wanted:
        bad = np.isnan(points.value[points.metric == index]).sum()
        if bad:
            warnings.append(f"{bad} values of {name} are not numbers")
    return points, warnings


def _attempts(folder: Path | str) -> list[tuple[int, str]]:
    """(number, path of provenance.json) of each attempt, in order."""
    root = f"{folder}/attempts"
    try:
        numbers = sorted(int(name) for name in os.listdir(root) if name.isdigit())
    except FileNotFoundError:
        return []
    return [(number, f"{root}/{number}/provenance.json") for number in numbers]


def _attempt_of(
    points: Points, metrics: Sequence[str], attempts: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """The attempt that made each value [P].

    `from_values` of an attempt is the number of values of each metric when it began; it made the
    values after these. null: it ended before it made any. Where `from_values` is missing for an
    attempt after the first, the attempt of every value is unknown (0).
    """
    attempts = [item for item in attempts if item.get("from_values", 0) is not None] or attempts
    if not attempts or not all(_are_counts(item.get("from_values")) for item in attempts[1:]):
        return points.attempt
    made = np.full(len(points.value), attempts[0]["attempt"], np.int16)
    for index, name in enumerate(metrics):
        places = np.flatnonzero(points.metric == index)
        for item in attempts[1:]:
            made[places[item["from_values"].get(name, 0) :]] = item["attempt"]
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
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    found = _lenient(data)
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged, not a JSON object")
    return found
