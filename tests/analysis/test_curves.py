"""Curves in and out: the released JSON format, CSV, and what is wrong with files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from analysis import synthetic
from analysis.count.published import published_scores
from analysis.count.statistics import reference_statistics
from analysis.count.summary import planned_runs
from analysis.read.curves import COLUMNS, read_curves, released_entries, write_released
from analysis.read.files import FileSource
from analysis.read.frame import load
from dreamer.errors import UserError
from suites.language.suite import expand

RELEASED = os.environ.get("DREAMER_TEST_RELEASED_CURVES")  # the released score file


def test_released_format(tmp_path):
    path = tmp_path / "scores.json"
    entries = [
        {"task": "dmc_walker_walk", "method": "dreamer", "seed": "0", "xs": [5000, 105000],
         "ys": [1.5, None]},
        {"task": "walker_walk", "method": "other", "seed": 1, "xs": [], "ys": []},
    ]  # fmt: skip
    path.write_text(json.dumps(entries))
    curves = read_curves(path)
    assert tuple(curves.columns) == COLUMNS
    assert curves["task"].tolist() == ["walker_walk"] * 2
    assert curves["env_steps"].tolist() == [5000, 105000]
    assert curves["episode_return"][0] == 1.5 and math.isnan(curves["episode_return"][1])


def test_csv_without_a_method(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text("task,seed,env_steps,episode_return\nwalker_walk,3,5000,12.5\n")
    row = read_curves(path).iloc[0]
    assert row.tolist() == ["walker_walk", "dreamer", "3", 5000.0, 12.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not JSON"),
        ("{}", "a list of curves"),
        ("[]", "a list of curves"),
        ("[1]", "curve 0: an object"),
        ('[{"task": "a", "method": "b", "seed": 0, "xs": [1]}]', "curve 0: no ys"),
        ('[{"task": "a", "method": "b", "seed": 0, "xs": [1], "ys": [1, 2]}]', "1 xs and 2 ys"),
        ('[{"task": "a", "method": "b", "seed": 0, "xs": ["x"], "ys": [1]}]', "lists of numbers"),
        ('[{"task": "a", "method": "b", "seed": 0, "xs": [null], "ys": [1]}]', "xs that are not"),
        ("task,seed\nwalker,1\n", "no column env_steps, episode_return"),
        ("task,seed,env_steps,episode_return\na,0,ten,1\n", "env_steps holds something"),
        ("task,seed,env_steps,episode_return\na,0,10,high\n", "episode_return holds something"),
        ("", "not a CSV file"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, text, words):
    path = tmp_path / "scores"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        read_curves(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value).strip()


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_curves(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_curves(tmp_path / "binary")


def test_what_we_write_we_read(tmp_path):
    suite = tmp_path / "mini.yaml"
    suite.write_text("preset: tiny\nseeds: 2\ngrid: {task: [walker_walk, toy_dot]}\n")
    suite = expand(suite)
    for run in suite.runs:
        synthetic.write_run(tmp_path, run.run_id, run.config)
    path = tmp_path / "runs" / suite.runs[0].run_id / "metrics.jsonl"
    path.write_text('{"env_steps": 7, "evaluate_return": NaN}\n')
    loaded = load(FileSource(tmp_path), [run.run_id for run in suite.runs])
    runs, _ = planned_runs(suite, loaded, None)
    out = tmp_path / "out" / "ours.json"
    write_released(out, released_entries(loaded.frame, runs, "evaluate_return"))
    entries = json.loads(out.read_text())  # valid JSON: null, not NaN
    assert entries[0]["xs"] == [7] and entries[0]["ys"] == [None]
    assert all(entry["synthetic"] for entry in entries)
    curves = read_curves(out)
    assert set(curves["task"]) == {"walker_walk", "toy_dot"}
    for run in suite.runs[1:]:
        mine = loaded.frame[
            (loaded.frame["run_id"] == run.run_id) & (loaded.frame["metric"] == "evaluate_return")
        ]
        back = curves[
            (curves["task"] == run.config["task"]) & (curves["seed"] == str(run.config["seed"]))
        ]
        np.testing.assert_array_equal(back["env_steps"], mine["env_steps"])
        np.testing.assert_array_equal(back["episode_return"], mine["value"])


@pytest.mark.skipif(not RELEASED, reason="DREAMER_TEST_RELEASED_CURVES names no file")
def test_released_curves_agree_with_the_shipped_scores():
    """scores.csv holds the point just after each round number of env_steps."""
    curves = read_curves(Path(RELEASED))
    table = reference_statistics(curves, "sd").set_index(["task", "env_steps"])
    scores = published_scores()
    for row in scores[(scores["method"] == "dreamer") & (scores["env_steps"] <= 2e6)].itertuples():
        point = table.loc[(row.task, row.env_steps + 5000)]
        assert point["mean"] == pytest.approx(row.score_mean, abs=0.051)
        assert point["sd"] == pytest.approx(row.score_sd, abs=0.051)
        assert point["n"] == row.seeds
