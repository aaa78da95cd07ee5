"""The cache of values: a Parquet file, and a JSON index with the fingerprint of each run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.read.source import Points, RunRow, joined
from dreamer.run_folder import read_bytes, reading, replacing

VERSION = 3


Cached = dict[str, tuple[str, RunRow]]  # {run_id: (fingerprint, what was read)}


def _index(cache: Path, metrics: Sequence[str]) -> Path:
    key = hashlib.blake2b(repr((VERSION, list(metrics))).encode(), digest_size=6).hexdigest()
    return cache / f"records-{key}.json"


def read_cache(cache: Path | None, metrics: Sequence[str]) -> Cached:
    """What `write_cache` wrote; nothing where that is damaged."""
    if cache is None:
        return {}
    try:
        index = orjson.loads(read_bytes(_index(cache, metrics)))
        with reading(cache / index["parquet"]) as file:  # pyarrow takes no path but UTF-8
            table = pq.read_table(file)
        ends = np.cumsum(list(index["counts"].values()), dtype=np.int64)
        if ends[-1] != len(table):
            return {}
        columns = [np.split(table[name].to_numpy(), ends[:-1]) for name in Points._fields]
        return {
            run_id: (index["prints"][run_id], RunRow(index["rows"][run_id], Points(*parts)))
            for run_id, *parts in zip(index["counts"], *columns, strict=True)
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def write_cache(cache: Path, metrics: Sequence[str], cached: Cached) -> None:
    """Atomic: first the values under a new name, then the index that names them."""
    cache.mkdir(parents=True, exist_ok=True)
    index = _index(cache, metrics)
    prints = {run_id: fingerprint for run_id, (fingerprint, _) in cached.items()}
    rows = {run_id: row for run_id, (_, row) in cached.items()}
    digest = hashlib.blake2b(repr(sorted(prints.items())).encode(), digest_size=8).hexdigest()
    name = f"{index.stem}-{digest}.parquet"
    points = joined([row.points for row in rows.values()])
    table = pa.table(dict(zip(Points._fields, points, strict=True)))
    with replacing(cache / name) as partial, open(partial, "wb") as file:
        pq.write_table(table, file, compression="zstd", compression_level=1)
    content = {
        "parquet": name,
        "prints": prints,
        "rows": {run_id: row.columns for run_id, row in rows.items()},
        "counts": {run_id: len(row.points.value) for run_id, row in rows.items()},
    }
    with replacing(index) as partial:
        partial.write_bytes(orjson.dumps(content))
    for old in cache.glob(f"{index.stem}-*.parquet"):
        if old.name != name:
            old.unlink(missing_ok=True)
