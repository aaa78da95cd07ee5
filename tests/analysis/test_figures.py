"""Figures: every kind is complete, honest and laid out alike; how the command behaves."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, small_disk, suite_file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import Patch
from PIL import Image

from analysis import commands, make_figures, redraw, reproduction, synthetic
from analysis.count.methods import STYLES, Style, settings_of, styles, with_methods
from analysis.count.published import CONTROL_TASKS
from analysis.count.summary import summarise
from analysis.draw import lines
from analysis.draw.images import error_image
from analysis.draw.page import finish
from analysis.draw.suite import single_runs
from analysis.read import predictions
from analysis.read.files import FileSource
from analysis.read.frame import load_suite
from slurm import doctor
from suites import audit, cancel, clean, run, status
from suites.language.figures import named_scale
from suites.language.suite import expand

CONTROL = named_scale("control")

GRID = """
preset: tiny
env_steps: 1e4
eval_every_env_steps: 1000
seeds: 3
published: [d4pg, a3c, slac]
grid:
  task: [cartpole_balance, hopper_hop, quadruped_run]
  behaviour: [dreamer, planet]
"""
PRESET = "preset: tiny\nenv_steps: 1e4\neval_every_env_steps: 1000\n"
SUITES = {
    "horizons": """
preset: tiny
env_steps: 1e4
eval_every_env_steps: 1000
seeds: 2
x: {setting: horizon, planet: planner_horizon, label: Imagination horizon}
grid:
  - {task: cartpole_balance, behaviour: [dreamer, no_value], horizon: [5, 10, 15]}
  - {task: cartpole_balance, behaviour: planet, planner_horizon: [5, 10, 15]}
""",
    "predicted": PRESET + "seeds: 1\ngrid: {task: [cup_catch, walker_walk]}\n"
    "figures: [curves, strips, predictions, observations]\n",
    "barred": "figures: [bars, aggregates, curves, strips, observations]\n" + GRID,
    "figure9": GRID.replace("[dreamer, planet]", "[dreamer, no_value, planet]"),
    "figure10": GRID.replace(
        "behaviour: [dreamer, planet]", "representation: [reconstruction, contrastive, reward]"
    ),
    "figure11": GRID.replace("behaviour: [dreamer, planet]", "action_repeat: [1, 2, 4]"),
    "zipped": PRESET + "seeds: 2\nzip: {representation: [reconstruction, contrastive, reward], "
    "free_nats: [3.0, 1.0, 0.5]}\ngrid: {task: [cup_catch, toy_dot]}\n",
    "two_axes": PRESET + "seeds: 2\nfigures: [curves, heatmap, aggregates]\n"
    "grid: {task: [cup_catch, hopper_hop], horizon: [5, 10, 15], free_nats: [1.0, 3.0]}\n",
    "discrete": PRESET + "seeds: 2\ngrid: {task: ['atari:pong', 'atari:boxing']}\n",
    "plain": PRESET + "seeds: 1\ngrid: {task: [toy_dot]}\n",
}
DRAWN = {
    "horizons": {"sweep"},
    "predicted": {"curves", "predictions", "observations"},
    "barred": {"bars", "aggregates", "curves", "observations"},
    "figure9": {"aggregates", "curves", "observations"},
    "figure10": {"aggregates", "curves", "observations"},
    "figure11": {"aggregates", "curves", "observations"},
    "zipped": {"curves", "observations"},
    "two_axes": {"curves", "heatmap", "aggregates"},
    "discrete": {"curves", "observations"},
    "plain": {"curves"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every kind of suite from synthetic records: {name: (Summary, [Drawn])}, and the folder."""
    folder = tmp_path_factory.mktemp("figures")
    paths = [suite_file(folder, text, name) for name, text in SUITES.items()]
    synthetic.write_suites(folder / "results", paths)
    results = {}
    drawn = {}
    options = commands.figure_options(["--results", str(folder / "results")])
    source = FileSource(options.results)
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a layout that does not fit warns
            section, _ = commands.make_suite(expand(path), source, options, None)
        results[path.stem] = section.summary
        drawn[path.stem] = {one.name: one for one in section.drawn}
    return folder, results, drawn


@pytest.mark.parametrize("name", SUITES)
def test_each_suite_gets_its_figures(made, name):
    folder, _, drawn = made
    names = {one for one in drawn[name] if not one.startswith("prediction-")}
    assert names == DRAWN[name]
    assert any(one.startswith("prediction-") for one in drawn[name]) != (name == "two_axes")
    out = folder / "results" / "figures" / name
    for one in drawn[name].values():
        assert (out / f"{one.name}.png").stat().st_size > 5000
        assert (out / f"{one.name}.pdf").exists() == one.pdf
        with Image.open(out / f"{one.name}.png") as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    for table in ("scores.csv", "scores.md", "scores.tex", "runs.csv", "problems.txt"):
        assert (out / table).exists()
    assert not list(out.glob("*.tmp*"))


@pytest.mark.parametrize("name", SUITES)
def test_nothing_is_cut_off_and_no_titles_overlap(made, name):
    """Panels with their labels, texts and legends lie inside the page; titles stay apart."""
    _, _, drawn = made
    for one in drawn[name].values():
        figure = one.figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer, page = canvas.get_renderer(), figure.bbox
        texts = [text for text in figure.texts if text.get_text() != "SYNTHETIC"]
        parts = [part.get_window_extent(renderer) for part in (*texts, *figure.legends)]
        parts += [axes.get_tightbbox(renderer) for axes in figure.axes]
        for box in (part for part in parts if part is not None):
            assert box.x0 >= page.x0 - 1 and box.y0 >= page.y0 - 1, f"{one.name}: {box}"
            assert box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1, f"{one.name}: {box}"
        titles = [a.title.get_window_extent(renderer) for a in figure.axes if a.get_title()]
        for number, a in enumerate(titles):
            assert not any(_overlap(a, b) for b in titles[number + 1 :]), one.name


def _overlap(a, b) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def test_pdf_fonts_are_embedded_truetype(made):
    folder, _, _ = made
    data = (folder / "results" / "figures" / "barred" / "bars.pdf").read_bytes()
    assert b"/FontFile2" in data and b"/Type3" not in data


def test_a_method_has_one_colour_everywhere(made):
    _, _, drawn = made
    for name in ("horizons", "figure9", "barred"):
        for one in drawn[name].values():
            if one.name not in ("curves", "sweep", "bars"):
                continue
            handles = one.figure.legends[0].legend_handles
            colours = {
                handle.get_label(): to_hex(
                    handle.get_facecolor() if isinstance(handle, Patch) else handle.get_color()
                )
                for handle in handles
            }
            assert colours["Dreamer"] == STYLES["dreamer/reconstruction"].colour
            assert colours["PlaNet"] == STYLES["planet/reconstruction"].colour


def test_synthetic_data_say_so_everywhere(made):
    folder, _, drawn = made
    for name, several in drawn.items():
        for one in several.values():
            words = [text.get_text() for text in one.figure.texts]
            assert "SYNTHETIC" in words
            assert any("no agent was trained" in text for text in words)
            assert one.data["synthetic"].all()
        assert "SYNTHETIC" in (folder / "results" / "figures" / name / "scores.md").read_text()


def test_footers_say_what_the_band_is_and_warn_of_published_numbers(made):
    _, _, drawn = made
    footer = _footer(drawn["figure9"]["curves"].figure)
    assert "Mean over 3 seeds per task and method; shade: one standard deviation." in footer
    assert "18 tasks (no quadruped)" in footer and "from states" in footer
    bars = _footer(drawn["barred"]["bars"].figure)
    assert "the last 1e5 env_steps" in bars and "95 % t interval" in bars
    assert "Without quadruped" in bars
    assert "One seed per task and method" in _footer(drawn["plain"]["curves"].figure)
    horizons = _footer(drawn["horizons"]["sweep"].figure)
    assert "shade: one standard deviation" in horizons and "PlaNet: planner horizon" in horizons


def _footer(figure) -> str:
    return max((text.get_text() for text in figure.texts), key=len).replace("\n", " ")


def test_csv_of_a_figure_tells_the_origin_of_every_point(made):
    folder, summaries, _ = made
    table = pd.read_csv(folder / "results" / "figures" / "figure9" / "curves.csv")
    assert len(table) == len(summaries["figure9"].curves)
    for row in table.itertuples():
        assert row.n == len(row.run_ids.split(";")) == 3
        assert row.attempts == "1;1;1"
        assert row.commits == "0123456789ab;0123456789ab;0123456789ab"


def test_the_same_records_give_the_same_bytes(made, tmp_path):
    folder, _, _ = made
    code = make_figures.main(
        ["--suite", str(folder / "plain.yaml"), "--results", str(folder / "results"),
         "--out", str(tmp_path)]
    )  # fmt: skip
    assert code == 0
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (folder / "results/figures/plain" / path.name).read_bytes()


def test_lines_are_drawn_where_the_numbers_are():
    table = pd.DataFrame(
        {"task": "walker_walk", "method": "dreamer/reconstruction", "env_steps": [100, 200, 300],
         "mean": [10.0, 20, 30], "low": [5.0, 15, 25], "high": [15.0, 25, 35], "n": [3, 3, 2],
         "n_expected": 3}
    )  # fmt: skip
    style = {"dreamer/reconstruction": STYLES["dreamer/reconstruction"]}
    axes = lines.draw_lines(table, style, CONTROL).axes[0]
    solid, dotted = axes.lines
    np.testing.assert_array_equal(solid.get_ydata(), [10, 20, np.nan])
    np.testing.assert_array_equal(dotted.get_ydata(), [np.nan, 20, 30])
    assert axes.get_ylim()[1] >= 1000 and axes.get_title() == "Walker Walk"


@pytest.mark.parametrize("points", [11, 100])
def test_lines_on_each_other_show_their_markers_in_turn(points):
    row = {"task": "walker_walk", "mean": 0.0, "low": np.nan, "high": np.nan, "n": 1}
    styles = dict(list(STYLES.items())[:5])
    table = pd.DataFrame(
        [
            {**row, "n_expected": 1, "method": m, "env_steps": x}
            for m in styles
            for x in range(points)
        ]
    )
    drawn = lines.draw_lines(table, styles, CONTROL).axes[0].lines
    markers = [range(points)[first::every] for first, every in (x.get_markevery() for x in drawn)]
    assert len(markers) == 5 and all(len(places) >= 2 for places in markers)
    assert len({x for places in markers for x in places}) == sum(map(len, markers))


def labels(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_legend_names_every_setting_that_differs_and_no_common_one(made):
    drawn = made[2]
    assert labels(drawn["zipped"]["curves"].figure) == [
        "Reconstruction, free nats 3", "Contrastive, free nats 1", "Reward only, free nats 0.5",
        "Random actions", "Best published",
    ]  # fmt: skip
    assert labels(drawn["figure11"]["curves"].figure) == [
        "Action repeat 1", "Action repeat 2", "Action repeat 4", "D4PG", "A3C", "Random actions"
    ]  # fmt: skip
    assert labels(drawn["plain"]["curves"].figure) == ["Dreamer"]
    # A setting that a behaviour does not use is not named with it.
    grid = "grid:\n - {task: toy_dot}\n - {task: toy_dot, behaviour: planet, planner_horizon: 5}\n"
    runs = expand(suite_file(made[0], PRESET + grid, "own")).runs
    keys = ("task", "behaviour", "representation", "preset")
    table = pd.DataFrame([{**{k: r.config[k] for k in keys}, "config": r.config} for r in runs])
    found = styles(list(with_methods(table)[0]["method"]))
    assert [style.label for style in found.values()] == ["Dreamer", "PlaNet, horizon 5"]


def test_two_axes_are_colours_and_dashes(made):
    found = made[1]["two_axes"].styles
    looks = {
        tuple(settings_of(method).values()): (style.colour, str(style.line))
        for method, style in found.items()
    }
    assert len(looks) == 6
    for horizon in ("5", "10", "15"):
        assert looks["1", horizon][0] == looks["3", horizon][0]
        assert looks["1", horizon][1] != looks["3", horizon][1] == looks["3", "5"][1]
    assert len({colour for colour, _ in looks.values()}) == 3


def test_a_heat_map_has_a_cell_for_each_pair_of_values(made):
    _, summaries, drawn = made
    figure = drawn["two_axes"]["heatmap"].figure
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["5", "10", "15"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1", "3"]
    scores = summaries["two_axes"].scores.set_index(["task", "method"])["mean"]
    value = scores["cup_catch", "dreamer/reconstruction free_nats=3.0 horizon=10"]
    assert axes.texts[4].get_text() == f"{value:.0f}"  # second row, second column


def test_pairs_are_with_the_default(made):
    pairs = made[1]["figure11"].improvements
    assert set(pairs["ours"]) == {"dreamer/reconstruction action_repeat=2"}
    assert len(pairs) == 2
    axes = made[2]["figure11"]["aggregates"].figure.axes[2]
    assert axes.get_xlabel() == "P(Action repeat 2 is better)"


def test_a_long_legend_takes_no_room_from_panels():
    row = {"task": "walker_walk", "mean": 1.0, "low": 0.0, "high": 2.0, "n": 3, "n_expected": 3}
    heights = {}
    for count in (2, 12):
        styles = {str(n): Style(f"a long name of method {n}", "#000000", "o") for n in range(count)}
        table = pd.DataFrame([{**row, "method": m, "env_steps": x} for m in styles for x in (1, 2)])
        figure = lines.draw_lines(table, styles, CONTROL)
        FigureCanvasAgg(figure).draw()
        heights[count] = figure.axes[0].get_window_extent().height
        rows = {round(text.get_window_extent().y0) for text in figure.legends[0].get_texts()}
    assert len(rows) >= 6
    assert heights[12] == pytest.approx(heights[2], rel=0.05)


def test_every_setting_of_the_axis_is_ticked_and_marked(made):
    axes = made[2]["horizons"]["sweep"].figure.axes[0]
    assert list(axes.get_xticks()) == [5, 10, 15]
    means = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(means) == 3 and all(line.get_markevery() == (0, 1) for line in means)


def test_single_seeds_are_drawn_up_to_ten():
    row = {"task": "walker_walk", "low": 0.0, "high": 2.0, "n": 3, "n_expected": 3}
    method = "dreamer/reconstruction"
    table = pd.DataFrame([{**row, "method": method, "env_steps": x, "mean": 1.5} for x in (1, 2)])
    seeds = pd.DataFrame(
        [(f"run{n}", "walker_walk", method, x, float(n)) for n in range(3) for x in (1, 2)],
        columns=["run_id", "task", "method", "env_steps", "value"],
    )
    drawn = lines.draw_lines(table, {method: STYLES[method]}, CONTROL, seeds=seeds).axes[0].lines
    assert [line.get_ydata().tolist() for line in drawn[:3]] == [[n, n] for n in (0.0, 1.0, 2.0)]


def test_single_seeds_of_a_suite(made):
    summary = made[1]["figure9"]
    assert len(single_runs(summary)["run_id"].unique()) == len(summary.runs)
    assert len(single_runs(summary, final=True)) == len(summary.runs)
    many = summary._replace(runs=summary.runs.assign(n_expected=11))
    assert single_runs(many).empty


def test_a_line_on_another_one_lets_it_be_seen():
    row = {"task": "walker_walk", "low": np.nan, "high": np.nan, "n": 1, "n_expected": 1}
    styles = dict(list(STYLES.items())[:3])
    heights = dict(zip(styles, (0.0, 0.5, 400.0), strict=True))
    table = pd.DataFrame(
        [{**row, "method": m, "env_steps": x, "mean": heights[m]} for m in styles for x in range(9)]
    )
    under, over, apart = lines.draw_lines(table, styles, CONTROL).axes[0].lines
    assert under.get_linestyle() == apart.get_linestyle() == "-"
    assert over.get_linestyle() == "--" and over.get_zorder() >= under.get_zorder()


def test_released_curves_of_two_points_are_marked():
    method = "dreamer/reconstruction"
    row = {"task": "walker_walk", "low": 0.0, "high": 2.0, "n": 3, "n_expected": 3}
    table = pd.DataFrame([{**row, "method": method, "env_steps": x, "mean": 1.5} for x in (1, 2)])
    for points, marker in ((2, "o"), (30, "")):
        released = pd.DataFrame([{**row, "env_steps": x, "mean": 1.0} for x in range(points)])
        axes = lines.draw_lines(table, {method: STYLES[method]}, CONTROL, reference=released).axes
        assert axes[0].lines[0].get_marker() == marker


def test_redrawn_curves_keep_settings_apart():
    table = pd.read_csv(ROOT / "results/measured/precision/curves.csv")
    figure = redraw.draw(table)
    assert labels(figure) == ["Precision bf16", "Precision fp32"]
    assert "Mean over up to 5 seeds" in _footer(figure)


def test_published_scores_are_lines_across_bars(made):
    _, summaries, drawn = made
    axes = drawn["barred"]["bars"].figure.axes[0]
    ours = summaries["barred"].scores
    groups = len(axes.get_xticks())
    averages = groups - ours["task"].nunique()
    assert len(axes.patches) == len(ours) + 2 * averages
    assert "SLAC" not in labels(drawn["barred"]["bars"].figure)  # it has no score in this figure


def test_predictions_name_their_method(made):
    titles = [text.get_text() for text in made[2]["predicted"]["predictions"].figure.texts]
    assert "Cup Catch, Dreamer, seed 0" in titles


def test_games_have_scales_of_their_own(made):
    """Pong's -21 to 21 is not squeezed into the control suite's 0 to 1000, nor averaged with it."""
    _, summaries, drawn = made
    pong, boxing = drawn["discrete"]["curves"].figure.axes
    assert (pong.get_title(), boxing.get_title()) == ("Pong", "Boxing")
    assert -30 < pong.get_ylim()[0] < -15 and pong.get_ylim()[1] < 30
    assert boxing.get_ylim()[0] > -50 and boxing.yaxis.get_tick_params()["labelleft"]
    assert summaries["discrete"].aggregates.empty


def test_a_panel_without_runs_says_so():
    table = pd.DataFrame(
        columns=["task", "method", "env_steps", "mean", "low", "high", "n", "n_expected"]
    )
    figure = lines.draw_lines(table, {}, CONTROL, tasks=["walker_walk"])
    assert "no runs" in [text.get_text() for text in figure.axes[0].texts]


def test_error_image_is_grey_where_the_model_is_right():
    truth = np.array([[[0, 100, 255]]], np.uint8)
    assert error_image(truth, truth).tolist() == [[[127, 127, 127]]]
    assert error_image(truth, np.array([[[255, 100, 0]]], np.uint8)).tolist() == [[[255, 127, 0]]]


def test_a_page_holds_twenty_panels():
    table = pd.DataFrame(
        [(task, "dreamer/reconstruction", x, 1.0, 0.0, 2.0, 3, 3) for task in CONTROL_TASKS
         for x in (1, 2)],
        columns=["task", "method", "env_steps", "mean", "low", "high", "n", "n_expected"],
    )  # fmt: skip
    style = {"dreamer/reconstruction": STYLES["dreamer/reconstruction"]}
    figure = finish(lines.draw_lines(table, style, CONTROL), ["a note"])
    width, height = figure.get_size_inches()
    assert len(figure.axes) == 20 and width <= 7 and height <= 9.2


# --- the command -----------------------------------------------------------------------------


def command(*words) -> subprocess.CompletedProcess:
    """The real command, from another folder."""
    return subprocess.run(
        [sys.executable, str(ROOT / "analysis" / "make_figures.py"), *map(str, words)],
        capture_output=True, text=True, cwd="/", timeout=120,
    )  # fmt: skip


def test_the_command_runs_from_anywhere(made, tmp_path):
    folder, _, _ = made
    done = command(
        "--suite", folder / "plain.yaml", "--results", folder / "results", "--out", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "plain: " in done.stdout
    assert (tmp_path / "plain" / "curves.pdf").exists()


def test_a_suite_that_was_run_with_set_is_drawn_by_the_same_words(tmp_path, capsys):
    path = suite_file(tmp_path, SUITES["plain"], "changed")
    around = suite_file(tmp_path, "include: [changed.yaml]\n", "around")
    for one in expand(path, {"horizon": 7, "seeds": 2}).runs:
        synthetic.write_run(tmp_path, one.run_id, one.config)
    words = ["--results", str(tmp_path), "--set", "horizon=7", "--set", "seeds=2"]
    assert "no results of changed" in fails(capsys, path, *words[:2])
    for suite in (path, around):
        assert make_figures.main([str(suite), *words]) == 0
        runs = pd.read_csv(tmp_path / "figures/changed/runs.csv")
        assert runs["state"].tolist() == ["complete", "complete"]
        (tmp_path / "figures/changed/runs.csv").unlink()
    assert reproduction.main([str(path), *words]) == 0
    assert "toy_dot" in capsys.readouterr().out
    assert "no such setting" in fails(capsys, path, *words[:2], "--set", "horizn=7")


def fails(capsys, *words) -> str:
    """The one line that the command prints; it exits with code 2."""
    assert make_figures.main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*\n", error), error
    return error


@pytest.mark.parametrize("words", [
    ["--at", "nan"], ["--at", "1e400"], ["--at", "9" * 350], ["--last", "nan"],
    ["--out", "file"], ["--out", "file/below"], ["--out", "/proc/no"], ["--out", "x" * 300],
    ["--html", "folder"], ["--html", "file/page.html"],
    ["--export", "folder"], ["--reference", "pipe"], ["--reference", "/dev/zero"],
], ids=lambda words: f"{words[0]} {words[1][:12]}")  # fmt: skip
def test_numbers_and_places_that_are_none_are_one_line(made, tmp_path, monkeypatch, capsys, words):
    folder, _, _ = made
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    os.mkfifo("pipe")
    results = ["--suite", folder / "plain.yaml", "--results", folder / "results"]
    error = fails(capsys, *results, *([] if words[0] == "--out" else ["--out", "here"]), *words)
    assert "unexpected" not in error and error[:-1].isprintable()


def test_a_disk_that_is_full_is_named(made, tmp_path, capsys):
    folder, _, _ = made
    with small_disk(tmp_path / "disk", 1) as disk:
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        words = ["--suite", folder / "plain.yaml", "--results", folder / "results"]
        for place in (["--out", disk / "figures"], ["--out", tmp_path, "--html", disk / "x.html"]):
            error = fails(capsys, *words, *place)
            assert str(disk) in error and error.endswith(": No space left on device\n"), error


def test_results_are_by_default_in_the_folder_where_a_command_is_typed(
    made, tmp_path, monkeypatch, capsys
):
    folder, _, _ = made
    monkeypatch.chdir(folder)
    for main, words, said in (
        (status.main, ["plain.yaml"], " done"),
        (run.main, ["plain.yaml"], " done"),
        (audit.main, ["plain.yaml"], "1 run, "),
        (cancel.main, ["plain.yaml"], "0 of "),
        (clean.main, ["plain.yaml", "--dry-run"], "cache"),
        (make_figures.main, ["--suite", "plain.yaml", "--out", str(tmp_path)], "plain: "),
        (reproduction.main, ["--suite", "plain.yaml", "--out", str(tmp_path)], ""),
    ):
        main(words)
        printed = capsys.readouterr()
        assert said in printed.out and "never started" not in printed.out, main.__module__
        assert "no results" not in printed.err and "no such results" not in printed.err
    assert doctor.parse([]).results == Path("results")


def test_mistakes_are_one_line(made, tmp_path, capsys):
    folder, _, _ = made
    plain, results = folder / "plain.yaml", folder / "results"
    assert "did you mean 'suites/quickstart.yaml'" in fails(
        capsys, "--suite", "suites/quikstart.yaml"
    )
    assert "no such results folder" in fails(capsys, "--suite", plain, "--results", tmp_path / "x")
    assert "no results of plain" in fails(capsys, "--suite", plain, "--results", tmp_path)
    assert "no values of klx" in fails(
        capsys, "--suite", plain, "--results", results, "--metric", "klx", "--out", tmp_path
    )
    assert "--last 0" in fails(capsys, "--suite", plain, "--results", results, "--last", "0")
    assert "not JSON" in fails(
        capsys, "--suite", plain, "--results", results, "--reference",
        suite_file(tmp_path, "[", "bad"),
    )  # fmt: skip
    typo = suite_file(tmp_path, SUITES["plain"].replace("preset", "presett"), "typo")
    assert "did you mean 'preset'" in fails(capsys, "--suite", typo)


def test_nan_returns_make_a_marked_figure(tmp_path, capsys):
    settings = "preset: tiny\nenv_steps: 4000\neval_every_env_steps: 1000\nseeds: 2\n"
    path = suite_file(tmp_path, settings + "grid: {task: walker_walk}\n", "nan")
    synthetic.write_suites(tmp_path, [path])
    run = expand(path).runs[0]
    record = tmp_path / "runs" / run.run_id / "metrics.jsonl"
    text = record.read_text()
    record.write_text(re.sub(r'"evaluate_return":[\d.]+', '"evaluate_return":NaN', text))
    assert make_figures.main(["--suite", str(path), "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{run.run_id}: 5 values of evaluate_return are not numbers" in said
    table = pd.read_csv(tmp_path / "figures" / "nan" / "curves.csv")
    assert set(table["n"]) == {1} and set(table["n_expected"]) == {2}


def test_reference_and_export(made, tmp_path):
    folder, _, _ = made
    words = ["--suite", str(folder / "plain.yaml"), "--results", str(folder / "results"),
             "--out", str(tmp_path)]  # fmt: skip
    assert make_figures.main([*words, "--export", str(tmp_path / "ours.json")]) == 0
    assert make_figures.main([*words, "--reference", str(tmp_path / "ours.json")]) == 0


def test_a_suite_of_suites_stands_for_its_parts(made, tmp_path, capsys):
    folder, _, _ = made
    both = suite_file(folder, "include: [plain.yaml]\n", "both")
    words = ["--suite", str(both), "--results", str(folder / "results"), "--out", str(tmp_path)]
    assert make_figures.main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"plain"}


def test_a_damaged_prediction_is_named(made, tmp_path, capsys):
    path = suite_file(tmp_path, SUITES["plain"], "damaged")
    synthetic.write_suites(tmp_path, [path])
    run_id = expand(path).runs[0].run_id
    (tmp_path / "runs" / run_id / "prediction.npz").write_bytes(b"PK\x03\x04 no")
    assert make_figures.main(["--suite", str(path), "--results", str(tmp_path)]) == 0
    assert f"{run_id}: prediction.npz is damaged" in capsys.readouterr().out


def test_of_too_many_predictions_one_per_task_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "MOST", 3)
    grid = "grid: {task: [cup_catch, toy_dot], representation: [reconstruction, contrastive]}\n"
    suite = expand(suite_file(tmp_path, PRESET + "seeds: 1\n" + grid, "many"))
    synthetic.write_suites(tmp_path, [suite.path])
    source = FileSource(tmp_path)
    summary = summarise(*load_suite(source, suite))
    found, problems = predictions.read_predictions(source, summary.runs)
    assert [(one.task, one.method) for one in found] == [
        (task, "dreamer/reconstruction") for task in ("cup_catch", "toy_dot")
    ]
    assert problems == ["of the predictions of 4 tasks and methods one per task is shown"]
