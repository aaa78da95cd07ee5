"""A MongoDB with records of runs: compared with the runs' files, and completed from them."""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer import run_folder
from dreamer.run_folder import State, Status
from suites.record import mongo_urls
from suites.record.contents import Finding, RunContents
from suites.record.metrics import Values, values_by_attempt, values_of
from suites.record.provenance import origin

# Values that differ by less, relatively, are the same, only rounded by the server.
SAME = 1e-12
MAX_VALUES = 380_000  # of a metric, about; each takes 44 bytes of a document of 16 MB
PUSH = "python -m suites.push SUITE"


class Server:
    """One database in Sacred's layout: runs, metrics, artifacts in GridFS."""

    def __init__(self, url: str):
        self.url, self.name = url, mongo_urls.name(url)
        client, database = mongo_urls.connect(url)
        import gridfs  # part of pymongo, which `connect` needs as well

        self.refused: list[str] = []  # what it will never take
        client.admin.command("ping")
        self.runs, self.metrics = client[database]["runs"], client[database]["metrics"]
        self.files = gridfs.GridFS(client[database])

    # --- Comparing --------------------------------------------------------------------------------

    def check_run(self, r: RunContents) -> Iterator[Finding]:
        """Differences between a run's files and the database."""
        documents, measured = self._read(r)
        for number, values in _truth(r).items():

            def finding(text: str, number: int = number) -> Finding:
                return Finding("mongo", r.run.run_id, number, f"{self.name} {text}", PUSH)

            document = documents.get(number)
            if document is None:
                yield finding("has no record of it")
                continue
            status = _status(r, number)
            if document["status"] != status:
                yield finding(f"says {document['status']}, the run {status}")
            if number in r.provenances and _origin(document) != origin(r.provenances[number]):
                yield finding("has another provenance")
            lacks = {n: _lacks(points, measured[number].get(n)) for n, points in values.items()}
            for name in [n for n in lacks if len(values[n]) > MAX_VALUES and lacks[n]]:
                text = f"cannot hold {name}: {len(values[name]):,} values, and 16 MB a document"
                yield finding(text)._replace(todo="nothing: the run's own files are complete")
                del lacks[name]
            if sum(lacks.values()):
                yield finding(f"lacks {sum(lacks.values())} measurements")
            for name in self._wrong_artifacts(r, number, document):
                yield finding(f"lacks {name}, or its checksum is wrong")

    def check_others(
        self, results: Path, contents: Sequence[RunContents], suites: set[str]
    ) -> Iterator[Finding]:
        """Attempts that only the database has. `suites`: those that were expanded completely."""
        attempts = {r.run.run_id: set(run_folder.attempts(r.folder)) for r in contents}
        named = {"$project": {"suites": "$info.provenance.suites"}}
        for document in self.runs.aggregate([named]):
            run_id, _, number = str(document["_id"]).rpartition("-")
            if (
                not number.isdecimal()
                or (run_folder.sacred_path(results) / document["_id"]).exists()
            ):
                continue  # of another program, or of a run before --fresh
            if run_id in attempts and int(number) not in attempts[run_id]:
                text, todo = f"only {self.name} has it", "copy its run folder into the results"
                yield Finding("mongo", run_id, int(number), text, todo)
            elif run_id not in attempts and suites & set(document.get("suites") or ()):
                text, todo = f"in {self.name}; the suite has no such run", "restore its suite"
                yield Finding("unexpected", run_id, int(number), text, todo)

    def _read(self, r: RunContents) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
        """The document of each attempt, as far as there is one, and its metrics by name."""
        numbers = {f"{r.run.run_id}-{n}": n for n in run_folder.attempts(r.folder)}
        left_out = {"captured_out": False, "experiment": False}
        found = self.runs.find({"_id": {"$in": list(numbers)}}, left_out)
        documents = {numbers[document["_id"]]: document for document in found}
        measured: dict[int, dict[str, Any]] = {number: {} for number in numbers.values()}
        for metric in self.metrics.find({"run_id": {"$in": list(numbers)}}):
            measured[numbers[metric["run_id"]]][metric["name"]] = metric
        return documents, measured

    def _wrong_artifacts(
        self, r: RunContents, number: int, document: Mapping[str, Any]
    ) -> Iterator[str]:
        """Files of a completed attempt that the database lacks or holds differently."""
        if document["status"] != Status.COMPLETED:
            return
        held = {one["name"]: one["file_id"] for one in document.get("artifacts") or ()}
        for name, checksum in (r.provenances.get(number, {}).get("artifacts") or {}).items():
            if self._checksum(held.get(f"run_{name}")) != checksum:
                yield name

    def _checksum(self, file_id: Any) -> str | None:
        """SHA-256 of a file in GridFS; None if it, or a part of it, is not there."""
        from gridfs.errors import CorruptGridFile, NoFile

        try:
            return hashlib.sha256(self.files.get(file_id).read()).hexdigest()
        except (NoFile, CorruptGridFile):
            return None

    # --- Sending ---------------------------------------------------------------------------------

    def push(self, r: RunContents) -> int:
        """Sends what is missing of a run; returns how many items that were. Running runs are
        skipped: they send their records themselves."""
        if r.state == State.RUNNING or r.status.get("unsure"):
            return 0
        documents, measured = self._read(r)
        filled = 0
        for number, values in _truth(r).items():
            run_id, document = f"{r.run.run_id}-{number}", documents.get(number)
            if document is None:
                document = _document(r, number)
                self.runs.insert_one(document)
                filled += 1
            for name, points in values.items():
                known = measured[number].get(name)
                if lacks := _lacks(points, known):
                    try:
                        self._push_metric(run_id, name, points, known)
                    except Exception as error:
                        if not mongo_urls.is_final(error):
                            raise
                        self.refused.append(f"{name} of {run_id} ({len(points):,} values)")
                        continue
                    filled += lacks
            filled += self._push_document(r, number, document)
        return filled

    def _push_metric(
        self, run_id: str, name: str, points: list[tuple[int, float]], known: Any
    ) -> None:
        """Sets a metric to the values in the run's files; values already there keep their times."""
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        columns = [known[key] for key in ("steps", "values", "timestamps")] if known else []
        times = {(step, value): time for step, value, time in zip(*columns, strict=False)}
        change = {
            "steps": [step for step, _ in points],
            "values": [value for _, value in points],
            "timestamps": [times.get(point, now) for point in points],
        }
        self.metrics.update_one({"run_id": run_id, "name": name}, {"$set": change}, upsert=True)

    def _push_document(self, r: RunContents, number: int, document: dict[str, Any]) -> int:
        """Sends status, provenance, artifacts and list of metrics, where they differ."""
        run_id, status = document["_id"], _status(r, number)
        change: dict[str, Any] = {}
        if document["status"] != status:
            change["status"] = document["status"] = str(status)
            change["stop_time"] = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
            done = status == Status.COMPLETED
            change["result"] = r.status.get("evaluate_return") if done else None
        if number in r.provenances and _origin(document) != origin(r.provenances[number]):
            change["info.provenance"] = origin(r.provenances[number])
        held = {one["name"]: one for one in document.get("artifacts") or ()}
        for name in self._wrong_artifacts(r, number, document):
            # A larger budget has changed the run's own file since; Sacred's copy stays.
            copy = run_folder.sacred_run_path(r.folder.parents[1], r.run.run_id, number)
            checksum = r.provenances[number]["artifacts"][name]
            paths = [p for p in (r.folder / name, copy / f"run_{name}") if p.exists()]
            path = next((p for p in paths if run_folder.sha256(p) == checksum), None)
            if path is not None:
                data, where = run_folder.read_bytes(path), f"artifact://runs/{run_id}/run_{name}"
                delete_files(self.files, where)
                file_id = self.files.put(data, filename=where)
                held[f"run_{name}"] = {"name": f"run_{name}", "file_id": file_id}
                change["artifacts"] = list(held.values())
        found = self.metrics.find({"run_id": run_id}, {"name": True})
        listed = [{"name": metric["name"], "id": str(metric["_id"])} for metric in found]
        before = document["info"].get("metrics") or []
        if {one["id"] for one in listed} != {one["id"] for one in before}:
            change["info.metrics"] = listed
        if change:
            self.runs.update_one({"_id": run_id}, {"$set": change})
        return len(change)


def connect_all(asked: str | None, named: Sequence[str]) -> list[Server]:
    """The servers that suites name, that of --mongo (`asked`) and that of DREAMER_MONGO_URL, each
    once. Raises UserError if one cannot be reached."""
    if asked:
        mongo_urls.give(asked)
    servers = []
    for url in dict.fromkeys(mongo_urls.all_urls(named)):
        with mongo_urls.failures_told(url):
            servers.append(Server(url))
    return servers


def delete_files(files: Any, filename: str) -> None:
    """Deletes all files of that name: also damaged ones, and ones that were never confirmed."""
    for file in list(files.find({"filename": filename})):
        files.delete(file._id)


def _origin(document: Mapping[str, Any]) -> dict[str, Any]:
    return (document.get("info") or {}).get("provenance") or {}


def _truth(r: RunContents) -> dict[int, Values]:
    """What each attempt measured, according to the run's files."""
    numbers = run_folder.attempts(r.folder)
    return values_by_attempt(values_of(r.metrics), numbers, r.provenances)


def _lacks(points: list[tuple[int, float]], known: Mapping[str, Any] | None) -> int:
    """How many of an attempt's values are missing in the database. It may hold more after them:
    values that the next attempt computed again.
    """
    there = list(zip(known["steps"], known["values"], strict=False)) if known else []
    if there[: len(points)] == points:
        return 0
    same = sum(
        a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=SAME)
        for a, b in zip(points, there, strict=False)
    )
    return len(points) - same


def _status(r: RunContents, number: int) -> str:
    """The status of an attempt: of the last, the run's; of earlier ones, by their files. One that
    was completed has artifacts: the next had a larger budget."""
    if number == r.status.get("attempt"):
        return Status.INTERRUPTED if r.state == State.DEAD else str(r.status.get("status"))
    if (r.provenances.get(number) or {}).get("artifacts"):
        return Status.COMPLETED
    failed = (run_folder.attempt_path(r.folder, number) / run_folder.ERROR).exists()
    return Status.FAILED if failed else Status.INTERRUPTED


def _document(r: RunContents, number: int) -> dict[str, Any]:
    """A run as Sacred's MongoObserver would have written it, from the attempt's provenance."""
    found = r.provenances.get(number, {})
    git = found.get("git") or {}
    started = found.get("started")
    start = datetime.datetime.fromisoformat(started) if started else None
    packages = (found.get("packages") or {}).items()
    return {
        "_id": f"{r.run.run_id}-{number}",
        "format": "MongoObserver-0.7.0",
        "command": "main",
        "experiment": {
            "name": "dreamer",
            "base_dir": "",
            "sources": [],
            "dependencies": [f"{name}=={version}" for name, version in packages],
            "repositories": [{"url": None, "commit": git.get("commit"), "dirty": git.get("dirty")}],
            "mainfile": None,
        },
        "host": found.get("machine") or {},
        "start_time": start.replace(tzinfo=None) if start else None,
        "config": found.get("config") or r.run.config,
        "meta": {},
        "status": Status.RUNNING.value,
        "resources": [],
        "artifacts": [],
        "captured_out": "",
        "info": {},
        "heartbeat": None,
    }
