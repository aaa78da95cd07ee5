"""Sacred's observers as sinks: they receive records, and can neither stop nor slow down a run.

The run folder's `metrics.jsonl` is complete. What a sink missed can be sent from there later.
"""

from __future__ import annotations

import copy
import functools
import threading
import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver, MongoObserver, RunObserver
from sacred.serializer import flatten

from dreamer import run_folder
from dreamer.run_folder import Status, write_json
from suites.record import mongo, mongo_urls
from suites.record.secrets import hide

RETRY_AFTER_S = 5.0
REFUSED_FOR_S = 3600.0  # by a server that answers; then the event is left out
LAST_WAIT_S = 20.0  # how long a finished run waits for its last events to be delivered


class Files(FileStorageObserver):
    """Sacred's files, each written whole or not at all.

    metrics.json holds all values. It is rewritten when it has grown by a tenth, and at the end, so
    that a long run spends seconds on it, not hours.
    """

    def __init__(self, folder: Path):
        super().__init__(folder, copy_sources=False)
        self._metrics: dict[str, dict[str, list[Any]]] = {}
        self._values, self._written = 0, 0  # values in all, and in the file

    def save_json(self, obj: Any, filename: str) -> None:
        if filename == "run.json" and obj["status"] != Status.RUNNING:  # the last event
            self._write_metrics()
        write_json(Path(str(self.dir)) / filename, flatten(obj))

    def log_metrics(self, metrics_by_name: dict[str, Any], info: dict[str, Any]) -> None:
        for name, metric in metrics_by_name.items():
            known = self._metrics.setdefault(name, {"steps": [], "values": [], "timestamps": []})
            known["steps"] += metric["steps"]
            known["values"] += metric["values"]
            known["timestamps"] += [time.isoformat() for time in metric["timestamps"]]
            self._values += len(metric["steps"])
        if self._values > 1.1 * self._written:
            self._write_metrics()

    def _write_metrics(self) -> None:
        if self._values > self._written:
            write_json(Path(str(self.dir)) / "metrics.json", self._metrics, indent=None)
            self._written = self._values


class Sink:
    """An observer whose failures are one warning; later events are tried again."""

    def __init__(self, inner: RunObserver, name: str):
        self.inner, self.name, self.priority = inner, name, inner.priority
        self.missed = 0  # events

    def _send(self, event: str, /, **arguments: Any) -> Any:
        if event == "failed_event":
            arguments["fail_trace"] = [hide(line) for line in arguments.get("fail_trace") or ()]
        return self._take(event, arguments)

    started_event = functools.partialmethod(_send, "started_event")
    heartbeat_event = functools.partialmethod(_send, "heartbeat_event")
    completed_event = functools.partialmethod(_send, "completed_event")
    interrupted_event = functools.partialmethod(_send, "interrupted_event")
    failed_event = functools.partialmethod(_send, "failed_event")
    resource_event = functools.partialmethod(_send, "resource_event")
    artifact_event = functools.partialmethod(_send, "artifact_event")
    log_metrics = functools.partialmethod(_send, "log_metrics")

    def _take(self, event: str, arguments: dict[str, Any]) -> Any:
        try:
            return getattr(self.inner, event)(**arguments)
        except Exception as error:  # training goes on, whatever it is
            self._miss(error)
            return None

    def _miss(self, error: Exception) -> None:
        if not self.missed:
            text = hide(f"{type(error).__name__}: {error}")
            warnings.warn(f"{self.name} misses records, training goes on: {text}", stacklevel=2)
        self.missed += 1

    def join(self) -> None:
        pass


class LaterSink(Sink):
    """A sink with a thread of its own, so that training never waits for a server.

    Events are delivered in order; of several heartbeats that wait, only the last is kept. An event
    that the server refuses for good is left out, and one that it has refused for REFUSED_FOR_S.
    """

    def __init__(self, inner: RunObserver, name: str):
        super().__init__(inner, name)
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._news = threading.Condition()
        self._metrics_info: dict[str, Any] = {}  # where the observer keeps the names of metrics
        threading.Thread(target=self._deliver, name=name, daemon=True).start()

    def _take(self, event: str, arguments: dict[str, Any]) -> Any:
        with self._news:
            if event == "heartbeat_event" and self._waiting and self._waiting[-1][0] == event:
                self._waiting.pop()
            self._waiting.append((event, copy.deepcopy(arguments)))
            self._news.notify()
        return arguments.get("_id")

    def _deliver(self) -> None:
        tried: dict[str, Any] | None = None
        since_s = 0.0  # when the first try of this event was
        while True:
            with self._news:
                while not self._waiting:
                    self._news.wait()
                event, arguments = self._waiting[0]
            if arguments is not tried:
                tried, since_s = arguments, time.monotonic()
            try:
                self._call(event, arguments)
            except Exception as error:
                self._miss(error)
                if _may_pass(error, time.monotonic() - since_s):
                    time.sleep(RETRY_AFTER_S)
                    continue  # try the same event again: the server may be back
            with self._news:
                # A newer heartbeat may have replaced the one that was delivered.
                if self._waiting and self._waiting[0][1] is arguments:
                    self._waiting.popleft()
                self._news.notify_all()

    def _call(self, event: str, arguments: dict[str, Any]) -> None:
        if event == "log_metrics":
            arguments = {**arguments, "info": self._metrics_info}
        if event == "heartbeat_event":
            arguments = {**arguments, "info": {**arguments["info"], **self._metrics_info}}
        getattr(self.inner, event)(**arguments)

    def join(self) -> None:
        """Waits up to LAST_WAIT_S for the last events; suites.push can send the rest."""
        deadline = time.monotonic() + LAST_WAIT_S
        with self._news:
            while self._waiting and (left := deadline - time.monotonic()) > 0:
                self._news.wait(left)
            if self._waiting:
                warnings.warn(
                    f"{self.name} lacks the last {len(self._waiting)} events of this attempt; "
                    "`python -m suites.push SUITE` sends them",
                    stacklevel=2,
                )


def _may_pass(error: Exception, tried_s: float) -> bool:
    """Whether the event may be accepted later. A server that cannot be reached is waited for."""
    if not type(error).__module__.startswith("pymongo") or mongo_urls.is_final(error):
        return False
    from pymongo.errors import ConnectionFailure

    return isinstance(error, ConnectionFailure) or tried_s < REFUSED_FOR_S


def file_sink(results: Path) -> Sink:
    """Sacred's FileStorageObserver in `results/sacred`."""
    return Sink(Files(run_folder.sacred_path(results)), "results/sacred")


class Mongo(MongoObserver):
    """Sacred's MongoObserver, with two changes: failures are raised, so that an event can be sent
    again; and an event that arrives twice, because an answer was lost, is recorded once."""

    run_entry: dict[str, Any]

    def __init__(self, **named: Any):
        super().__init__(**named)
        self.sent: dict[str, int] = {}  # values of each metric
        self.refused: set[str] = set()  # metrics, for good
        self.failed: dict[str, Any] | None = None  # the values of a try that ended early
        self.done: set[str] = set()  # metrics of that try that were sent

    def insert(self) -> None:
        query = {"_id": self.run_entry["_id"]}
        self.runs.update_one(query, {"$setOnInsert": self.run_entry}, upsert=True)

    def save(self) -> None:
        self.runs.update_one({"_id": self.run_entry["_id"]}, {"$set": self.run_entry}, upsert=True)

    def final_save(self, attempts: int) -> None:
        self.save()

    def artifact_event(
        self, name: Any, filename: Any, metadata: Any = None, content_type: Any = None
    ) -> None:
        before = self.run_entry["artifacts"]
        self.run_entry["artifacts"] = [entry for entry in before if entry["name"] != name]
        mongo.delete_files(self.fs, f"artifact://runs/{self.run_entry['_id']}/{name}")
        super().artifact_event(name, filename, metadata, content_type)

    def log_metrics(self, metrics_by_name: dict[str, Any], info: dict[str, Any]) -> None:
        """Puts each metric's new values after the `sent` ones, from where the last try with these
        values ended. A metric that is refused for good (16 MB) is left out from then on, once the
        others are sent."""
        if self.failed is not metrics_by_name:
            self.done = set()
        self.failed = metrics_by_name
        listed = info.setdefault("metrics", [])
        error = None
        for name, metric in metrics_by_name.items():
            if name in self.refused | self.done:
                continue
            query = {"run_id": self.run_entry["_id"], "name": name}
            start = self.sent.get(name, 0)
            end = start + len(metric["steps"])
            change = {
                key: {"$each": metric[key], "$position": start, "$slice": end}
                for key in ("steps", "values", "timestamps")
            }
            try:
                self.metrics.update_one(query, {"$push": change}, upsert=True)
                if not start:
                    listed.append({"name": name, "id": str(self.metrics.find_one(query)["_id"])})
            except Exception as refusal:
                if not mongo_urls.is_final(refusal):
                    raise
                self.refused.add(name)
                error = refusal
                continue
            self.sent[name] = end
            self.done.add(name)
        self.failed = None
        if error is not None:
            raise error


def mongo_sink(url: str) -> Sink:
    """Sacred's MongoObserver. The URL's path names the database; raises UserError for a bad URL."""
    client, database = mongo_urls.connect(url)
    return LaterSink(Mongo(client=client, db_name=database), mongo_urls.name(url))
