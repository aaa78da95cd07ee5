"""The verdict: cases worked by hand, and the whole path from run folders to JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import suite_file, write_scores
from scipy import stats

from analysis import reproduction
from analysis.count import verdict as judging
from analysis.count.estimates import Sample, sample
from analysis.count.published import CONTROL_TASKS, published_scores, random_scores
from analysis.count.verdict import Compared, judge
from suites.language.suite import expand

SUITE = """
preset: small
env_steps: 100000
seeds: 3
grid: {task: [cartpole_balance, pendulum_swingup, hopper_hop, toy_dot]}
"""


def compared(ours, theirs, random=0.0, margin=100.0, task="t"):
    learned = theirs.mean - random
    return Compared(
        task, 1, "1", ours, theirs, learned, judging.margin_of(margin, learned), run_ids=[]
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        (Sample(500, 20, 3), Sample(510, 20, 5), "reproduced"),
        (Sample(500, 1, 3), Sample(560, 1, 5), "reproduced"),  # different, but not by much
        (Sample(300, 20, 3), Sample(510, 20, 5), "below"),
        (Sample(700, 20, 3), Sample(510, 20, 5), "above"),
        (Sample(300, 200, 3), Sample(510, 20, 5), "cannot tell yet"),  # large, but uncertain
        (Sample(500, 150, 3), Sample(510, 20, 5), "cannot tell yet"),  # close, but uncertain
        (Sample(430, 20, 3), Sample(510, 20, 5), "cannot tell yet"),  # its interval includes -100
        (Sample(500, math.nan, 1), Sample(510, 20, 5), "cannot tell yet"),
        (Sample(500, 20, 3), Sample(510, math.nan, 1), "cannot tell yet"),
    ],
)
def test_cases(ours, theirs, word):
    (found,) = judge([compared(ours, theirs)])
    assert found.verdict == word
    low, high = found.interval_90
    assert (found.verdict == "reproduced") == (low > -100 and high < 100)


def test_a_worse_agent_is_hardly_ever_reproduced():
    """At the margin at most 5 of 100 times; well inside of it, and with enough seeds, often."""
    generator = np.random.default_rng(0)

    def share(shift, sd, n):
        found = [
            judge([
                compared(
                    sample(generator.normal(500 - shift, sd, n)),
                    sample(generator.normal(500, sd, 5)),
                )
            ])[0].verdict
            for _ in range(1000)
        ]  # fmt: skip
        return found.count("reproduced") / 1000

    assert share(100, 60, 5) <= 0.065
    assert share(150, 60, 5) <= 0.01
    assert share(0, 30, 5) >= 0.9


def test_false_alarms_are_rare_over_20_tasks_together():
    """Without a difference: `below` or `above` on any of 20 tasks in at most 5 of 100 suites."""
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(300):
        found = judge([
            compared(
                sample(generator.normal(500, 250, 3)), sample(generator.normal(500, 250, 5))
            )
            for _ in range(20)
        ])  # fmt: skip
        alarms += any(one.verdict in ("below", "above") for one in found)
    assert alarms / 300 <= 0.07


def test_more_tasks_need_more_evidence():
    pair = Sample(500, 70, 4), Sample(500, 40, 10)
    (alone,) = judge([compared(*pair)])
    among = judge([compared(*pair)] * 20)
    assert alone.verdict == "reproduced"
    assert {one.verdict for one in among} == {"cannot tell yet"}
    assert among[0].p_equivalent == pytest.approx(min(1, 20 * alone.p_equivalent))
    assert among[0].seeds_needed > alone.seeds_needed
    assert among[0].reason == f"about {among[0].seeds_needed} seeds would decide"


def test_where_little_is_learned_nothing_is_reproduced():
    same = Sample(360, 5, 5)
    assert judge([compared(same, same, random=336)])[0].verdict == "cannot tell yet"
    assert "only 24 above random" in judge([compared(same, same, random=336)])[0].reason
    assert judge([compared(same, same, random=0)])[0].verdict == "reproduced"


@pytest.mark.parametrize("learned", [20, 101, 150, 250, 900])
def test_random_actions_reproduce_nothing(learned):
    (found,) = judge([compared(Sample(50, 1, 5), Sample(50 + learned, 1, 5), random=50)])
    assert found.verdict != "reproduced"


def test_random_scores_are_those_of_the_20_tasks():
    found = random_scores()
    assert set(found) == set(CONTROL_TASKS)
    assert 300 < found["cartpole_balance"] < 400 and found["pendulum_swingup"] < 50
    assert all(0 <= score < 500 for score in found.values())


def test_an_agent_that_scores_0_everywhere_is_reproduced_nowhere():
    scores = published_scores()
    scores = scores[(scores["method"] == "dreamer") & (scores["env_steps"] == 100_000)]
    tasks = [
        compared(Sample(0, 0, 5), Sample(r.score_mean, r.score_sd, r.seeds),
                 random=random_scores()[r.task], task=r.task)
        for r in scores.itertuples()
    ]  # fmt: skip
    assert len(tasks) == 20
    assert "reproduced" not in {one.verdict for one in judge(tasks)}


def test_overall_begins_with_the_mean_difference():
    found = judge([
        compared(Sample(500, 20, 3), Sample(510, 20, 5)),
        compared(Sample(300, 20, 3), Sample(510, 20, 5)),
        compared(Sample(300, math.nan, 1), Sample(510, 20, 5)),
    ])  # fmt: skip
    result = judging.overall(found)
    counts = [result[key] for key in ("tasks", "reproduced", "below", "compared")]
    assert counts == [3, 1, 1, 2]
    assert result["mean_difference"] == pytest.approx(-110)
    half = 110 + result["low"]
    freedom = (2 * 400 / 3 + 2 * 400 / 5) ** 2 / (
        2 * (400 / 3) ** 2 / 2 + 2 * (400 / 5) ** 2 / 4
    )  # Satterthwaite's, of four means
    se = (2 * 400 / 3 + 2 * 400 / 5) ** 0.5 / 2
    assert -half == pytest.approx(stats.t.ppf(0.975, freedom) * se)
    assert result["statement"].startswith("Mean difference over 2 tasks: -110 points [")
    assert result["statement"].endswith("Of 3 tasks: 1 reproduced, 1 below, 1 cannot tell yet.")


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
    assert tasks["cartpole_balance"]["evaluations"] == "10"  # every 1000 in a tenth of 1e5
    assert tasks["cartpole_balance"]["margin"] == pytest.approx((472.3 - 335.9) / 2)
    assert tasks["hopper_hop"]["verdict"] == "cannot tell yet"
    assert tasks["toy_dot"]["verdict"] == "no released score"
    assert tasks["toy_dot"]["reason"] == "the task is not one of the released ones"
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
