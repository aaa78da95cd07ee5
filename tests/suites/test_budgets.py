"""Suites that ask for different budgets share the run, with records that an audit accepts."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers import SUITE, suite_file

from analysis.make_figures import main as make_figures
from dreamer import run_folder
from suites import audit, run, status
from suites.language.identity import earlier_run_id, run_id
from suites.language.suite import expand, merge

LONG = SUITE.replace("seeds: 3", "seeds: 1\nkeep_replay: always")
HERE = ["--executor", "debug"]
SHORT = LONG.replace("env_steps: 300\n", "env_steps: 180\n", 1)


def states(capsys, *words: str) -> list[str]:
    capsys.readouterr()
    status.main([*words, "--format", "json"])
    return [row["state"] for row in json.loads(capsys.readouterr().out)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder with two suites, of which the short one was run first."""
    folder = tmp_path_factory.mktemp("shared")
    for name, text in (("short", SHORT), ("long", LONG)):
        suite_file(folder, text, name)
    assert run.main([*words(folder, "short"), *HERE]) == 0
    shutil.copytree(folder / "results", folder / "results-short")
    assert run.main([*words(folder, "long"), *HERE]) == 0
    return folder


def words(folder: Path, suite: str, results: str = "results") -> list[str]:
    return [str(folder / f"{suite}.yaml"), "--results", str(folder / results)]


def test_a_larger_budget_continues_the_run_that_is_there(shared, capsys):
    (folder,) = (shared / "results" / "runs").iterdir()
    found = run_folder.read_status(folder)
    assert (found["attempt"], found["env_steps"], found["budget_env_steps"]) == (2, 300, 300)
    assert states(capsys, *words(shared, "short")) == ["done"]
    assert states(capsys, *words(shared, "long")) == ["done"]
    assert states(capsys, *words(shared, "long", "results-short")) == ["stopped"]
    assert states(capsys, *words(shared, "short", "results-short")) == ["done"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run.main(words(shared, "short")) == 0  # it is done already
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_replay_stays_until_no_suite_of_the_folder_asks_for_more(tmp_path, capsys):
    """The long suite was prepared and not executed when the short one ends."""
    for name, text in (("short", SHORT), ("long", LONG)):
        suite_file(tmp_path, text.replace("keep_replay: always", ""), name)
    suites = [expand(tmp_path / "long.yaml")]
    run.prepare(tmp_path / "results", suites, suites[0].runs)
    assert run.main([*words(tmp_path, "short"), *HERE]) == 0
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert (folder / "replay").is_dir() and run_folder.discarded_replay(folder) is None
    assert run.main([*words(tmp_path, "long"), *HERE]) == 0
    assert not (folder / "replay").exists() and run_folder.discarded_replay(folder) is not None


def test_both_suites_are_audited_without_a_finding(shared, capsys):
    for suite in ("short", "long"):
        assert audit.main(words(shared, suite)) == 0, capsys.readouterr().out


def test_a_plan_counts_only_what_is_missing(shared, capsys):
    hours = {}
    for results in ("results", "results-short", "none"):
        capsys.readouterr()
        run.main([*words(shared, "long", results), "--plan", "--format", "json"])
        hours[results] = json.loads(capsys.readouterr().out)["hours"]
    assert hours["results"] == 0 and hours["results-short"] < hours["none"] / 2


def test_figures_and_tables_of_the_smaller_budget_end_there(shared):
    for suite, end in (("short", 180), ("long", 300)):
        path, _, results = words(shared, suite)
        out = shared / "figures"
        assert make_figures(["--suite", path, "--results", results, "--out", str(out)]) == 0
        curves = pd.read_csv(out / suite / "curves.csv")
        assert curves["env_steps"].max() <= end
        scores = pd.read_csv(out / suite / "scores.csv")
        # The larger budget has no evaluation where the smaller one ends.
        assert list(scores["at"]) == ([] if suite == "short" else [end])
        assert not scores["partial"].any()


def test_the_figures_of_a_larger_budget_know_that_a_run_is_short(shared, capsys):
    path, _, results = words(shared, "long", "results-short")
    assert (
        make_figures(["--suite", path, "--results", results, "--out", str(shared / "figures2")])
        == 0
    )
    assert "short: toy_dot" in capsys.readouterr().out


def test_one_suite_or_several_name_a_run_once_with_the_largest_budget(shared, tmp_path):
    both = merge(expand(shared / f"{name}.yaml") for name in ("long", "short"))
    assert [one.config["env_steps"] for one in both] == [300]
    axis = LONG.replace("env_steps: 300\n", "", 1) + "  env_steps: [120, 300, 180]\n"
    assert [r.config["env_steps"] for r in expand(suite_file(tmp_path, axis)).runs] == [300]


def test_runs_with_earlier_ids_are_found_by_any_budget(shared, tmp_path, capsys):
    """Runs whose ids had the budget in them, in a copy of the results."""
    for name, text in (("short", SHORT), ("long", LONG)):
        suite_file(tmp_path, text, name)
    config = expand(tmp_path / "short.yaml").runs[0].config
    old, new = earlier_run_id(config), run_id(config)
    assert old != new
    shutil.copytree(shared / "results-short", tmp_path / "results")
    (tmp_path / "results" / "runs" / new).rename(tmp_path / "results" / "runs" / old)
    (tmp_path / "results" / "sacred" / f"{new}-1").rename(
        tmp_path / "results" / "sacred" / f"{old}-1"
    )
    assert states(capsys, *words(tmp_path, "short")) == ["done"]
    assert states(capsys, *words(tmp_path, "long")) == ["stopped"]
    assert audit.main(words(tmp_path, "short")) == 0, capsys.readouterr().out
    assert run.main([*words(tmp_path, "long"), *HERE]) == 0
    assert [path.name for path in (tmp_path / "results" / "runs").iterdir()] == [old]
    assert states(capsys, *words(tmp_path, "short")) == ["done"]
    assert audit.main(words(tmp_path, "long")) == 0, capsys.readouterr().out
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        for folder in (
            tmp_path / "results" / "runs" / old,
            shared / "results" / "runs" / new,
        )
    )
    assert [r for r in ours if r["kind"] != "time"] == [r for r in theirs if r["kind"] != "time"]
