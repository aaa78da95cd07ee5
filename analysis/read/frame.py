"""Records in, one tidy frame out: a row for each logged value.

    source (run folders or MongoDB) -> read each changed run -> Parquet cache -> frame, runs

The frame has the columns `suite, task, behaviour, representation, seed, run_id, attempt,
env_steps, metric, value`. The table of runs has one row per run, with its settings, status and
provenance, and every oddity that was met while reading (`warnings`). Nothing is averaged here.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dreamer.config import UserError
from suites.expand import Suite

METRICS = ("evaluate_return", "episode_return")
FRAME_COLUMNS = (
    "suite", "task", "behaviour", "representation", "seed",
    "run_id", "attempt", "env_steps", "metric", "value",
)  # fmt: skip
STATUSES = ("QUEUED", "RUNNING", "COMPLETED", "FAILED", "INTERRUPTED")
UNKNOWN_ATTEMPT = 0  # attempts are numbered from 1
RUNS_PER_CHUNK = 50  # handed to a worker process at a time
CACHE_VERSION = 3


class Points(NamedTuple):
    """The chosen values of one run: each metric's in the order of the record. P values."""

    env_steps: np.ndarray  # [P] int64
    metric: np.ndarray  # [P] int16, index into the chosen metrics
    value: np.ndarray  # [P] float64; NaN marks null and NaN
    attempt: np.ndarray  # [P] int16


class RunRecord(NamedTuple):
    """Everything that analysis keeps of one run."""

    row: dict[str, Any]  # a row of the table of runs, without its status
    points: Points


class Source(Protocol):
    """Where records come from. Two sources of one run give the same `RunRecord`."""

    @property
    def cache(self) -> Path | None:
        """The folder in which values may be kept between calls."""

    def run_ids(self) -> list[str]:
        """All runs that the source holds, sorted."""

    def fingerprint(self, run_id: str) -> str:
        """Changes whenever the run's values, settings or provenance change."""

    def read(self, run_id: str, metrics: Sequence[str]) -> RunRecord:
        """Settings, provenance and the chosen metrics; raises UserError for a damaged run."""

    def status(self, run_id: str) -> dict[str, Any]:
        """The run's last known state: `status`, `error`, ...; read anew at each load."""

    def prediction(self, run_id: str) -> bytes | None:
        """The run's prediction.npz, if it has one."""


class Records(NamedTuple):
    """What `load` returns."""

    frame: pd.DataFrame  # FRAME_COLUMNS
    runs: pd.DataFrame  # one row per run, sorted by run_id
    warnings: list[str]  # one line each, naming the run


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
        """Size, time and inode of each file that is read, and the record's last bytes."""
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

    def read(self, run_id: str, metrics: Sequence[str]) -> RunRecord:
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
        return RunRecord(run_row(run_id, config, attempts, points, warnings), points)

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

    A line that is no JSON object is skipped with a warning: the last one of a crashed run is
    often half-written. null and NaN become NaN, and are counted in a warning. Which attempt made
    a value is not known here.
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


def run_row(
    run_id: str,
    config: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]],
    points: Points,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """One row of the table of runs, from the run's settings and its attempts' provenance."""
    missing = [key for key in ("task", "seed", "behaviour", "representation") if key not in config]
    if missing:
        raise UserError(f"{run_id}: config.json lacks {', '.join(missing)}")
    commits = {str(item["attempt"]): _commit(item) for item in attempts}
    backwards = any(
        (np.diff(points.env_steps[points.metric == index]) <= 0).any()
        for index in np.unique(points.metric)
    )
    found = list(warnings) + (["env_steps repeat or go back"] if backwards else [])
    return {
        "run_id": run_id,
        "task": str(config["task"]),
        "behaviour": str(config["behaviour"]),
        "representation": str(config["representation"]),
        "seed": int(config["seed"]),
        "preset": str(config.get("preset", "")),
        "budget_env_steps": int(config.get("env_steps", 0)),
        "last_env_steps": int(points.env_steps.max(initial=0)),
        "attempts": len(attempts),
        "commits": commits,
        "synthetic": any(bool(item.get("synthetic")) for item in attempts),
        "provenance": _short_provenance(attempts[-1]) if attempts else {},
        "config": dict(config),
        "warnings": found,
    }


def load(
    source: Source,
    run_ids: Iterable[str] | None = None,
    *,
    suite: str = "",
    metrics: Sequence[str] = METRICS,
    cache: Path | None = None,
    workers: int = 2,
) -> Records:
    """The frame and the table of runs for `run_ids` (None: all that the source holds).

    Runs that the source does not hold are left out: the caller knows what it expected. With a
    `cache` folder only runs whose fingerprint changed are read again; a cache that is damaged or
    of another version is made anew.
    """
    present = set(source.run_ids())
    wanted = sorted(present if run_ids is None else present.intersection(run_ids))
    prints = {run_id: source.fingerprint(run_id) if cache else "" for run_id in wanted}
    held = _read_cache(cache, metrics)
    changed = [run_id for run_id in wanted if held.prints.get(run_id) != prints[run_id]]
    fresh = _read_all(source, changed, metrics, workers)
    errors = {run_id: record for run_id, record in fresh.items() if isinstance(record, str)}
    good = {run_id: record for run_id, record in fresh.items() if isinstance(record, RunRecord)}
    held = held.updated(good, prints, gone=(set(held.prints) - present) | set(errors))
    if cache is not None and (good or errors or set(held.prints) - present):
        _write_cache(cache, metrics, held)
    kept = [run_id for run_id in wanted if run_id not in errors]
    runs = _runs_table(source, [held.rows[run_id] for run_id in kept])
    frame = _frame(held, runs, metrics, suite)
    warnings = [f"{message}" for message in errors.values()]
    warnings += [f"{row.run_id}: {text}" for row in runs.itertuples() for text in row.warnings]
    return Records(frame, runs, warnings)


def load_suite(source: Source, suite: Suite, metric: str) -> Records:
    """The records of a suite's runs."""
    return load(
        source, [run.run_id for run in suite.runs], suite=suite.name,
        metrics=sorted({*METRICS, metric}), cache=source.cache,
    )  # fmt: skip


class _Held(NamedTuple):
    """The cache in memory: `points` hold each run's values one after another, as in `rows`."""

    prints: dict[str, str]
    rows: dict[str, dict[str, Any]]
    counts: dict[str, int]
    points: Points

    def updated(
        self, fresh: Mapping[str, RunRecord], prints: Mapping[str, str], gone: set[str]
    ) -> _Held:
        """The cache with runs read anew in place of their old selves."""
        if not fresh and not gone:
            return self
        slices = self.slices()
        kept = [run_id for run_id in self.prints if run_id not in fresh and run_id not in gone]
        parts = [Points(*(column[slices[run_id]] for column in self.points)) for run_id in kept]
        parts += [record.points for record in fresh.values()] or [_no_points()]
        rows = {run_id: self.rows[run_id] for run_id in kept}
        rows |= {run_id: record.row for run_id, record in fresh.items()}
        counts = {run_id: self.counts[run_id] for run_id in kept}
        counts |= {run_id: len(record.points.value) for run_id, record in fresh.items()}
        known = {run_id: self.prints[run_id] for run_id in kept}
        known |= {run_id: prints[run_id] for run_id in fresh}
        points = Points(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        return _Held(known, rows, counts, points)

    def slices(self) -> dict[str, slice]:
        ends = np.cumsum(list(self.counts.values()), dtype=np.int64)
        return {
            run_id: slice(int(end) - count, int(end))
            for (run_id, count), end in zip(self.counts.items(), ends, strict=True)
        }


def _no_points() -> Points:
    return Points(
        np.zeros(0, np.int64), np.zeros(0, np.int16), np.zeros(0, np.float64), np.zeros(0, np.int16)
    )


def _frame(held: _Held, runs: pd.DataFrame, metrics: Sequence[str], suite: str) -> pd.DataFrame:
    """The tidy frame of the runs in `runs`; repeated words are categories, which keeps it small."""
    slices = held.slices()
    chosen = [slices[run_id] for run_id in runs["run_id"]]
    if len(chosen) == len(slices) and all(
        run_id == known for run_id, known in zip(runs["run_id"], slices, strict=True)
    ):
        points = held.points
    else:
        parts = [Points(*(column[part] for column in held.points)) for part in chosen]
        points = Points(
            *(np.concatenate(columns) for columns in zip(*parts or [_no_points()], strict=True))
        )
    counts = [held.counts[run_id] for run_id in runs["run_id"]]
    of_run = np.repeat(np.arange(len(runs), dtype=np.int32), counts)

    def category(column: str) -> pd.Categorical:
        words = pd.Categorical(runs[column])
        return pd.Categorical.from_codes(words.codes[of_run], categories=words.categories)

    columns = {
        "suite": pd.Categorical.from_codes(np.zeros(len(of_run), np.int8), categories=[suite]),
        "task": category("task"),
        "behaviour": category("behaviour"),
        "representation": category("representation"),
        "seed": runs["seed"].to_numpy(np.int64)[of_run],
        "run_id": category("run_id"),
        "attempt": points.attempt,
        "env_steps": points.env_steps,
        "metric": pd.Categorical.from_codes(points.metric, categories=list(metrics)),
        "value": points.value,
    }
    return pd.DataFrame(columns, columns=list(FRAME_COLUMNS))


RUN_COLUMNS = (
    "run_id", "task", "behaviour", "representation", "seed", "preset", "budget_env_steps",
    "last_env_steps", "attempts", "commits", "synthetic", "provenance", "config", "warnings",
)  # fmt: skip


def _runs_table(source: Source, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per run; `status` is what the run says of itself, UNKNOWN where it says nothing."""
    states = [source.status(row["run_id"]) for row in rows]
    table = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    table["status"] = [
        state.get("status") if state.get("status") in STATUSES else "UNKNOWN" for state in states
    ]
    table["error"] = [str(state.get("error") or "") for state in states]
    return table


def _read_all(
    source: Source, run_ids: Sequence[str], metrics: Sequence[str], workers: int
) -> dict[str, RunRecord | str]:
    """Each run's record, or the error that it raised."""
    chunks = [run_ids[i : i + RUNS_PER_CHUNK] for i in range(0, len(run_ids), RUNS_PER_CHUNK)]
    if len(chunks) < 4 or workers < 2:
        return dict(item for chunk in chunks for item in _read_chunk(source, chunk, metrics))
    context = multiprocessing.get_context("spawn")  # pyarrow holds threads: no fork
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [pool.submit(_read_chunk, source, chunk, metrics) for chunk in chunks]
        return dict(item for job in jobs for item in job.result())


def _read_chunk(
    source: Source, run_ids: Sequence[str], metrics: Sequence[str]
) -> list[tuple[str, RunRecord | str]]:
    found: list[tuple[str, RunRecord | str]] = []
    for run_id in run_ids:
        try:
            found.append((run_id, source.read(run_id, metrics)))
        except UserError as error:
            found.append((run_id, str(error)))
    return found


def _cache_index(cache: Path, metrics: Sequence[str]) -> Path:
    key = hashlib.blake2b(repr((CACHE_VERSION, list(metrics))).encode(), digest_size=6).hexdigest()
    return cache / f"records-{key}.json"


def _read_cache(cache: Path | None, metrics: Sequence[str]) -> _Held:
    empty = _Held({}, {}, {}, _no_points())
    if cache is None:
        return empty
    try:
        index = orjson.loads(_cache_index(cache, metrics).read_bytes())
        table = pq.read_table(cache / index["parquet"])
        columns = [table[name].to_numpy() for name in Points._fields]
        held = _Held(index["prints"], index["rows"], index["counts"], Points(*columns))
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError, pa.ArrowInvalid):
        return empty
    return held if sum(held.counts.values()) == len(held.points.value) else empty


def _write_cache(cache: Path, metrics: Sequence[str], held: _Held) -> None:
    """First the values under a name of their own, then the index that names them: atomic."""
    cache.mkdir(parents=True, exist_ok=True)
    index = _cache_index(cache, metrics)
    digest = hashlib.blake2b(repr(sorted(held.prints.items())).encode(), digest_size=8).hexdigest()
    name = f"{index.stem}-{digest}.parquet"
    table = pa.table(dict(zip(Points._fields, held.points, strict=True)))
    temporary = cache / f"{name}.{os.getpid()}.tmp"
    pq.write_table(table, temporary, compression="zstd", compression_level=1)
    os.replace(temporary, cache / name)
    content = {"parquet": name, "prints": held.prints, "rows": held.rows, "counts": held.counts}
    temporary = cache / f"{index.name}.{os.getpid()}.tmp"
    temporary.write_bytes(orjson.dumps(content))
    os.replace(temporary, index)
    for old in cache.glob(f"{index.stem}-*.parquet"):
        if old.name != name:
            old.unlink(missing_ok=True)


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

    Each attempt says in `from_values` how many values of each metric there were when it began: it
    made those behind; where that is null, it ended before it did anything. With several attempts of
    which a later one does not say it, the attempt of a value is unknown (0): the run's attempts are
    then listed together.
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


def _commit(provenance: Mapping[str, Any]) -> str:
    """The version of the code: a commit, with `+` and a hash where files differed from it."""
    return str(provenance.get("code") or "")


PROVENANCE_KEYS = ("code", "started", "executor", "command", "renderer", "overrides", "suites")


def _short_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a list of runs shows of an attempt; all of it stays in the run folder."""
    short = {key: provenance[key] for key in PROVENANCE_KEYS if key in provenance}
    machine = provenance.get("machine")
    host = machine.get("host") if isinstance(machine, Mapping) else None
    return {**short, **({"host": host} if host else {})}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _lenient(line: bytes) -> Any:
    """JSON with NaN and Infinity, which the standard library reads; None if it is none at all."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is no file; UserError where it is damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    found = _lenient(data)
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged, not a JSON object")
    return found
