"""The verdict: cases worked by hand, and the whole path from run folders to JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import suite_file, write_scores

from analysis import reproduction
from analysis.count import statistics
from analysis.count import verdict as judging
from analysis.count.published import published_scores
from analysis.count.verdict import Sample, TaskVerdict, judge
from suites.language.suite import expand

SUITE = """
preset: small
env_steps: 100000
seeds: 3
grid: {task: [cartpole_balance, pendulum_swingup, hopper_hop, toy_dot]}
"""


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        (Sample(500, 20, 3), Sample(510, 20, 5), "reproduced"),
        (Sample(500, 1, 3), Sample(560, 1, 5), "reproduced"),  # surely different, but little
        (Sample(300, 20, 3), Sample(510, 20, 5), "below"),
        (Sample(700, 20, 3), Sample(510, 20, 5), "above"),
        (Sample(300, 200, 3), Sample(510, 20, 5), "too few seeds"),  # large, but not surely
        (Sample(500, 300, 3), Sample(510, 20, 5), "too few seeds"),  # close, but who knows
        (Sample(500, math.nan, 1), Sample(510, 20, 5), "too few seeds"),
        (Sample(500, 20, 3), Sample(510, math.nan, 1), "too few seeds"),
    ],
)
def test_cases(ours, theirs, word):
    assert judge(ours, theirs)[2] == word


def test_at_the_edges_of_the_margin():
    assert judge(Sample(400, 1, 3), Sample(500, 1, 3))[2] == "below"  # exactly the margin
    assert judge(Sample(400.1, 1, 3), Sample(500, 1, 3))[2] == "reproduced"
    assert judge(Sample(400, 1, 3), Sample(500, 1, 3), margin=150)[2] == "reproduced"


def test_false_alarms_are_rare():
    """Two samples of one distribution: `below` and `above` together in at most 5 of 100."""
    generator = np.random.default_rng(0)
    words = [
        judge(
            judging.sample(generator.normal(500, 150, 3)),
            judging.sample(generator.normal(500, 150, 5)),
        )[2]
        for _ in range(2000)
    ]
    assert (words.count("below") + words.count("above")) / 2000 <= 0.06


def verdict(ours, theirs):
    difference, interval, word, reason = judge(ours, theirs)
    return TaskVerdict("t", 1, ours, theirs, difference, interval, word, reason, [])


def test_mean_difference_of_one_task_is_its_welch_interval():
    one = verdict(Sample(500, 20, 3), Sample(520, 30, 5))
    mean, interval = judging.mean_difference([one])
    assert mean == one.difference
    assert tuple(interval) == pytest.approx(tuple(one.interval))


def test_mean_difference_adds_variances_up():
    found = [verdict(Sample(500, s, 4), Sample(400, 2 * s, 4)) for s in (10, 20, 30)]
    mean, interval = judging.mean_difference(found)
    assert mean == 100
    variance = sum((s**2 + 4 * s**2) / 4 for s in (10, 20, 30)) / 9
    half = (interval.high - interval.low) / 2
    assert half > 1.96 * variance**0.5
    assert half < statistics.t_quantile(4) * variance**0.5


def test_overall_counts_and_says_so():
    found = [
        verdict(Sample(500, 20, 3), Sample(510, 20, 5)),
        verdict(Sample(300, 20, 3), Sample(510, 20, 5)),
        verdict(Sample(300, math.nan, 1), Sample(510, 20, 5)),
    ]
    result = judging.overall(found)
    counts = [result[key] for key in ("tasks", "reproduced", "below", "compared")]
    assert counts == [3, 1, 1, 2]
    assert result["mean_difference"] == pytest.approx(-110)
    assert result["statement"].startswith("Of 3 tasks: 1 reproduced, 1 below, 1 too few seeds.")


@pytest.fixture
def results(tmp_path):
    suite = expand(suite_file(tmp_path, SUITE, "mini"))
    scores = published_scores().set_index(["method", "env_steps", "task"])["score_mean"]

    def value(run):
        task, seed = run.config["task"], run.config["seed"]
        if task == "toy_dot":
            return 1
        shift = -300 if task == "pendulum_swingup" else 0
        return float(scores["dreamer", 100_000, "cartpole_balance"] + shift + 2 * seed)

    for run in suite.runs:
        if run.config["task"] != "hopper_hop":
            write_scores(tmp_path, run, value(run))
        elif run.config["seed"] == 0:
            write_scores(tmp_path, run, 5)
    return tmp_path


def run(capsys, *words):
    code = reproduction.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_from_run_folders_to_json(results, capsys):
    code, out, _ = run(capsys, "--suite", results / "mini.yaml", "--results", results, "--json")
    assert code == 0
    report = json.loads(out)
    tasks = {one["task"]: one for one in report["tasks"]}
    assert tasks["cartpole_balance"]["verdict"] == "reproduced"
    assert tasks["cartpole_balance"]["difference"] == pytest.approx(2)
    assert tasks["cartpole_balance"]["ours"] == pytest.approx({"mean": 474.3, "sd": 2, "n": 3})
    assert len(tasks["cartpole_balance"]["run_ids"]) == 3
    assert tasks["hopper_hop"]["verdict"] == "too few seeds"
    assert tasks["toy_dot"]["reason"] == "no released score at so few env_steps"
    assert tasks["toy_dot"]["difference"] is None
    assert report["synthetic"] is True
    assert report["overall"]["tasks"] == 4


def test_with_a_reference_single_seeds_are_compared(results, capsys):
    curves = [
        {"task": "dmc_cartpole_balance", "method": "dreamer", "seed": str(seed),
         "xs": [5000, 105_000, 205_000], "ys": [0, 600 + seed, 900]}
        for seed in range(4)
    ]  # fmt: skip
    curves[3] |= {"xs": [5000], "ys": [0]}  # stopped early: not compared
    (results / "ref.json").write_text(json.dumps(curves))
    words = ("--suite", results / "mini.yaml", "--results", results)
    _, out, _ = run(capsys, *words, "--json", "--reference", results / "ref.json")
    task = {one["task"]: one for one in json.loads(out)["tasks"]}["cartpole_balance"]
    assert task["theirs"] == {"mean": 601, "sd": 1, "n": 3}
    assert task["verdict"] == "below"
    _, out, _ = run(capsys, *words, "--reference", results / "ref.json")
    assert "cartpole_balance" in out and "earlier hyper-parameter setting" in out
    assert "SYNTHETIC" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "none.yaml"], "none.yaml"),
        (["--suite", "{mini}", "--results", "nowhere"], "no such results folder"),
        (["--suite", "{mini}", "--margin", "0"], "--margin"),
        (["--suite", "{mini}", "--reference", "none.json"], "none.json"),
        (["--suite", "{mini}", "--method", "dreamer/x"], "no runs of dreamer/x"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(results, capsys, words, message):
    words = [word.replace("{mini}", str(results / "mini.yaml")) for word in words]
    if "--results" not in words:
        words += ["--results", str(results)]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_json_has_null_for_numbers_that_do_not_exist(results, capsys):
    _, out, _ = run(capsys, "--suite", results / "mini.yaml", "--results", results, "--json")
    assert "NaN" not in out
