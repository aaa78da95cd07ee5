"""A MongoDB as a source of records, in the form that Sacred's MongoObserver writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from analysis.read.files import FileSource
from analysis.read.source import RunRow, Source, points_of, run_row
from dreamer import run_folder
from dreamer.errors import UserError
from suites.record import mongo_urls

STATED = ["status", "fail_trace", "artifacts", "config", "info"]


class MongoSource:
    """The attempts in a database, joined to runs. The URL may contain credentials: no message
    shows it, and nothing is kept on disk."""

    cache = None

    def __init__(self, url: str):
        self._url = url
        self._attempts: dict[str, list[int]] = {}
        for document in _database(url)["runs"].find({}, ["_id"]):
            run_id, _, number = str(document["_id"]).rpartition("-")
            if number.isdecimal():
                self._attempts.setdefault(run_id, []).append(int(number))

    def __str__(self) -> str:
        return mongo_urls.name(self._url)

    def run_ids(self) -> list[str]:
        return sorted(self._attempts)

    def fingerprint(self, run_id: str) -> str:
        raise UserError("records in a database are never cached: load them without a cache")

    def config(self, run_id: str) -> dict[str, Any] | None:
        documents = self._documents(run_id)
        return documents[max(documents)]["config"] if documents else None

    def read(self, run_id: str, metrics: Sequence[str]) -> RunRow:
        documents = self._documents(run_id)
        attempts = [{**_origin(documents[number]), "attempt": number} for number in documents]
        found = _database(self._url)["metrics"].find(
            {
                "run_id": {"$in": [one["_id"] for one in documents.values()]},
                "name": {"$in": list(metrics)},
            }
        )
        held = {(one["run_id"], one["name"]): one for one in found}
        rows: list[tuple[int, int, float, int]] = []
        for index, name in enumerate(metrics):
            joined: list[tuple[int, int, float, int]] = []
            for item in attempts:
                one = held.get(
                    (run_folder.sacred_id(run_id, item["attempt"]), name),
                    {"steps": [], "values": []},
                )
                joined = _continued(joined, item.get("from_values"), name, one["steps"])
                for step, value in zip(one["steps"], one["values"], strict=True):
                    joined.append((step, index, value, item["attempt"]))
            rows += joined
        config = documents[max(documents)]["config"]
        return run_row(run_id, config, attempts, points_of(rows), [])

    def metric_names(self, run_id: str) -> list[str]:
        ids = [one["_id"] for one in self._documents(run_id).values()]
        return sorted(_database(self._url)["metrics"].distinct("name", {"run_id": {"$in": ids}}))

    def status(self, run_id: str) -> dict[str, Any]:
        last = self._documents(run_id)[max(self._attempts[run_id])]
        trace = last.get("fail_trace") or [""]
        return {"status": last["status"], "error": trace[-1].strip()}

    def prediction(self, run_id: str) -> bytes | None:
        for document in reversed(self._documents(run_id).values()):
            for artifact in document.get("artifacts") or ():
                if artifact["name"] == f"run_{run_folder.PREDICTION}":
                    import gridfs

                    return gridfs.GridFS(_database(self._url)).get(artifact["file_id"]).read()
        return None

    def _documents(self, run_id: str) -> dict[int, dict[str, Any]]:
        """The document of each attempt, in order."""
        numbers = {run_folder.sacred_id(run_id, n): n for n in self._attempts.get(run_id, ())}
        found = _database(self._url)["runs"].find({"_id": {"$in": list(numbers)}}, STATED)
        return dict(sorted((numbers[one["_id"]], one) for one in found))


def _origin(document: dict[str, Any]) -> dict[str, Any]:
    return (document.get("info") or {}).get("provenance") or {}


def _continued(
    joined: list[tuple[int, int, float, int]], counts: Any, name: str, steps: Sequence[int]
) -> list[tuple[int, int, float, int]]:
    """The values that remain when an attempt begins; it computes the later ones again. Without
    `counts`, those before the first value of the attempt."""
    if counts is not None:
        return joined[: counts.get(name, 0)]
    return [row for row in joined if row[0] < steps[0]] if steps else joined


@cache
def _database(url: str) -> Any:
    """One client in each process."""
    client, database = mongo_urls.connect(url)
    return client[database]


@contextlib.contextmanager
def opened(results: Path, url: str | None) -> Iterator[Source]:
    """The MongoDB at `url`, or the run folders in `results` without one. DREAMER_MONGO_URL may hold
    the credentials of the database. Failures of the database become UserErrors."""
    if not url:
        if not results.is_dir():
            raise UserError(f"{results}: no such results folder")
        yield FileSource(results)
    elif not url.startswith(mongo_urls.SCHEMES):
        raise UserError("--mongo: a URL that starts with mongodb:// is expected")
    else:
        url = url if "@" in url else mongo_urls.all_urls([url])[0]
        with mongo_urls.failures_told(url):
            yield MongoSource(url)
