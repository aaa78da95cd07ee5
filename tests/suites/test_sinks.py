"""Sacred's observers as sinks, against a real server that speaks MongoDB's protocol."""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
import socket
import threading
import time
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import SUITE, Server, metrics_of, spec_in

from dreamer import run_folder
from suites import audit
from suites import run as run_command
from suites.execution import sacred_run
from suites.execution.attempt import execute
from suites.execution.spec import Spec
from suites.language.suite import expand
from suites.record import (
    mongo_urls,
    sinks,
)

pymongo = pytest.importorskip("pymongo")
AMID = 2 * 30 + 4 + 20  # questions whether to stop: seed episodes, first updates, an evaluation


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "LAST_WAIT_S", 300.0)  # a busy machine may need it
    running = Server(tmp_path)
    running.start()
    yield running
    running.kill()


class Proxy:
    """Stands between clients and a server and forwards what each says, or, on connections that are
    used then, for ever nothing ("hangs") or a byte a second ("trickles")."""

    def __init__(self, server: Server):
        parts = urllib.parse.urlsplit(server.url)
        self._server, self.mode = (parts.hostname, parts.port or 27017), "forwards"
        self._listener, self._closed = socket.create_server(("127.0.0.1", 0)), threading.Event()
        credentials, at, _ = parts.netloc.rpartition("@")
        port, direct = self._listener.getsockname()[1], "directConnection=true"
        netloc = f"{credentials}{at}127.0.0.1:{port}"
        query = f"{parts.query}&{direct}" if parts.query else direct
        self.url = urllib.parse.urlunsplit(parts._replace(netloc=netloc, query=query))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source: socket.socket, to: socket.socket) -> None:
        with source, to, contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.mode == "forwards":
                    to.sendall(data)
                elif self.mode == "hangs":
                    self._closed.wait()
                    return
                else:
                    for byte in data:
                        if self._closed.wait(1.0):
                            return
                        to.sendall(bytes([byte]))

    def close(self) -> None:
        self._closed.set()
        self._listener.close()


@pytest.fixture
def proxy(server):
    between = Proxy(server)
    yield between
    between.close()


def check(server: Server, spec, attempt: int = 1, status: str = "COMPLETED") -> None:
    """The attempt is there once, with its status and every metric as in metrics.jsonl."""
    name = f"{spec.run_id}-{attempt}"
    [run] = server.database["runs"].find({"_id": name})
    assert run["status"] == status
    assert run["config"]["task"] == spec.config["task"]
    truth = [(r["env_steps"], r["kl"]) for r in metrics_of(spec) if r["kind"] == "update"]
    [metric] = server.database["metrics"].find({"run_id": name, "name": "kl"})
    # nx-27017 on an older SQLite keeps 15 digits; MongoDB keeps all.
    assert np.allclose(list(zip(metric["steps"], metric["values"], strict=True)), truth, 1e-14, 0)
    assert {m["name"] for m in run["info"]["metrics"]} >= {"kl", "evaluate_return"}
    assert {a["name"] for a in run["artifacts"]} == {f"run_{name}" for name in run_folder.ARTIFACTS}


def test_a_server_named_by_the_suite_has_the_whole_record(server, tmp_path):
    spec = spec_in(tmp_path / "results")
    spec.observers.append(server.url)
    assert execute(spec)["status"] == "COMPLETED"
    check(server, spec)


@pytest.mark.parametrize(("goes", "returns"), [("kill", "start"), ("fill_up", "make_room")])
def test_a_server_that_comes_back_gets_what_it_missed(goes, returns, server, tmp_path, monkeypatch):
    if server.given:
        pytest.skip("a server that is lent is not killed, nor its disk filled")
    monkeypatch.setattr(mongo_urls, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(sinks, "RETRY_AFTER_S", 0.1)
    monkeypatch.setattr(sacred_run, "SACRED_BEAT_S", 0.1)
    spec = spec_in(tmp_path / "results")
    spec.observers.append(server.url)
    getattr(server, goes)()
    calls = iter(range(10**9))

    def back_after_a_while() -> bool:
        if next(calls) == AMID:
            time.sleep(2)  # several attempts to send what was measured so far
            getattr(server, returns)()
        return False

    with pytest.warns(UserWarning, match="misses records, training goes on"):
        assert execute(spec, should_stop=back_after_a_while)["status"] == "COMPLETED"
    check(server, spec)


def one_run(folder: Path, url: str) -> tuple[Path, Spec]:
    """A suite of one run that sends records to a server."""
    path = folder / "suite.yaml"
    path.write_text(SUITE.replace("seeds: 3", "seeds: 1"))
    [run] = expand(path).runs
    return path, Spec(
        run.run_id, run.config, list(run.suites), str(folder / "results"), observers=[url]
    )


def amid(server: Server, act):
    """Acts once, amid training, as soon as the server knows of some updates; never asks to stop."""
    calls = iter(range(10**9))

    def should_stop() -> bool:
        if next(calls) == AMID:
            deadline = time.monotonic() + 300
            while not server.database["metrics"].find_one({"name": "kl"}):
                assert time.monotonic() < deadline, "nothing arrives"
                time.sleep(0.1)
            act()
        return False

    return should_stop


def check_push(server: Server, path: Path, spec: Spec, url: str, capsys) -> None:
    """The server lacks what the files have; pushing completes it, and a second one adds nothing."""
    words = [str(path), "--results", spec.results, "--mongo", url, "--format", "json"]
    assert audit.main(words) == 1
    assert {f["kind"] for f in json.loads(capsys.readouterr().out)} == {"mongo"}
    contents = []
    for _ in range(2):
        assert audit.main([*words, "--push"]) == 0
        names = ("runs", "metrics", "fs.files")
        contents.append([list(server.database[name].find({}).sort("_id")) for name in names])
    assert contents[0] == contents[1]
    assert capsys.readouterr().err.endswith(": 0 missing items sent\n")
    check(server, spec)
    _, metrics, files = contents[0]
    series = [(metric["run_id"], metric["name"]) for metric in metrics]
    stored = [f["filename"] for f in files if f["filename"].startswith("artifact://")]
    assert len(series) == len(set(series))
    assert len(stored) == len(set(stored)) == len(run_folder.ARTIFACTS)


@pytest.mark.parametrize("mode", ["hangs", "trickles"])
def test_a_server_that_stops_answering_holds_nothing(
    mode, server, proxy, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(mongo_urls, "TIMEOUT_S", 3600.0)  # no call gives up: nothing waits for it
    monkeypatch.setattr(sinks, "LAST_WAIT_S", 0.5)
    monkeypatch.setattr(sinks, "RETRY_AFTER_S", 3600.0)  # a run that ended sends nothing more
    monkeypatch.setattr(sacred_run, "SACRED_BEAT_S", 0.1)
    path, spec = one_run(tmp_path, proxy.url)
    stops = amid(server, lambda: setattr(proxy, "mode", mode))
    run = threading.Thread(target=execute, args=(spec, stops), daemon=True)
    run.start()
    with pytest.warns(UserWarning, match=r"lacks the last \d+ events .* suites.push SUITE"):
        run.join(300)  # for ever, if it waited
    assert not run.is_alive()
    assert run_folder.read_status(spec.folder)["status"] == "COMPLETED"
    monkeypatch.setattr(mongo_urls, "TIMEOUT_S", 0.3)
    assert audit.main([str(path), "--results", spec.results, "--mongo", proxy.url, "--push"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: mongodb://127.0.0.1:") and "not reached" in line
    monkeypatch.setattr(mongo_urls, "TIMEOUT_S", 300.0)
    proxy.mode = "forwards"
    check_push(server, path, spec, proxy.url, capsys)


def test_a_server_whose_disk_is_full_stops_nothing(server, tmp_path, monkeypatch, capsys):
    if server.given:
        pytest.skip("the disk of a server that is lent is not filled")
    monkeypatch.setattr(sinks, "LAST_WAIT_S", 0.5)
    monkeypatch.setattr(sacred_run, "SACRED_BEAT_S", 0.1)
    monkeypatch.setattr(sinks, "RETRY_AFTER_S", 3600.0)  # a run that ended sends nothing more
    path, spec = one_run(tmp_path, server.url)
    with (
        pytest.warns(UserWarning, match="misses records, training goes on"),
        pytest.warns(UserWarning, match=r"lacks the last \d+ events .* suites.push SUITE"),
    ):
        assert execute(spec, should_stop=amid(server, server.fill_up))["status"] == "COMPLETED"
    assert audit.main([str(path), "--results", spec.results, "--mongo", server.url, "--push"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {server.url}: not reached, or it refused")
    server.kill()
    server.start()
    check_push(server, path, spec, server.url, capsys)


def events(name: str) -> list[tuple[str, dict]]:
    """What Sacred sends to an observer during a run."""
    time_now = datetime.datetime(2026, 1, 1)
    about = {"name": "dreamer", "base_dir": ".", "sources": [], "dependencies": []}
    series = {"kl": {"steps": [1, 2], "values": [3.0, 4.0], "timestamps": [time_now] * 2}}
    start = {"ex_info": about, "command": "main", "host_info": {}, "start_time": time_now}
    beat = {"info": {}, "captured_out": "", "beat_time": time_now, "result": None}
    return [
        ("started_event", {**start, "config": {"seed": 0}, "meta_info": {}, "_id": name}),
        ("log_metrics", {"metrics_by_name": series, "info": {}}),
        ("heartbeat_event", beat),
        ("completed_event", {"stop_time": time_now, "result": 1.0}),
    ]


def test_40_runs_that_start_at_the_same_moment_are_all_recorded_once(server, tmp_path):
    names = [f"run-{i}-1" for i in range(40)]
    servers = [sinks.mongo_sink(server.url) for _ in names]
    files = [sinks.file_sink(tmp_path / "results") for _ in names]
    together = threading.Barrier(len(names))

    def start(i: int) -> None:
        together.wait()
        for event, arguments in events(names[i]):
            getattr(files[i], event)(**copy.deepcopy(arguments))
            getattr(servers[i], event)(**arguments)

    threads = [threading.Thread(target=start, args=(i,)) for i in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sink in servers:
        sink.join()
    recorded = list(server.database["runs"].find({}))
    assert sorted(run["_id"] for run in recorded) == sorted(names)
    assert {run["status"] for run in recorded} == {"COMPLETED"}
    assert len(list(server.database["metrics"].find({"name": "kl"}))) == len(names)
    folders = tmp_path / "results" / "sacred"
    assert sorted(p.name for p in folders.iterdir()) == sorted(names)
    assert all(sink.missed == 0 for sink in [*servers, *files])


def test_what_is_told_twice_is_recorded_once(server):
    """A server's answer may be lost: then the same event is sent again."""
    sink = sinks.mongo_sink(server.url)
    inner, info = sink.inner, {}
    for event, arguments in events("run-1")[:1]:
        getattr(inner, event)(**arguments)
        getattr(inner, event)(**arguments)
    series = events("run-1")[1][1]["metrics_by_name"]
    inner.log_metrics(series, info)
    inner.sent = {}
    inner.log_metrics(series, {})
    inner.log_metrics(series, info)
    [metric] = server.database["metrics"].find({"run_id": "run-1"})
    assert metric["values"] == [3.0, 4.0, 3.0, 4.0] and metric["steps"] == [1, 2, 1, 2]
    assert [one["name"] for one in info["metrics"]] == ["kl"]
    for _ in range(2):
        inner.artifact_event("file", __file__)
    [run] = server.database["runs"].find({"_id": "run-1"})
    assert [one["name"] for one in run["artifacts"]] == ["file"]
    [file] = server.database["fs.files"].find({})
    assert file["_id"] == run["artifacts"][0]["file_id"]
    assert inner.fs.get(file["_id"]).read() == Path(__file__).read_bytes()


class FullMetric(sinks.Mongo):
    """Refuses a metric as MongoDB does when its document would exceed 16 MB, which the server of
    these tests does not; everything else is real."""

    tries = 0

    def insert(self):
        super().insert()
        update_one = self.metrics.update_one

        def limited(query, *more, **options):
            if query["name"] == "episode_return":
                self.tries += 1
                text = "Resulting document after update is larger than 16777216"
                raise pymongo.errors.WriteError(text, 17419)
            return update_one(query, *more, **options)

        self.metrics = SimpleNamespace(update_one=limited, find_one=self.metrics.find_one)


def test_a_metric_that_outgrows_mongodb_blocks_nothing(server):
    client, database = mongo_urls.connect(server.url)
    sink = sinks.LaterSink(FullMetric(client=client, db_name=database), "server")
    start, (event, metrics), *rest = events("run-1")
    series = metrics["metrics_by_name"]
    series = {"episode_return": series["kl"], "kl": series["kl"]}
    told = [start, (event, {**metrics, "metrics_by_name": series}), (event, metrics), *rest]

    def tell() -> None:
        for event, arguments in told:
            getattr(sink, event)(**arguments)
        sink.join()

    with pytest.warns(UserWarning, match="misses records, training goes on: WriteError"):
        tell()
    [run] = server.database["runs"].find({"_id": "run-1"})
    [metric] = server.database["metrics"].find({})
    assert run["status"] == "COMPLETED" and metric["name"] == "kl"
    assert metric["values"] == [3.0, 4.0] * 2 and sink.inner.tries == 1 and sink.missed == 1


def test_metrics_are_sent_from_where_a_try_ended(server, monkeypatch):
    """The server goes away between two metrics of one event."""
    inner = sinks.mongo_sink(server.url).inner
    event, arguments = events("run-1")[0]
    getattr(inner, event)(**arguments)
    series = events("run-1")[1][1]["metrics_by_name"]
    series = {"kl": series["kl"], "other": series["kl"]}
    update_one = inner.metrics.update_one

    def away(query, *more, **options):
        if query["name"] == "other":
            raise pymongo.errors.AutoReconnect("away")
        return update_one(query, *more, **options)

    inner.metrics = SimpleNamespace(update_one=away, find_one=inner.metrics.find_one)
    with pytest.raises(pymongo.errors.AutoReconnect):
        inner.log_metrics(series, {})
    inner.metrics = server.database["metrics"]
    inner.log_metrics(series, {})
    for metric in server.database["metrics"].find({}):
        assert metric["values"] == [3.0, 4.0], metric["name"]


def test_refusals_that_pass_are_told_from_those_that_do_not():
    for code, final in ((17419, True), (10334, True), (14031, False), (11600, False)):
        refusal = pymongo.errors.WriteError("refused", code)
        assert mongo_urls.is_final(refusal) == final
        assert sinks._may_pass(refusal, 1.0) != final
        assert not sinks._may_pass(refusal, 1e9)  # it no longer holds up the others
    assert sinks._may_pass(pymongo.errors.AutoReconnect("away"), 1e9)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb://host:port/lab",
        "mongodb://me:hun:ter2@host/lab",
        "mongodb://host/lab?tlsCAFile=/no/such/file&tls=true",
        "mongodb://host/a b.c",
        "postgres://me:hunter2@host/lab",
    ],
)
def test_a_malformed_url_is_bad_input_before_anything_runs(tmp_path, capsys, url):
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE)
    words = [str(suite), "--results", str(tmp_path / "results"), "--yes", "--mongo", url]
    assert run_command.main(words) == 2
    [line] = [s for s in capsys.readouterr().err.splitlines() if not s.startswith("note: ")]
    assert line.startswith("error: ") and "ter2" not in line
    assert not (tmp_path / "results").exists()


def test_a_truncated_metrics_file_is_whole_again_at_the_next_event(tmp_path):
    sink = sinks.file_sink(tmp_path)
    for event, arguments in events("run-1")[:2]:
        getattr(sink, event)(**arguments)
    path = tmp_path / "sacred" / "run-1" / "metrics.json"
    path.write_text(path.read_text()[:20])
    event, arguments = events("run-1")[1]
    getattr(sink, event)(**arguments)
    assert json.loads(path.read_text())["kl"]["values"] == [3.0, 4.0] * 2 and sink.missed == 0


def test_metrics_json_is_written_seldom_and_whole_at_the_end(tmp_path):
    sink = sinks.file_sink(tmp_path)
    start, metrics, _, end = events("run-1")
    getattr(sink, start[0])(**start[1])
    path = tmp_path / "sacred" / "run-1" / "metrics.json"
    written = set()
    for _ in range(200):
        sink.log_metrics(**metrics[1])
        written.add(path.stat().st_mtime_ns)
    assert len(written) < 50
    getattr(sink, end[0])(**end[1])
    assert json.loads(path.read_text())["kl"]["values"] == [3.0, 4.0] * 200


def test_the_variable_may_give_credentials_for_a_server_that_the_suite_names(monkeypatch):
    given = "mongodb://me:secret@host:27017/lab?authSource=admin"
    monkeypatch.setenv("DREAMER_MONGO_URL", given)
    named = ["mongodb://host:27017/lab", "mongodb://other/lab"]
    assert mongo_urls.all_urls(named) == [named[1], given]
    assert mongo_urls.name(given) == named[0]


def test_a_name_that_cannot_be_resolved_is_the_sink_s_affair():
    """mongodb+srv asks the network for the servers' names, which may be away as well."""
    pymongo = pytest.importorskip("pymongo")
    sink = sinks.mongo_sink("mongodb+srv://nowhere.invalid/lab")
    event, arguments = events("run-1")[0]
    with pytest.raises(pymongo.errors.PyMongoError, match=r"nowhere\.invalid"):
        getattr(sink.inner, event)(**arguments)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.setenv("DREAMER_MONGO_URL", "")  # audit sets it; the test's end restores it
