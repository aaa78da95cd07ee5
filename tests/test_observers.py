"""Sacred's observers as sinks, against a real server that speaks MongoDB's protocol."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pymongo = pytest.importorskip("pymongo")
from test_experiment import metrics_of, spec_in  # noqa: E402

from suites import mongo_urls, observers  # noqa: E402
from suites.experiment import execute  # noqa: E402


class Server:
    """nx-27017 on loopback, its data on disk: it can be stopped and started again."""

    def __init__(self, folder: Path):
        pytest.importorskip("nx_27017")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.url = f"mongodb://127.0.0.1:{self.port}/lab"

    def start(self) -> None:
        words = [str(Path(sys.executable).with_name("nx-27017")), "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--db", str(self.folder / "records.db")]
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 60
        while not self.listens():
            assert time.monotonic() < deadline and self.process.poll() is None, "no server"
            time.sleep(0.1)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def database(self):
        return pymongo.MongoClient(self.url, serverSelectionTimeoutMS=5000)["lab"]


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path)
    running.start()
    yield running
    running.kill()


def check(server: Server, spec, attempt: int = 1, status: str = "COMPLETED") -> None:
    """The attempt is there once, with its status and every metric as in metrics.jsonl."""
    name = f"{spec.run_id}-{attempt}"
    [run] = server.database["runs"].find({"_id": name})
    assert run["status"] == status
    assert run["config"]["task"] == spec.config["task"]
    truth = [(r["env_steps"], r["kl"]) for r in metrics_of(spec) if r["kind"] == "update"]
    [metric] = server.database["metrics"].find({"run_id": name, "name": "kl"})
    assert list(zip(metric["steps"], metric["values"], strict=True)) == truth
    assert {m["name"] for m in run["info"]["metrics"]} >= {"kl", "evaluate_return"}
    assert {a["name"] for a in run["artifacts"]} == {"run_config.json", "run_prediction.npz"}


def test_a_server_named_by_the_suite_has_the_whole_record(server, tmp_path):
    spec = spec_in(tmp_path / "results")
    spec.observers.append(server.url)
    assert execute(spec)["status"] == "COMPLETED"
    check(server, spec)


def test_a_server_that_comes_back_gets_what_it_missed(server, tmp_path, monkeypatch):
    monkeypatch.setattr(observers, "MONGO_TIMEOUT_S", 0.3)
    monkeypatch.setattr(observers, "RETRY_AFTER_S", 0.1)
    spec = spec_in(tmp_path / "results")
    spec.observers.append(server.url)
    server.kill()
    calls = iter(range(10**9))

    def back_after_a_while() -> bool:
        if next(calls) == 50:
            time.sleep(2)  # several attempts to deliver
            server.start()
        return False

    with pytest.warns(UserWarning, match="misses records, training goes on"):
        assert execute(spec, should_stop=back_after_a_while)["status"] == "COMPLETED"
    check(server, spec)


def test_the_variable_may_give_credentials_for_a_server_that_the_suite_names(monkeypatch):
    given = "mongodb://me:secret@host:27017/lab?authSource=admin"
    monkeypatch.setenv("DREAMER_MONGO_URL", given)
    named = ["mongodb://host:27017/lab", "mongodb://other/lab"]
    assert mongo_urls.all_urls(named) == [named[1], given]
    assert mongo_urls.name(given) == named[0]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
