"""Sacred's observers as sinks: told what happened, unable to stop, slow or blind a run.

The truth is the run folder's `metrics.jsonl`; whatever a sink missed can be filled in from there.
"""

from __future__ import annotations

import copy
import threading
import time
import urllib.parse
import warnings
from collections import deque
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver, RunObserver
from sacred.serializer import flatten

from dreamer.config import UserError
from suites import mongo_urls
from suites.provenance import without_credentials
from suites.records import write_json

MONGO_DATABASE = "dreamer"  # where the URL names none
MONGO_TIMEOUT_S = 10.0  # of one call to the server
RETRY_AFTER_S = 5.0
LAST_WAIT_S = 20.0  # a run that has ended waits so long for its last events to arrive


class Files(FileStorageObserver):
    """Sacred's files, each written whole or not at all."""

    def save_json(self, obj: Any, filename: str) -> None:
        write_json(Path(str(self.dir)) / filename, flatten(obj))

    def log_metrics(self, metrics_by_name: dict[str, Any], info: dict[str, Any]) -> None:
        """A damaged metrics.json is set aside; the rest of the run is recorded in a new one."""
        try:
            super().log_metrics(metrics_by_name, info)
        except ValueError:
            path = Path(str(self.dir)) / "metrics.json"
            path.replace(path.with_name("metrics.damaged.json"))
            super().log_metrics(metrics_by_name, info)


class Sink:
    """An observer whose failures are one warning and nothing more; later events are tried again."""

    def __init__(self, inner: RunObserver, name: str):
        self.inner, self.name, self.priority = inner, name, inner.priority
        self.missed = 0  # events

    def _tell(self, event: str, arguments: dict[str, Any]) -> Any:
        try:
            return getattr(self.inner, event)(**arguments)
        except Exception as error:  # whatever it is: training goes on
            self._miss(error)
            return None

    def _miss(self, error: Exception) -> None:
        if not self.missed:
            text = without_credentials(f"{type(error).__name__}: {error}")
            warnings.warn(f"{self.name} misses records, training goes on: {text}", stacklevel=2)
        self.missed += 1

    def started_event(self, **arguments: Any) -> Any:
        return self._tell("started_event", arguments)

    def heartbeat_event(self, **arguments: Any) -> None:
        self._tell("heartbeat_event", arguments)

    def completed_event(self, **arguments: Any) -> None:
        self._tell("completed_event", arguments)

    def interrupted_event(self, **arguments: Any) -> None:
        self._tell("interrupted_event", arguments)

    def failed_event(self, **arguments: Any) -> None:
        self._tell("failed_event", arguments)

    def resource_event(self, **arguments: Any) -> None:
        self._tell("resource_event", arguments)

    def artifact_event(self, **arguments: Any) -> None:
        self._tell("artifact_event", arguments)

    def log_metrics(self, **arguments: Any) -> None:
        self._tell("log_metrics", arguments)

    def join(self) -> None:
        pass


class LaterSink(Sink):
    """A sink that a thread feeds, so that a slow or absent server never holds the run.

    Events wait in order until they are delivered; of waiting heartbeats only the last is kept.
    """

    def __init__(self, inner: RunObserver, name: str):
        super().__init__(inner, name)
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._news = threading.Condition()
        self._metrics_info: dict[str, Any] = {}  # where the observer notes its metrics' names
        threading.Thread(target=self._deliver, name=name, daemon=True).start()

    def _tell(self, event: str, arguments: dict[str, Any]) -> Any:
        with self._news:
            if event == "heartbeat_event" and self._waiting and self._waiting[-1][0] == event:
                self._waiting.pop()
            self._waiting.append((event, copy.deepcopy(arguments)))
            self._news.notify()
        return arguments.get("_id")

    def _deliver(self) -> None:
        while True:
            with self._news:
                while not self._waiting:
                    self._news.wait()
                event, arguments = self._waiting[0]
            try:
                self._call(event, arguments)
            except Exception as error:
                self._miss(error)
                if type(error).__module__.startswith("pymongo") and not is_final(error):
                    time.sleep(RETRY_AFTER_S)
                    continue  # the same event again: the server may come back
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
        """Waits a little for the last events; the rest can be pushed from the run's files."""
        deadline = time.monotonic() + LAST_WAIT_S
        with self._news:
            while self._waiting and (left := deadline - time.monotonic()) > 0:
                self._news.wait(left)
            if self._waiting:
                warnings.warn(
                    f"{self.name} lacks the last {len(self._waiting)} events of this attempt; "
                    "`python -m suites.audit SUITE --push` fills them in",
                    stacklevel=2,
                )


def is_final(error: Exception) -> bool:
    """Whether trying again is useless: the server was reached and refused what was sent."""
    from pymongo import errors

    return isinstance(
        error, (errors.DuplicateKeyError, errors.InvalidDocument, errors.DocumentTooLarge)
    )


def file_sink(results: Path) -> Sink:
    """Sacred's FileStorageObserver in `results/sacred`."""
    return Sink(Files(results / "sacred", copy_sources=False), "results/sacred")


def mongo_sink(url: str, failures: Path) -> Sink:
    """Sacred's MongoObserver. The URL's path names the database; raises UserError for a bad URL."""
    from sacred.observers import MongoObserver

    client, database = connect(url)
    inner = MongoObserver(client=client, db_name=database, failure_dir=str(failures))
    return LaterSink(inner, mongo_urls.name(url))


def connect(url: str) -> tuple[Any, str]:
    """A client, which has not reached the server yet, and the database's name."""
    name = mongo_urls.name(url)
    try:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError
    except ImportError:
        raise UserError(f"{name}: pymongo is not installed; pip install pymongo") from None
    timeout_ms = int(MONGO_TIMEOUT_S * 1000)
    try:
        client: Any = MongoClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
        )
        database = urllib.parse.urlsplit(url).path.strip("/") or MONGO_DATABASE
        client[database]  # complains about names that cannot be
    except (PyMongoError, ValueError) as error:
        raise UserError(f"{name}: {without_credentials(str(error))}") from None
    return client, database
