"""A suite's YAML says what its figures show: `figures`, `x`, `scale`; its name says nothing."""

from __future__ import annotations

import pytest
from helpers import suite_file, write_scores

from analysis import commands
from analysis.draw import suite as drawing
from analysis.read.files import FileSource
from dreamer.errors import UserError
from suites.language import figures
from suites.language.axes import TASK_SETS
from suites.language.suite import expand

TOYS = """
preset: tiny
env_steps: 4000
eval_every_env_steps: 1000
seeds: 3
grid:
  task: [toy_dot, toy_end]
  behaviour: [dreamer, planet]
"""


def suite_of(tmp_path, text, name="mine"):
    return expand(suite_file(tmp_path, text, name))


def made(tmp_path, text):
    """The suite drawn from records whose scores are 10, 20, 30 for seeds 0, 1, 2; twice as much for
    toy_end, 10 more for Dreamer."""
    suite = suite_of(tmp_path, text)
    for run in suite.runs:
        config = run.config
        value = 10 * (1 + config["seed"]) * (1 + (config["task"] == "toy_end"))
        value += 10 * (config["behaviour"] == "dreamer")
        write_scores(tmp_path, run, value)
    options = commands.figure_options(["--results", str(tmp_path)])
    section, _ = commands.make_suite(suite, FileSource(tmp_path), options, None)
    return section.summary, {one.name: one for one in section.drawn}


def test_every_name_has_a_figure():
    assert tuple(drawing.FIGURES) == figures.FIGURES


def test_the_control_scale_has_the_paper_s_tasks():
    assert set(figures.scales()["control"]) == set(TASK_SETS["control_suite"])
    assert figures.named_scale("control").range_of("walker_walk") == (0, 1000)


def test_keys_change_no_run(tmp_path):
    plain = suite_of(tmp_path, TOYS).runs
    keys = "figures: [bars]\nx: horizon\nscale: [0, 60]\n"
    assert suite_of(tmp_path, keys + TOYS).runs == plain


def test_an_own_suite_gets_bars_by_a_line(tmp_path):
    summary, drawn = made(tmp_path, "figures: bars\n" + TOYS)
    assert list(drawn) == ["bars"]
    [axes] = drawn["bars"].figure.axes
    assert len(axes.patches) == 4 and axes.get_ylabel() == "Score"
    assert max(bar.get_height() for bar in axes.patches) == 50  # toy_end, Dreamer
    assert summary.averages.empty  # the toys are on no scale


def test_averages_are_on_the_suite_s_scale(tmp_path):
    summary, drawn = made(tmp_path, "figures: [aggregates, bars]\nscale: [0, 200]\n" + TOYS)
    mean = summary.aggregates.set_index(["method", "statistic"])["value"]
    assert mean["planet/reconstruction", "mean"] == pytest.approx((20 + 40) / 2 / 200)
    averages = summary.averages.set_index("method")["mean"]
    assert averages["dreamer/reconstruction"] == pytest.approx((30 + 50) / 2)
    assert drawn["bars"].figure.axes[0].get_ylim() == pytest.approx((0, 212))
    assert "lowest" in drawn["aggregates"].figure.axes[0].get_xlabel()


def test_tasks_with_different_ranges_share_bars_in_percent(tmp_path):
    scale = "scale: {toy_dot: [0, 40], toy_end: [0, 80]}\n"
    _, drawn = made(tmp_path, "figures: [curves, bars]\n" + scale + TOYS)
    [axes] = drawn["bars"].figure.axes
    assert axes.get_ylabel() == "Score (% of scale)"
    rows = drawn["bars"].data.set_index(["group", "method"])["mean"]
    assert rows["toy_dot", "planet/reconstruction"] == pytest.approx(50)
    assert rows["toy_end", "planet/reconstruction"] == pytest.approx(50)
    assert rows["average_2", "planet/reconstruction"] == pytest.approx(50)
    dot, end = drawn["curves"].figure.axes
    assert (dot.get_ylim()[1], end.get_ylim()[1]) == pytest.approx((41.2, 82.4))


def test_any_number_can_be_on_the_x_axis(tmp_path):
    text = TOYS.replace("behaviour: [dreamer, planet]", "free_nats: [0.5, 1, 3]")
    summary, drawn = made(tmp_path, "x: {setting: free_nats, label: Free bits}\n" + text)
    assert list(summary.styles) == ["dreamer/reconstruction"]
    axes = drawn["sweep"].figure.axes[0]
    assert axes.get_xlabel() == "Free bits"
    assert axes.lines[-1].get_xdata().tolist() == [0.5, 1, 3]
    assert drawn["sweep"].data["free_nats"].tolist() == [0.5, 1, 3] * 2
    assert "| Toy Dot | 0.5 |" in (tmp_path / "figures/mine/scores.md").read_text()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("figures: [bar]", "figures[0]: no figure 'bar'; did you mean 'bars'?"),
        ("figures: []", "figures: an empty list"),
        (
            "published: [d4pg, plant]",
            "published[1]: no published method 'plant'; did you mean 'planet'?",
        ),
        ("figures: [bars, bars]", "figures[1]: 'bars' is given twice"),
        ("figures: [sweep]", "figures: sweep needs a setting on its x-axis: give `x:`"),
        ("x: horizn", "x: no setting 'horizn' with numbers; did you mean 'horizon'?"),
        ("x: task", "x: no setting 'task' with numbers"),
        ("x: {label: Horizon}", "x: which setting? give `setting:`"),
        ("x: {setting: horizon, plannet: horizon}", "x.plannet: no such key; did you mean"),
        ("x: {setting: horizon, planet: horizn}", "x.planet: no setting 'horizn'"),
        ("scale: contrl", "scale: no scale 'contrl'; did you mean 'control'?"),
        ("scale: [1]", "scale: lowest and highest score are expected, not 1 values"),
        ("scale: [5, 1]", "scale: the lowest score comes first, the highest second"),
        ("scale: [0, much]", "scale: a number is expected, not 'much'"),
        ("scale: {toy_dott: [0, 1]}", "scale.toy_dott: no task 'toy_dott'; did you mean"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, keys, words):
    with pytest.raises(UserError) as caught:
        suite_of(tmp_path, keys + TOYS)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/mine.yaml:1: ") and "\n" not in message
    assert words in message
