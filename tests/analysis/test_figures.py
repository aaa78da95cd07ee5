"""Figures: every kind is drawn whole, honest and the same everywhere; the command's behaviour."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, suite_file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from analysis import commands, make_figures, synthetic
from analysis.count.methods import STYLES
from analysis.count.published import CONTROL_TASKS
from analysis.draw import lines
from analysis.draw.images import error_image
from analysis.read.files import FileSource
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
    assert any(one.startswith("prediction-") for one in drawn[name])
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
                    handle.get_facecolor() if one.name == "bars" else handle.get_color()
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
    figure = lines.draw_lines(table, style, CONTROL, notes=["a note"])
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


def fails(capsys, *words) -> str:
    """The one line that the command prints; it exits with code 2."""
    assert make_figures.main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*\n", error), error
    return error


def test_mistakes_are_one_line(made, tmp_path, capsys):
    folder, _, _ = made
    plain, results = folder / "plain.yaml", folder / "results"
    assert "did you mean 'quickstart'" in fails(capsys, "--suite", "suites/quikstart.yaml")
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
