"""What a MongoDB holds of these runs: compared with their files, and filled in from them."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamer.config import UserError
from suites import mongo_urls, records
from suites.observers import connect
from suites.provenance import without_credentials

if TYPE_CHECKING:
    from suites.audit import Finding, Recorded

COUNTERS = ("kind", "env_steps", "agent_steps", "updates")
PUSH = "python -m suites.audit SUITE --push"
ARTIFACTS = ("config.json", "prediction.npz")  # recorded as run_config.json, ...


class Server:
    """One database in Sacred's layout: runs, metrics, artifacts in GridFS."""

    def __init__(self, url: str):
        from pymongo.errors import PyMongoError

        self.name = mongo_urls.name(url)
        client, database = connect(url)
        try:
            client.admin.command("ping")
        except PyMongoError as error:
            text = without_credentials(str(error)).split(",")[0]
            raise UserError(f"{self.name}: not reached: {text}") from None
        self.database = client[database]

    def check(self, results: Path, recorded: Sequence[Recorded]) -> list[Finding]:
        """What differs between the files and the database."""
        return [finding for record in recorded for finding in self._check_run(record)]

    def _check_run(self, r: Recorded) -> Iterator[Finding]:
        from suites.audit import Finding

        last = r.status.get("attempt")
        for number in records.attempts(r.folder):
            run = self.database["runs"].find_one({"_id": f"{r.run.run_id}-{number}"})
            if run is None:
                text = f"{self.name} does not know it"
                yield Finding("mongo", r.run.run_id, number, text, PUSH)
            elif number == last and run["status"] != r.status["status"]:
                text = f"{self.name} says {run['status']}, the run {r.status['status']}"
                yield Finding("mongo", r.run.run_id, number, text, PUSH)
        missing = sum(len(points) for points in self._missing(r).values())
        if missing:
            text = f"{self.name} lacks {missing} measurements"
            yield Finding("mongo", r.run.run_id, last, text, PUSH)

    def push(self, results: Path, r: Recorded) -> int:
        """Fills in what is missing of a run; returns how many things were."""
        numbers = records.attempts(r.folder)
        if not numbers:
            return 0
        filled = sum(self._push_attempt(results, r, number) for number in numbers)
        for name, points in self._missing(r).items():
            self._push_metric(f"{r.run.run_id}-{numbers[-1]}", name, points)
            filled += len(points)
        return filled

    def _missing(self, r: Recorded) -> dict[str, list[tuple[int, float]]]:
        """{metric: [(env_steps, value)]} of metrics.jsonl that no attempt has in the database."""
        truth: dict[str, list[tuple[int, float]]] = {}
        for m in r.metrics:
            for name, value in m.items():
                if name not in COUNTERS and type(value) in (int, float):
                    truth.setdefault(name, []).append((m["env_steps"], value))
        ids = [f"{r.run.run_id}-{number}" for number in records.attempts(r.folder)]
        for metric in self.database["metrics"].find({"run_id": {"$in": ids}}):
            there = set(zip(metric["steps"], metric["values"], strict=False))
            wanted = truth.get(metric["name"], [])
            truth[metric["name"]] = [point for point in wanted if point not in there]
        return {name: points for name, points in truth.items() if points}

    def _push_metric(self, run_id: str, name: str, points: list[tuple[int, float]]) -> None:
        """Adds points to a metric of one attempt, in the order of their env_steps."""
        metrics = self.database["metrics"]
        query = {"run_id": run_id, "name": name}
        known = metrics.find_one(query) or {"steps": [], "values": [], "timestamps": []}
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        columns = zip(known["steps"], known["values"], known["timestamps"], strict=False)
        rows = sorted([*columns, *((s, v, now) for s, v in points)], key=lambda row: row[0])
        steps, values, times = map(list, zip(*rows, strict=True))
        change = {"$set": {"steps": steps, "values": values, "timestamps": times}}
        metrics.update_one(query, change, upsert=True)
        entry = {"name": name, "id": str(metrics.find_one(query)["_id"])}
        run = self.database["runs"].find_one({"_id": run_id})
        listed = (run.get("info") or {}).get("metrics") or []
        if entry not in listed:
            listed = [*listed, entry]
            self.database["runs"].update_one({"_id": run_id}, {"$set": {"info.metrics": listed}})

    def _push_attempt(self, results: Path, r: Recorded, number: int) -> int:
        """The attempt's document, with the status that the files give it; its artifacts."""
        run_id = f"{r.run.run_id}-{number}"
        runs = self.database["runs"]
        status = self._status(r, number)
        document = runs.find_one({"_id": run_id})
        filled = 0
        if document is None:
            document = self._document(results, r, number)
            runs.insert_one(document)
            filled += 1
        if document["status"] != status:
            end = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
            result = r.status.get("evaluate_return") if status == "COMPLETED" else None
            change = {"status": status, "stop_time": end, "result": result}
            runs.update_one({"_id": run_id}, {"$set": change})
            filled += 1
        if status == "COMPLETED":
            filled += self._push_artifacts(r, run_id, document.get("artifacts") or [])
        return filled

    def _push_artifacts(self, r: Recorded, run_id: str, there: list[dict[str, Any]]) -> int:
        import gridfs

        known = {artifact["name"] for artifact in there}
        added = []
        for name in ARTIFACTS:
            if f"run_{name}" not in known and (r.folder / name).exists():
                with open(r.folder / name, "rb") as file:
                    where = f"artifact://runs/{run_id}/run_{name}"
                    file_id = gridfs.GridFS(self.database).put(file, filename=where)
                added.append({"name": f"run_{name}", "file_id": file_id})
        if added:
            change = {"$set": {"artifacts": [*there, *added]}}
            self.database["runs"].update_one({"_id": run_id}, change)
        return len(added)

    def _status(self, r: Recorded, number: int) -> str:
        """How an attempt stands: the last as the run, earlier ones by the errors that they left."""
        if number == r.status.get("attempt"):
            return "INTERRUPTED" if r.state == records.DEAD else str(r.status.get("status"))
        failed = (r.folder / "attempts" / str(number) / "error.txt").exists()
        return "FAILED" if failed else "INTERRUPTED"

    def _document(self, results: Path, r: Recorded, number: int) -> dict[str, Any]:
        """A run as Sacred's MongoObserver would have written it, from the attempt's provenance."""
        found = r.stories.get(number, {})
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
                "repositories": [
                    {"url": None, "commit": git.get("commit"), "dirty": git.get("dirty")}
                ],
                "mainfile": None,
            },
            "host": found.get("machine") or {},
            "start_time": start.replace(tzinfo=None) if start else None,
            "config": found.get("config") or r.run.config,
            "meta": {},
            "status": "RUNNING",
            "resources": [],
            "artifacts": [],
            "captured_out": "",
            "info": {"provenance": {"code": found.get("code"), "command": found.get("command")}},
            "heartbeat": None,
        }
