"""A suite's numbers: known records give known statistics, and whatever is left out is named."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from helpers import suite_file, write_scores

from analysis import synthetic
from analysis.count.methods import STYLES, styles, with_methods
from analysis.count.published import CONTROL_TASKS, PUBLISHED, TASKS_18, baselines, published_scores
from analysis.count.summary import summarise
from analysis.draw import tables
from analysis.read.files import FileSource
from analysis.read.frame import load_suite
from suites.language.suite import expand

SUITE = """
preset: tiny
env_steps: 1e4
eval_every_env_steps: 1000
seeds: 3
grid:
  task: [cartpole_balance, hopper_hop]
  behaviour: [dreamer, planet]
"""


def make(tmp_path, text=SUITE):
    """An expanded suite; records are written by `write` below."""
    return expand(suite_file(tmp_path, text, "mini"))


def value_of(run):
    """A run's score, different for each task, method and seed."""
    task = {"cartpole_balance": 400, "hopper_hop": 100}[run.config["task"]]
    method = {"dreamer": 300, "planet": 0}[run.config["behaviour"]]
    return task + method + 10 * run.config["seed"]


def write(results, runs, value=value_of, **options):
    for run in runs:
        write_scores(results, run, value(run), **options)


def summary_of(suite, results, **options):
    """`published` replaces the suite's; the other options are those of `summarise`."""
    suite = suite._replace(published=options.pop("published", suite.published))
    return summarise(*load_suite(FileSource(results), suite), **options)


def test_scores_and_averages_of_known_records(tmp_path):
    suite = make(tmp_path)
    write(tmp_path, suite.runs)
    summary = summary_of(suite, tmp_path)
    scores = summary.scores.set_index(["task", "method"])
    row = scores.loc[("cartpole_balance", "dreamer/reconstruction")]
    assert (row["mean"], row["sd"], row["n"], row["n_expected"]) == (710, 10, 3, 3)
    assert (row["low"], row["high"]) == (700, 720)
    assert row["se"] == pytest.approx(10 / math.sqrt(3))
    mean = summary.aggregates.set_index(["method", "statistic"])["value"]
    assert mean["dreamer/reconstruction", "mean"] == pytest.approx((0.71 + 0.41) / 2)
    assert mean["planet/reconstruction", "mean"] == pytest.approx((0.41 + 0.11) / 2)
    assert summary.improvements["value"].tolist() == [1.0]
    assert summary.problems == []
    assert list(summary.styles) == ["dreamer/reconstruction", "planet/reconstruction"]
    progress = summary.progress.set_index("run_id")
    first = suite.runs[0]
    assert progress.at[first.run_id, "area_under_curve"] == value_of(first)


def test_curves_name_the_runs_attempts_and_versions_behind_each_point(tmp_path):
    suite = make(tmp_path)
    write(tmp_path, suite.runs)
    curves = summary_of(suite, tmp_path).curves
    assert len(curves) == 2 * 2 * 10
    dreamer = [run.run_id for run in suite.runs if run.config["behaviour"] == "dreamer"]
    row = curves[(curves["task"] == "hopper_hop") & (curves["method"] == "dreamer/reconstruction")]
    row = row.iloc[0]
    assert row["env_steps"] == 1000
    assert row["run_ids"].split(";") == sorted(r for r in dreamer if r.startswith("hopper"))
    assert row["attempts"] == "1;1;1"
    assert row["commits"] == "0123456789ab;0123456789ab;0123456789ab"


def test_missing_and_short_runs_are_listed_and_not_averaged(tmp_path):
    suite = make(tmp_path)
    dreamer = [r for r in suite.runs if r.config["behaviour"] == "dreamer"]
    cartpole = [r for r in dreamer if r.config["task"] == "cartpole_balance"]
    hopper = [r for r in dreamer if r.config["task"] == "hopper_hop"]
    write(tmp_path, [cartpole[0], *hopper])
    write(tmp_path, [cartpole[1]], until=4000, status="FAILED")
    summary = summary_of(suite, tmp_path)
    row = summary.scores.set_index(["task", "method"]).loc[
        ("cartpole_balance", "dreamer/reconstruction")
    ]
    assert (row["mean"], row["n"], row["n_expected"]) == (700, 1, 3)  # seed 0 alone is complete
    assert row["run_ids"] == cartpole[0].run_id
    text = "\n".join(summary.problems)
    assert "short: cartpole_balance, dreamer/reconstruction, seed 1, at 4,000 env_steps" in text
    assert "missing: cartpole_balance, dreamer/reconstruction, seed 2" in text
    assert "missing: hopper_hop, planet/reconstruction, seed 0, 1, 2" in text
    curve = summary.curves[summary.curves["task"] == "cartpole_balance"].set_index("env_steps")
    assert curve.loc[4000, "n"] == 2 and curve.loc[5000, "n"] == 1
    assert set(curve["n_expected"]) == {3}


def test_without_a_complete_run_all_count_where_all_have_been(tmp_path):
    suite = make(tmp_path)
    runs = [r for r in suite.runs if r.config["behaviour"] == "dreamer"]
    for run, end in zip(runs[:3], (3000, 5000, 7000), strict=True):
        write(tmp_path, [run], until=end, status="RUNNING")
    row = summary_of(suite, tmp_path).scores.iloc[0]
    assert bool(row["partial"]) and row["at"] == 3000 and row["n"] == 3
    cells = tables.score_cells(summary_of(suite, tmp_path))
    assert "†3k" in cells.rows[0][1].text
    assert any("†" in note for note in cells.notes)


def test_averages_are_over_the_tasks_that_all_methods_have(tmp_path):
    text = SUITE.replace("hopper_hop]", "hopper_hop, walker_run]")
    suite = make(tmp_path, text)
    write(
        tmp_path,
        [r for r in suite.runs if r.config["task"] != "walker_run"]
        + [r for r in suite.runs if r.config["behaviour"] == "dreamer"],
        value=lambda run: 500,
    )
    summary = summary_of(suite, tmp_path)
    assert set(summary.aggregates["tasks"]) == {2}
    assert any("averages are over 2 of 3 tasks" in line for line in summary.problems)


def test_a_score_that_is_no_number_is_not_averaged_away(tmp_path):
    suite = make(tmp_path)
    write(tmp_path, suite.runs)
    write(tmp_path, suite.runs[:1], value=lambda run: None)
    summary = summary_of(suite, tmp_path)
    row = summary.scores.iloc[0]
    assert (row["n"], row["n_expected"]) == (2, 3)
    assert any("10 values of evaluate_return are not numbers" in p for p in summary.problems)
    assert "(n=2)" in tables.markdown(tables.score_cells(summary))


def test_until_ends_everything_earlier(tmp_path):
    suite = make(tmp_path)
    write(tmp_path, suite.runs, until=6000, status="RUNNING")
    summary = summary_of(suite, tmp_path, until=5000)
    assert summary.curves["env_steps"].max() == 5000
    assert set(summary.runs["state"]) == {"complete"}
    assert set(summary.scores["at"]) == {5000}


def test_mixed_presets_are_kept_apart(tmp_path):
    text = """
seeds: 2
env_steps: 10000
grid:
  task: cartpole_balance
  preset: [tiny, small]
"""
    suite = make(tmp_path, text)
    write(tmp_path, suite.runs)
    summary = summary_of(suite, tmp_path)
    assert list(summary.styles) == [
        "dreamer/reconstruction preset=small", "dreamer/reconstruction preset=tiny",
    ]  # fmt: skip
    assert set(summary.scores["n"]) == {2}
    assert any("presets small, tiny are mixed" in line for line in summary.problems)


def test_one_preset_per_task_is_no_mixture(tmp_path):
    text = """
seeds: 1
zip: {task: [toy_dot, cartpole_balance], preset: [tiny, small], env_steps: [9000, 8000]}
"""
    suite = make(tmp_path, text)
    write(tmp_path, suite.runs, value=lambda run: 1)
    summary = summary_of(suite, tmp_path)
    assert list(summary.styles) == ["dreamer/reconstruction"]
    assert summary.problems == []
    assert summary.aggregates.empty  # a toy has no normalised score


def test_settings_that_differ_make_methods(tmp_path):
    suite = make(tmp_path, SUITE + "  horizon: [10, 20]\n")
    write(tmp_path, suite.runs)
    summary = summary_of(suite, tmp_path)
    assert "dreamer/reconstruction horizon=10" in summary.styles
    assert len({(s.colour, str(s.line)) for s in summary.styles.values()}) == len(summary.styles)


def test_the_setting_on_the_x_axis_makes_no_methods(tmp_path):
    text = """
preset: tiny
env_steps: 1e4
eval_every_env_steps: 1000
seeds: 2
x: {setting: horizon, planet: planner_horizon}
grid:
  - {task: cartpole_balance, behaviour: dreamer, horizon: [5, 10]}
  - {task: cartpole_balance, behaviour: planet, planner_horizon: [5, 10]}
"""
    suite = make(tmp_path, text)
    write(tmp_path, suite.runs)
    summary = summary_of(suite, tmp_path)
    assert list(summary.styles) == ["dreamer/reconstruction", "planet/reconstruction"]
    assert summary.scores["x"].tolist() == [5, 10, 5, 10]
    assert set(summary.scores["n"]) == {2}


def test_several_versions_of_the_code_are_named(tmp_path):
    suite = make(tmp_path)
    write(tmp_path, suite.runs)
    synthetic.write_run(tmp_path, suite.runs[0].run_id, suite.runs[0].config, commit="fedcba987654")
    problems = summary_of(suite, tmp_path).problems
    line = "several versions of the code: 0123456789ab (11 runs), fedcba987654 (1 run)"
    assert line in problems


def test_evaluations_at_different_env_steps_are_binned(tmp_path):
    """Episodes of different lengths: no two seeds evaluate at the same env_steps."""
    suite = make(tmp_path)
    write(tmp_path, suite.runs)
    for run in suite.runs:
        path = tmp_path / "runs" / run.run_id / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["env_steps"] -= run.config["seed"] * 7
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = summary_of(suite, tmp_path).curves
    assert set(curves["n"]) == {3}
    assert sorted(set(curves["env_steps"])) == list(range(1000, 10001, 1000))


# --- tables ----------------------------------------------------------------------------------


def test_tables_mark_the_best_and_say_what_they_show(tmp_path):
    suite = make(tmp_path)
    write(tmp_path, suite.runs)
    table = tables.score_cells(summary_of(suite, tmp_path, published=("d4pg",)))
    text = tables.markdown(table)
    row = "| Cartpole Balance | **710 ± 10 [685, 735]** | 410 ± 10 [385, 435] | 993 |"
    assert row in text and "its evaluations in the last 1e5" in text and "(1 of them)" in text
    assert "Mean of 2 tasks" in text and "18 tasks (no quadruped)" in text
    assert "SYNTHETIC" in text
    tex = tables.latex(table)
    assert r"\textbf{710 $\pm$ 10 [685, 735]} & 410 $\pm$ 10 [385, 435] & 993 \\" in tex
    body = [line for line in tex.splitlines() if not line.startswith("%")]
    assert all("±" not in line and "_" not in line for line in body)


def test_average_beside_d4pg_is_over_its_18_tasks(tmp_path):
    suite = make(tmp_path, SUITE.replace("hopper_hop]", "hopper_hop, quadruped_run]"))
    write(tmp_path, suite.runs, value=lambda r: 900 if r.config["task"] == "quadruped_run" else 100)
    rows = tables.score_cells(summary_of(suite, tmp_path, published=("d4pg", "a3c"))).rows
    last = [[cell.text for cell in row] for row in rows[-2:]]
    assert last[0][0] == "Mean of 3 tasks" and last[0][3:] == ["–", "–"]
    assert last[1][0] == "Mean of 2 without quadruped"
    assert last[1][1].startswith("100") and last[1][3] == f"{(992.8 + 242.0) / 2:.0f}"


# --- methods and published numbers -----------------------------------------------------------


def test_a_method_looks_the_same_in_every_company():
    alone = {method: styles([method])[method] for method in STYLES}
    together = styles(list(STYLES))
    for method in STYLES:
        assert together[method][1:] == alone[method][1:]
    looks = [(style.colour, style.marker) for style in STYLES.values()]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 9


def test_variants_that_nobody_knows_get_a_label_and_a_colour():
    found = styles(["my_way/reconstruction", "dreamer/my_loss", "dreamer/reconstruction"])
    assert [style.label for style in found.values()] == ["Dreamer", "My way", "My loss"]
    assert len({style.colour for style in found.values()}) == 3
    alone = styles(["dreamer/reconstruction", "dreamer/my_loss"])
    assert [style.label for style in alone.values()] == ["Reconstruction", "My loss"]


def test_methods_need_no_order(tmp_path):
    runs = summary_runs(tmp_path)
    shuffled = runs.sample(frac=1, random_state=0)
    one = with_methods(runs)[0].set_index("run_id")["method"]
    two = with_methods(shuffled)[0].set_index("run_id")["method"]
    assert one.sort_index().equals(two.sort_index())


def summary_runs(tmp_path):
    suite = make(tmp_path)
    write(tmp_path, suite.runs)
    return summary_of(suite, tmp_path).runs.drop(columns="method")


def test_published_numbers_are_what_the_papers_state():
    rows = baselines(("d4pg", "a3c", "slac", "planet"))
    counts = rows["method"].value_counts().to_dict()
    assert counts == {"d4pg": 18, "a3c": 18, "planet": 6, "slac": 4}
    for method, mean in (("d4pg", 786), ("a3c", 243.7)):
        mine = rows[rows["method"] == method]
        assert set(mine["task"]) == set(TASKS_18)
        assert mine["score_mean"].mean() == pytest.approx(mean, abs=0.5)
    scores = published_scores()
    dreamer = scores[scores["method"] == "dreamer"]
    averages = pd.read_csv(PUBLISHED / "averages.csv")
    computed = averages[averages["source"].str.startswith("computed from scores.csv")]
    assert len(computed) == 4
    for row in computed.itertuples():
        here = scores[(scores["method"] == row.method) & (scores["env_steps"] == row.env_steps)]
        assert len(here) == row.tasks
        assert here["score_mean"].mean() == pytest.approx(row.score_mean, abs=0.05)
    assert set(dreamer["task"]) == set(CONTROL_TASKS)
    assert np.isfinite(scores["score_mean"]).all() and scores["source"].notna().all()


def test_numbers_of_settings_are_sorted_as_numbers():
    values = ["0.0001", "3e-05", "1e-3", "20", "3", "-1", "slow"]
    found = styles([f"dreamer/reconstruction actor_learning_rate={value}" for value in values])
    order = [method.split("=")[1] for method in found]
    assert order == ["-1", "3e-05", "0.0001", "1e-3", "3", "20", "slow"]
