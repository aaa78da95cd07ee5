"""What `suites.clean` removes, and that it removes nothing else."""

import shutil
from pathlib import Path

import pytest
from helpers import SUITE, suite_file

from dreamer import evaluate, run_folder
from suites import audit, clean, run
from suites.execution import cluster
from suites.language.suite import expand
from suites.record.folder import locked

LINE = SUITE.replace("seeds: 3", "seeds: 2\nkeep_replay: always")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two runs: one that was started afresh, one that was stopped."""
    folder = tmp_path_factory.mktemp("clean")
    words = [str(suite_file(folder, LINE)), "--results", str(folder / "results")]
    words += ["--executor", "debug"]
    assert run.main([*words, "--set", "env_steps=120"]) == 0
    for more in ([], ["--fresh"]):
        assert run.main([*words, "--only", "seed=0", *more]) == 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> list[str]:
    """The words that name the suite and a copy of its results."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return [str(tmp_path / "suite.yaml"), "--results", str(tmp_path / "results")]


def files(results: Path) -> dict[Path, bytes]:
    return {p.relative_to(results): p.read_bytes() for p in results.rglob("*") if p.is_file()}


def test_only_what_is_shown_goes_and_the_rest_is_audited_and_played(copy, capsys):
    results = Path(copy[2])
    done, stopped = (results / "runs" / r.run_id for r in expand(copy[0]).runs)
    cache = results / "cache"
    cache.mkdir()
    (cache / "records-1.json").write_text("{}")
    before = files(results)
    assert clean.main([*copy, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert files(results) == before
    for what in (f"{done}/replay", "discarded/", str(cache)):
        assert what in shown
    assert str(stopped) not in shown
    assert clean.main(copy) == 2  # there is no terminal to ask
    assert files(results) == before
    assert clean.main([*copy, "--yes"]) == 0
    after = files(results)
    gone = {path.parts[:3] for path in set(before) - set(after)}
    assert gone == {
        ("runs", done.name, "replay"),
        ("discarded", f"{done.name}-2", "replay"),
        *(("discarded", f"{done.name}-2", name) for name in _names(before, "discarded")),
        ("cache", "records-1.json"),
    }
    assert {path.name for path in set(after) - set(before)} == {run_folder.REPLAY_DISCARDED}
    assert all(after[path] == before[path] for path in set(after) & set(before))
    capsys.readouterr()
    assert audit.main([*copy, "--only", "seed=0"]) == 0, capsys.readouterr().out
    assert evaluate.main([str(done), "--episodes", "1"]) == 0
    assert clean.main([*copy, "--yes"]) == 0
    assert "nothing may go" in capsys.readouterr().out


def _names(before: dict[Path, bytes], top: str) -> set[str]:
    return {path.parts[2] for path in before if path.parts[0] == top}


def test_without_its_replay_a_run_stays_done_and_goes_no_further(copy, capsys):
    results = Path(copy[2])
    folder = results / "runs" / expand(copy[0]).runs[0].run_id
    assert clean.main([*copy, "--yes"]) == 0
    before = files(folder)
    words = [*copy, "--executor", "debug", "--only", "seed=0"]
    assert run.main([*words, "--set", "env_steps=400", "--plan"]) == 0
    plan = capsys.readouterr().out
    assert "0.0 CPU hours" in plan and "not counted: 1 run without replay; see --fresh" in plan
    assert run.main([*words, "--set", "env_steps=400"]) == 1
    assert "without its replay a larger budget needs --fresh" in capsys.readouterr().err
    assert run.main(words) == 0
    assert files(folder) == before


def test_what_another_suite_still_needs_or_a_process_holds_stays(copy, capsys):
    results = Path(copy[2])
    runs = expand(copy[0]).runs
    replay = results / "runs" / runs[0].run_id / "replay"
    with locked(replay.parent):
        assert clean.main([*copy, "--yes"]) == 0
    assert replay.is_dir() and "another process" in capsys.readouterr().err
    further = results / "suites" / "further" / "runs.json"
    further.parent.mkdir()
    further.write_text(f'[{{"run_id": "{runs[0].run_id}", "env_steps": 500}}]')
    assert clean.main([*copy, "--yes"]) == 0
    assert replay.is_dir()
    further.write_text("[{")
    assert clean.main([*copy, "--yes"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    further.unlink()
    assert clean.main([*copy, "--yes"]) == 0
    assert not replay.exists()


def test_code_that_a_job_may_still_run_stays(copy, capsys, monkeypatch):
    """No SLURM answers here: what unfinished runs were submitted with is kept."""
    results = Path(copy[2])
    done, stopped = (r.run_id for r in expand(copy[0]).runs)
    home = cluster.home(results)
    for name in ("old", "needed", "nobody"):
        (home / "code" / name).mkdir(parents=True)
        (home / "code" / name / "code.json").write_text("{}")
    for batch, run_id, code in (("a", done, "old"), ("b", stopped, "needed")):
        cluster._append(results, batch=batch, jobs=[[run_id]], budgets={run_id: 300}, code=code)
    monkeypatch.setenv("PATH", "")
    assert clean.main([*copy, "--yes"]) == 0
    assert {path.name for path in (home / "code").iterdir()} == {"needed"}
    assert "code of unfinished runs is kept" in capsys.readouterr().err
