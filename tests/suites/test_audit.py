"""A planted defect of each kind is found; a clean suite gives none; pushing fills MongoDB once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import SUITE, Server

from dreamer import run_folder
from suites import push
from suites import run as run_command
from suites.audit import main
from suites.execution.attempt import execute
from suites.execution.spec import Spec
from suites.language.suite import Run, expand
from suites.record import provenance
from suites.record.lost_status import restore


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """A folder with a suite of two runs and their results."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "suite.yaml").write_text(SUITE.replace("seeds: 3", "seeds: 2"))
    threads = torch.get_num_threads()
    code = provenance.Code("0" * 40, "", {})  # whichever copy is tested
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "code", lambda: code)
        for run in expand(folder / "suite.yaml").runs:
            spec = Spec(run.run_id, run.config, list(run.suites), str(folder / "results"))
            assert execute(spec)["status"] == "COMPLETED"
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def copy(clean, tmp_path) -> Path:
    shutil.copytree(clean, tmp_path / "copy")
    return tmp_path / "copy"


def first(folder: Path) -> tuple[Run, Path]:
    run = expand(folder / "suite.yaml").runs[0]
    return run, run_folder.run_path(folder / "results", run.run_id)


def audit(folder: Path, capsys, *options: str) -> list[dict]:
    words = [str(folder / "suite.yaml"), "--results", str(folder / "results"), "--format", "json"]
    code = main([*words, *options])
    found = json.loads(capsys.readouterr().out)
    findings = [f for f in found if not f["note"]]
    assert code == (1 if findings else 0)
    return findings


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_lines(path: Path, change) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


def without(kind: str, number: int):
    """Drops the number-th record of a kind."""

    def change(lines):
        places = [i for i, line in enumerate(lines) if json.loads(line)["kind"] == kind]
        return [line for i, line in enumerate(lines) if i != places[number]]

    return change


def replaced(old: str, new: str):
    return lambda lines: [line.replace(old, new, 1) for line in lines]


def copied_run(run: Path) -> None:
    shutil.copytree(run, run.with_name(run.name + "-copy"))


def foreign_run(run: Path) -> None:
    copied_run(run)
    edit_json(run.with_name(run.name + "-copy") / "status.json", run_id="something-else")


def repeated_seed(run: Path) -> None:
    [other] = [f for f in run.parent.iterdir() if f != run]
    shutil.copy(run / "metrics.jsonl", other / "metrics.jsonl")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def reordered(path: Path) -> None:
    """The same settings, other bytes."""
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))


def sacred(run: Path) -> Path:
    return run.parent.parent / "sacred" / f"{run.name}-1"


def damaged_checkpoint(run: Path) -> None:
    path = sorted((run / "checkpoints").glob("*.pt"))[-1]
    truncate(path)


PLANTED = {
    "missing": shutil.rmtree,
    "failed": lambda run: edit_json(run / "status.json", status="FAILED", error="it broke"),
    "dead": lambda run: edit_json(run / "status.json", status="RUNNING"),
    "incomplete": lambda run: edit_json(run / "status.json", status="INTERRUPTED"),
    "short": lambda run: edit_lines(run / "metrics.jsonl", lambda lines: lines[:5]),
    "config": lambda run: edit_json(run / "config.json", kl_scale=0.5),
    "provenance": lambda run: shutil.rmtree(run / "attempts"),
    "code differs": lambda run: edit_json(run / "attempts/1/provenance.json", code="abc"),
    "packages differs": lambda run: edit_json(run / "attempts/1/provenance.json", packages={}),
    "unexpected": foreign_run,
    "duplicated": copied_run,
    "repeated": repeated_seed,
    "checksum": damaged_checkpoint,
    "checksum of the resolved configuration": lambda run: reordered(run / "config.json"),
    "checksum of the final figure data": lambda run: truncate(run / "curves.csv"),
    "checksum of the prediction video": lambda run: truncate(run / "prediction.mp4"),
    "checksum of Sacred's copy": lambda run: truncate(sacred(run) / "run_prediction.npz"),
    "sacred": lambda run: truncate(sacred(run) / "metrics.json"),
    "commit unknown": lambda run: edit_json(
        run / "attempts/1/provenance.json", git={"commit": None, "problem": "git: dubious"}
    ),
    "environment toy_dot differs": lambda run: [
        edit_json(folder / "attempts/1/provenance.json", own={"task": {"version": folder.name}})
        for folder in run.parent.iterdir()
    ],
}
METRICS = {
    "line 2 of metrics.jsonl cannot be read": lambda lines: [lines[0], lines[1][:20], *lines[2:]],
    "a gap between updates 0 and 6": without("update", 0),
    "a gap between env_steps 120 and 240": without("episode", 2),
    "goes back from": lambda lines: [*lines, lines[0]],
    "kl is nan at": replaced('"kl": ', '"kl": NaN, "was": '),
}


def test_a_clean_suite_gives_no_finding(clean, capsys):
    assert audit(clean, capsys) == []


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_defect_is_found(copy, capsys, kind):
    _, run = first(copy)
    PLANTED[kind](run)
    found = audit(copy, capsys)
    kind, _, what = kind.partition(" of ")
    assert kind in {f["kind"] for f in found}
    assert not what or {f["kind"] for f in found} == {kind}
    assert all(f["run_id"] and f["text"] and f["todo"] for f in found)


def test_code_without_a_repository_is_a_note_and_no_finding(copy, capsys):
    _, folder = first(copy)
    git = {"commit": None, "problem": "git: not a git repository", "repository": False}
    edit_json(folder / "attempts/1/provenance.json", git=git)
    words = [str(copy / "suite.yaml"), "--results", str(copy / "results")]
    assert main(words) == 0
    [line, count] = capsys.readouterr().out.splitlines()
    assert line.startswith("note: commit unknown: ") and count == "2 runs, all well"
    assert "not a git repository" in line and "hash of its sources" in line
    edit_json(folder / "attempts/1/provenance.json", code="sources-0123")  # that does differ
    assert {f["kind"] for f in audit(copy, capsys)} == {"code differs"}
    edit_json(folder / "attempts/1/provenance.json", git={**git, "repository": True})
    assert "commit unknown" in {f["kind"] for f in audit(copy, capsys)}


def test_renderers_that_differ_are_found(copy, capsys):
    for run, name in zip(expand(copy / "suite.yaml").runs, ("egl a GPU", "osmesa"), strict=True):
        folder = run_folder.run_path(copy / "results", run.run_id)
        edit_json(folder / "attempts/1/provenance.json", renderer=name)
    assert {f["kind"] for f in audit(copy, capsys)} == {"renderer differs"}


def test_a_run_that_was_killed_while_it_copied_its_artifacts_is_well(copy, capsys):
    """The next attempt has nothing left to train, and copies them all."""
    run, folder = first(copy)
    shutil.copytree(folder / "attempts/1", folder / "attempts/2")
    first_copy = sacred(folder)
    shutil.copytree(first_copy, first_copy.with_name(f"{run.run_id}-2"))
    (first_copy / "run_curves.csv").unlink()
    truncate(first_copy / "run_prediction.mp4")
    edit_json(folder / "status.json", attempt=2)
    assert audit(copy, capsys) == []


def test_a_record_that_cannot_be_read_is_none_that_is_well(copy, capsys):
    _, folder = first(copy)
    for path in (folder / "attempts/1/provenance.json", sacred(folder) / "metrics.json"):
        path.unlink()
        path.mkdir()
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    found = {(f["kind"], f["text"]) for f in audit(copy, capsys)}
    assert ("provenance", "attempt 1: provenance.json cannot be read") in found
    assert ("sacred", "Sacred's metrics.json is damaged") in found
    assert any("metrics.jsonl cannot be read" in text for _, text in found)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """The same with one run, whose replay is kept."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "suite.yaml").write_text(SUITE.replace("seeds: 3", "seeds: 1\nkeep_replay: always"))
    [run] = expand(folder / "suite.yaml").runs
    spec = Spec(run.run_id, run.config, list(run.suites), str(folder / "results"))
    assert execute(spec)["status"] == "COMPLETED"
    return folder


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


def test_keeping_replay_is_no_part_of_a_run_s_identity(clean, kept):
    assert first(clean)[0].run_id == first(kept)[0].run_id
    assert not (first(clean)[1] / "replay").exists() and (first(kept)[1] / "replay").exists()
    assert run_folder.discarded_replay(first(clean)[1])["why"] == "the run was done"
    assert run_folder.discarded_replay(first(kept)[1]) is None


@pytest.mark.parametrize("name", ["images.lz4", "steps.f32", "episodes.jsonl"])
def test_a_flipped_bit_in_replay_is_found(kept, tmp_path, capsys, name):
    assert audit(kept, capsys) == []
    folder = shutil.copytree(kept, tmp_path / "copy")
    flip(first(folder)[1] / "replay" / name)
    [found] = audit(folder, capsys)
    assert found["kind"] == "replay" and "damaged" in found["text"]
    assert "can be evaluated and drawn" in found["todo"]


def test_replay_that_went_without_a_record_is_found(kept, tmp_path, capsys):
    folder = shutil.copytree(kept, tmp_path / "copy")
    shutil.rmtree(first(folder)[1] / "replay")
    [found] = audit(folder, capsys)
    assert found["kind"] == "replay" and "missing" in found["text"]


def test_replay_that_was_discarded_in_order_is_no_finding(kept, tmp_path, capsys):
    folder = shutil.copytree(kept, tmp_path / "copy")
    assert run_folder.discard_replay(first(folder)[1], "to make room") > 0
    assert audit(folder, capsys) == []


@pytest.mark.parametrize("damage", [Path.unlink, truncate])
def test_a_finished_run_that_lost_its_status_gets_it_back(copy, capsys, damage):
    """Without its replay it could not be trained to its end once more."""
    _, folder = first(copy)
    before = json.loads((folder / "status.json").read_text())
    damage(folder / "status.json")
    words = [str(copy / "suite.yaml"), "--results", str(copy / "results")]
    assert run_command.main([*words, "--plan"]) == 0
    assert run_folder.read_status(folder) in (None, {})  # a plan writes nothing
    capsys.readouterr()
    assert run_command.main(words) == 0
    said = capsys.readouterr()
    assert said.out.strip() == "2 done"
    [line] = [line for line in said.err.splitlines() if line.startswith("note: ")]
    assert folder.name in line and "status.json was lost" in line and "written anew" in line
    after = run_folder.read_status(folder)
    for key in ("status", "attempt", "env_steps", "updates", "evaluate_return", "final_score"):
        assert after[key] == before[key], key
    assert run_folder.attempts(folder) == [1] and audit(copy, capsys) == []
    assert run_command.main([*words, "--set", "env_steps=1e5"]) == 1
    assert "without its replay a larger budget needs --fresh" in capsys.readouterr().err


def last_checkpoint(folder: Path) -> Path:
    return run_folder.checkpoint_paths(folder / "checkpoints")[-1]


@pytest.mark.parametrize(
    "doubt",
    [
        lambda folder: truncate(last_checkpoint(folder)),
        lambda folder: last_checkpoint(folder).unlink(),
        lambda folder: edit_lines(folder / "metrics.jsonl", lambda lines: lines[:-4]),
        lambda folder: edit_lines(folder / "metrics.jsonl", lambda lines: [*lines, "half a l"]),
        lambda folder: edit_json(folder / "config.json", env_steps=10**6),
    ],
)
def test_a_run_that_may_not_be_finished_is_not_taken_for_one(copy, capsys, doubt):
    run, folder = first(copy)
    (folder / "status.json").unlink()
    doubt(folder)
    assert not restore(folder, run.config) and not (folder / "status.json").exists()


@pytest.mark.parametrize("text", METRICS)
def test_defects_of_metrics_are_found(copy, capsys, text):
    run, folder = first(copy)
    edit_lines(folder / "metrics.jsonl", METRICS[text])
    [*found] = [f for f in audit(copy, capsys) if f["kind"] == "metrics"]
    assert any(text in f["text"] and f["run_id"] == run.run_id for f in found)


def test_the_provenance_of_a_run(clean, capsys):
    run, _ = first(clean)
    assert main(["--run", run.run_id, "--results", str(clean / "results")]) == 0
    told = capsys.readouterr().out
    for word in (run.run_id, "state done", "attempt 1", "code ", "preset tiny", "return"):
        assert word in told
    assert main(["--run", run.run_id[:-1], "--results", str(clean / "results")]) == 2
    assert f"did you mean {run.run_id!r}" in capsys.readouterr().err


# --- MongoDB --------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("pymongo")
    (tmp_path / "server").mkdir()
    running = Server(tmp_path / "server")
    running.start()
    yield running
    running.kill()


def test_push_fills_in_exactly_what_is_missing_and_twice_adds_nothing(clean, capsys, server):
    options = ("--mongo", server.url)
    before = audit(clean, capsys, *options)
    assert {f["kind"] for f in before} == {"mongo"} and len(before) == 2
    assert audit(clean, capsys, *options, "--push") == []
    database = server.database

    def content():
        runs = list(database["runs"].find({}))
        metrics = list(database["metrics"].find({}))
        return {r["_id"]: r for r in runs}, {(m["run_id"], m["name"]): m for m in metrics}

    pushed = content()
    run, folder = first(clean)
    record = pushed[0][f"{run.run_id}-1"]
    assert record["status"] == "COMPLETED" and record["config"]["seed"] == run.config["seed"]
    assert {a["name"] for a in record["artifacts"]} == {f"run_{n}" for n in run_folder.ARTIFACTS}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    truth = [(m["env_steps"], m["kl"]) for m in lines if m["kind"] == "update"]
    metric = pushed[1][(f"{run.run_id}-1", "kl")]
    assert list(zip(metric["steps"], metric["values"], strict=True)) == truth
    assert audit(clean, capsys, *options, "--push") == []
    assert content() == pushed
    # A part of it is lost, and comes back.
    database["metrics"].delete_one({"run_id": f"{run.run_id}-1", "name": "kl"})
    database["runs"].update_one({"_id": f"{run.run_id}-1"}, {"$set": {"status": "RUNNING"}})
    assert len(audit(clean, capsys, *options)) == 2
    assert audit(clean, capsys, *options, "--push") == []


@pytest.mark.slow
def test_a_metric_beyond_mongodb_s_limit_is_named_and_the_rest_is_sent(copy, capsys, server):
    """500,000 episodes: more than 16 MB in one document."""
    _, folder = first(copy)
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = next(line for line in reversed(lines) if b'"episode"' in line)
    path.write_bytes(b"".join(lines) + last * 500_000)
    words = [str(copy / "suite.yaml"), "--results", str(copy / "results"), "--mongo", server.url]
    assert push.main(words) == 1
    said = capsys.readouterr().out
    assert "refuses episode_return of" in said and "for good" in said
    named = {m["name"] for m in server.database["metrics"].find({}, {"name": 1})}
    assert {"kl", "evaluate_return"} <= named
    assert len(list(server.database["runs"].find({}, {"_id": 1}))) == 2  # the next run, too
    found = [f for f in audit(copy, capsys, "--mongo", server.url) if f["kind"] == "mongo"]
    assert found and all("16 MB a document" in f["text"] for f in found)


def test_a_server_that_is_not_there_is_one_error_line(clean, capsys, monkeypatch):
    pytest.importorskip("pymongo")
    monkeypatch.setattr("suites.record.mongo_urls.TIMEOUT_S", 0.2)
    words = [str(clean / "suite.yaml"), "--results", str(clean / "results")]
    assert main([*words, "--mongo", "mongodb://me:secret@127.0.0.1:9/lab"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: mongodb://127.0.0.1:9/lab: not reached") and "secret" not in line


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.setenv("DREAMER_MONGO_URL", "")  # main sets it; the test's end restores it
