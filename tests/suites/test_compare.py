"""`suites.compare`, from run folders to the answer, and its numbers against scipy."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from helpers import suite_file, write_scores
from scipy import stats

from suites import compare
from suites.language.suite import expand

SUITE = """
preset: small
env_steps: 1e5
seeds: 3
grid: {task: [cartpole_balance, hopper_hop], behaviour: [dreamer, planet]}
"""
ONE = """
preset: small
env_steps: 1e5
seeds: 3
grid: {task: [cartpole_balance, hopper_hop], horizon: 10}
"""


def value_of(run):
    level = {"dreamer": 300, "planet": 0}[run.config["behaviour"]]
    return level + {"cartpole_balance": 400, "hopper_hop": 100}[run.config["task"]] + (
        10 * run.config["seed"] + (5 if run.config["horizon"] == 10 else 0)
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    for name, text in (("both", SUITE), ("short", ONE)):
        for run in expand(suite_file(folder, text, name)).runs:
            write_scores(folder, run, value_of(run))
    text = SUITE.replace("behaviour: [dreamer, planet]", "behaviour: dreamer")
    suite_file(folder, text, "dreamer")
    suite_file(folder, ONE.replace("[cartpole_balance, hopper_hop]", "walker_run"), "walker")
    return folder


def run(capsys, results, *words):
    words = [str(results / word) if word.endswith(".yaml") else word for word in words]
    code = compare.main([*words, "--results", str(results)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_two_methods_of_one_suite(results, capsys):
    code, out, _ = run(capsys, results, "both.yaml", "--format", "json")
    assert code == 0
    found = json.loads(out)
    assert (found["first"], found["second"]) == ("Dreamer", "PlaNet")
    assert found["outcome"] == "Dreamer is better"
    cartpole, hopper, mean = found["rows"]
    assert (cartpole["task"], hopper["task"], mean["task"]) == (
        "cartpole_balance", "hopper_hop", "mean",
    )  # fmt: skip
    a, b = np.array([700, 710, 720]), np.array([400, 410, 420])
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    low, high = pytest.approx(interval.low), pytest.approx(interval.high)
    assert (cartpole["difference"], cartpole["low"], cartpole["high"]) == (300, low, high)
    assert cartpole["p"] == pytest.approx(2 * expected.pvalue)  # Holm, of two equal ones
    half = stats.t.ppf(0.975, 8) * (4 * 100 / 3) ** 0.5 / 2
    assert (mean["difference"], mean["low"]) == (300, pytest.approx(300 - half))
    assert found["probability_of_improvement"]["value"] == 1
    assert 0.3 < found["probability_of_improvement"]["low"] < 0.9
    assert found["settings"]["behaviour"] == ["dreamer", "planet"]
    assert found["synthetic"] is True


def test_two_suites_as_text_with_a_figure(results, capsys):
    code, out, _ = run(capsys, results, "dreamer.yaml", "short.yaml")
    assert code == 0
    assert out.startswith("SYNTHETIC DATA")
    assert "Dreamer (dreamer) minus Dreamer (short). cannot tell yet" in out
    assert "Settings that differ: horizon 15 / 10" in out
    assert "cartpole_balance" in out and "710 ± 10 (n=3)" in out and "715 ± 10 (n=3)" in out
    path = results / "figures" / "compare" / "Dreamer_dreamer_-Dreamer_short"
    table = pd.read_csv(path.with_suffix(".csv"))
    assert table["difference"].tolist() == [-5, -5, -5]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert f"figure: {path}.png" in out


def test_as_many_seeds_as_it_says_are_needed(results, capsys):
    _, out, _ = run(capsys, results, "dreamer.yaml", "short.yaml", "--format", "json")
    needed = json.loads(out)["rows"][0]["seeds_needed"]
    generator, told = np.random.default_rng(0), 0
    for _ in range(400):
        a, b = generator.normal(0, 10, needed), generator.normal(5, 10, needed)
        told += stats.ttest_ind(a, b, equal_var=False).pvalue <= 0.05
    assert 0.74 <= told / 400 <= 0.88


def test_one_seed_is_not_enough(results, capsys):
    words = ["both.yaml", "--only", "seed=0", "--format", "json"]
    code, out, _ = run(capsys, results, *words)
    found = json.loads(out)
    assert code == 0 and found["outcome"] == "cannot tell yet"
    assert [row["low"] for row in found["rows"]] == [None, None]


def test_the_longer_runs_are_compared_where_the_shorter_end(results, capsys):
    text = ONE.replace("horizon: 10", "horizon: 20").replace("1e5", "2e5")
    for one in expand(suite_file(results, text, "longer")).runs:
        write_scores(results, one, 600, until=150_000, status="RUNNING")
    _, out, _ = run(capsys, results, "short.yaml", "longer.yaml", "--format", "json")
    assert [row["env_steps"] for row in json.loads(out)["rows"][:2]] == [100_000, 100_000]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.yaml"], "none.yaml"),
        (["both.yaml", "short.yaml"], "both has 2 methods"),
        (["dreamer.yaml"], "dreamer has 1 method"),
        (["both.yaml", "--methods", "dreamer", "plane"], "did you mean 'planet'"),
        (["both.yaml", "--methods", "dreamer", "Dreamer"], "the same runs"),
        (["dreamer.yaml", "dreamer.yaml"], "the same runs"),
        (["both.yaml", "short.yaml", "dreamer.yaml"], "3 suites"),
        (["dreamer.yaml", "walker.yaml"], "no final scores of walker"),
        (["both.yaml", "--only", "task=cheetah_run"], "leave no run"),
        (["both.yaml", "--methods", "dreamer"], "--methods"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(results, capsys, words, message):
    code, _, err = run(capsys, results, *words)
    assert code == 2
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
