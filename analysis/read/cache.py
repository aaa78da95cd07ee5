"""The cache of values: a Parquet file, and a JSON index with the fingerprint of each run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.read.source import Points, RunRow, no_points
from dreamer.run_folder import read_bytes, reading, replacing

VERSION = 3


class Cached(NamedTuple):
    """The cache in memory. `points` holds the values of all runs, in the order of `rows`."""

    prints: dict[str, str]
    rows: dict[str, dict[str, Any]]
    counts: dict[str, int]
    points: Points

    def updated(
        self, fresh: Mapping[str, RunRow], prints: Mapping[str, str], gone: set[str]
    ) -> Cached:
        """The cache with `fresh` runs added or replaced and the runs in `gone` removed."""
        if not fresh and not gone:
            return self
        slices = self.slices()
        kept = [run_id for run_id in self.prints if run_id not in fresh and run_id not in gone]
        parts = [Points(*(column[slices[run_id]] for column in self.points)) for run_id in kept]
        parts += [record.points for record in fresh.values()] or [no_points()]
        rows = {run_id: self.rows[run_id] for run_id in kept}
        rows |= {run_id: record.columns for run_id, record in fresh.items()}
        counts = {run_id: self.counts[run_id] for run_id in kept}
        counts |= {run_id: len(record.points.value) for run_id, record in fresh.items()}
        known = {run_id: self.prints[run_id] for run_id in kept}
        known |= {run_id: prints[run_id] for run_id in fresh}
        points = Points(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        return Cached(known, rows, counts, points)

    def slices(self) -> dict[str, slice]:
        ends = np.cumsum(list(self.counts.values()), dtype=np.int64)
        return {
            run_id: slice(int(end) - count, int(end))
            for (run_id, count), end in zip(self.counts.items(), ends, strict=True)
        }


def _index(cache: Path, metrics: Sequence[str]) -> Path:
    key = hashlib.blake2b(repr((VERSION, list(metrics))).encode(), digest_size=6).hexdigest()
    return cache / f"records-{key}.json"


def read_cache(cache: Path | None, metrics: Sequence[str]) -> Cached:
    empty = Cached({}, {}, {}, no_points())
    if cache is None:
        return empty
    try:
        index = orjson.loads(read_bytes(_index(cache, metrics)))
        with reading(cache / index["parquet"]) as file:  # pyarrow takes no path but UTF-8
            table = pq.read_table(file)
        columns = [table[name].to_numpy() for name in Points._fields]
        cached = Cached(index["prints"], index["rows"], index["counts"], Points(*columns))
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, pa.ArrowInvalid):
        return empty
    return cached if sum(cached.counts.values()) == len(cached.points.value) else empty


def write_cache(cache: Path, metrics: Sequence[str], cached: Cached) -> None:
    """Atomic: first the values under a new name, then the index that names them."""
    cache.mkdir(parents=True, exist_ok=True)
    index = _index(cache, metrics)
    digest = hashlib.blake2b(
        repr(sorted(cached.prints.items())).encode(), digest_size=8
    ).hexdigest()
    name = f"{index.stem}-{digest}.parquet"
    table = pa.table(dict(zip(Points._fields, cached.points, strict=True)))
    with replacing(cache / name) as partial, open(partial, "wb") as file:
        pq.write_table(table, file, compression="zstd", compression_level=1)
    content = {
        "parquet": name,
        "prints": cached.prints,
        "rows": cached.rows,
        "counts": cached.counts,
    }
    with replacing(index) as partial:
        partial.write_bytes(orjson.dumps(content))
    for old in cache.glob(f"{index.stem}-*.parquet"):
        if old.name != name:
            old.unlink(missing_ok=True)
