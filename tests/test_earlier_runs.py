"""Runs made by earlier code are still read, resumed, audited and drawn.

`data/earlier_runs.tar.xz` holds a results folder as cd3458e wrote it (2026-11-25): a run of 240
env_steps that is complete, one that was interrupted at 160, and their suite.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from analysis.make_figures import main as make_figures
from dreamer import evaluate
from suites.audit import main as audit
from suites.run import main as run
from suites.status import main as status

ARCHIVE = Path(__file__).parent / "data" / "earlier_runs.tar.xz"
DONE = "toy_dot-dreamer-reconstruction-tiny-s0-0acae89f40"
STOPPED = "toy_dot-dreamer-reconstruction-tiny-s1-de25ba86fd"


@pytest.fixture
def earlier(tmp_path: Path) -> list[str]:
    """The arguments that name the suite and its results."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return [str(tmp_path / "earlier.yaml"), "--results", str(tmp_path / "results")]


def test_they_are_known_and_audited(earlier: list[str], capsys) -> None:
    assert status([*earlier, "--format", "json"]) == 1  # not all are done
    states = {r["run_id"]: r["state"] for r in json.loads(capsys.readouterr().out)}
    assert states == {DONE: "done", STOPPED: "stopped"}
    assert audit(earlier) == 1
    findings = capsys.readouterr().out.splitlines()
    assert len(findings) == 2 and STOPPED in findings[0] and "it is stopped" in findings[0]
    assert findings[1] == "2 runs, 1 finding"


def test_a_stopped_one_goes_on_and_all_are_drawn(earlier: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "runs" / STOPPED
    before = (folder / "metrics.jsonl").read_text()
    assert run(earlier) == 0
    after = (folder / "metrics.jsonl").read_text()
    assert after.startswith(before.rsplit('{"kind": "episode"', 1)[0])  # nothing was executed again
    last = json.loads((folder / "status.json").read_text())
    assert (last["status"], last["attempt"], last["env_steps"]) == ("COMPLETED", 2, 240)
    suite, _, results = earlier
    figures = tmp_path / "figures"
    assert make_figures(["--suite", suite, "--results", results, "--out", str(figures)]) == 0
    scores = pd.read_csv(figures / "earlier" / "scores.csv")
    assert list(scores.n) == [2] and len(list(figures.rglob("*curves.png"))) == 1


def test_an_agent_of_theirs_plays(tmp_path: Path, earlier: list[str], capsys) -> None:
    folder = tmp_path / "results" / "runs" / DONE
    assert evaluate.main([str(folder), "--episodes", "2", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["env_steps"] == 240


def test_a_larger_budget_continues_them_under_their_own_ids(earlier: list[str], capsys) -> None:
    """Their ids have the budget in them; their checkpoints do not say what depends on it."""
    runs = Path(earlier[2]) / "runs"
    before = (runs / DONE / "metrics.jsonl").read_text()
    further = [*earlier, "--set", "env_steps=400"]
    assert status([*further, "--format", "json"]) == 1
    states = {r["run_id"]: r["state"] for r in json.loads(capsys.readouterr().out)}
    assert states == {DONE: "stopped", STOPPED: "stopped"}
    assert run([*further, "--executor", "debug"]) == 0
    assert {folder.name for folder in runs.iterdir()} == {DONE, STOPPED}
    assert (runs / DONE / "metrics.jsonl").read_text().startswith(before)
    assert status(earlier) == 0  # with the smaller budget they are done as well
    capsys.readouterr()
    audit(further)
    findings = capsys.readouterr().out.splitlines()[:-1]
    assert all(" differs: " in line for line in findings), findings  # code and packages
