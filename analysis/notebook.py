"""For notebooks: a suite's values as a tidy frame, its statistics, its figures on your own axes.

    from analysis import plot_curves, suite_frame, suite_summary

    frame = suite_frame("suites/quickstart.yaml")
    axes = plot_curves(suite_summary("suites/quickstart.yaml"), "toy_dot")

Nothing is written to disk, except the cache of values in the results folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.count.summary import Summary, summarise
from analysis.draw import aggregates, bars, lines
from analysis.draw.page import RC, line_handle
from analysis.draw.suite import bar_table, draw_suite, metric_label, score_label
from analysis.read.files import FileSource
from analysis.read.frame import Loaded, load_suite
from analysis.read.predictions import read_predictions
from analysis.read.source import METRICS
from dreamer.errors import UserError, nearest
from dreamer.run_folder import RESULTS
from suites.language.suite import Suite, expand


def suite_frame(
    suite: str | Path, results: str | Path = RESULTS, *, metrics: Sequence[str] = METRICS
) -> pd.DataFrame:
    """Every logged value of `metrics` of a suite's runs, a row each.

    Columns: suite, task, behaviour, representation, seed, run_id, attempt, env_steps, metric and
    value.
    Raises UserError where the suite is wrong or the results folder is missing.
    """
    frame = _load(suite, results, metrics)[1].frame
    frame = frame[frame["metric"].isin(list(metrics))].reset_index(drop=True)
    return frame.assign(metric=frame["metric"].cat.remove_unused_categories())


def suite_summary(
    suite: str | Path,
    results: str | Path = RESULTS,
    *,
    metric: str = "evaluate_return",
    band: str = "sd",
    last: int | None = None,
    until: int | None = None,
) -> Summary:
    """The statistics of a suite that its figures and tables show.

    band: sd, se, ci or range. last: evaluations that a final score averages. until: ignore
    everything after so many env_steps. Raises UserError where there are no values of the metric.
    """
    expanded, loaded = _load(suite, results, (metric,))
    if not (loaded.frame["metric"] == metric).any():
        raise UserError(f"{expanded.name}: no values of {metric} in {results}")
    return summarise(expanded, loaded, metric=metric, band=band, last=last, until=until)


def suite_figures(suite: str | Path, results: str | Path = RESULTS) -> dict[str, Figure]:
    """The figures that `analysis/make_figures.py` saves, by name."""
    expanded, loaded = _load(suite, results, METRICS)
    summary = summarise(expanded, loaded)
    predictions, _ = read_predictions(FileSource(Path(results)), summary.runs)
    drawn = draw_suite(expanded.shown.figures, summary, predictions)
    return {one.name: one.figure for one in drawn}


def plot_curves(summary: Summary, task: str, axes: Axes | None = None) -> Axes:
    """Learning curves of one task: mean and band over seeds, a line per method."""
    return _plot_lines(summary, task, axes, summary.curves, "env_steps", "Environment steps")


def plot_sweep(summary: Summary, task: str, axes: Axes | None = None) -> Axes:
    """Final scores of one task over the setting on the suite's x-axis."""
    if summary.x is None:
        raise UserError(f"{summary.name} has no setting on its x-axis: give `x:` in the suite")
    return _plot_lines(summary, task, axes, summary.scores, "x", summary.x.label)


def _plot_lines(
    summary: Summary, task: str, axes: Axes | None, table: pd.DataFrame, x: str, x_label: str
) -> Axes:
    if task not in summary.tasks:
        raise UserError(f"{summary.name} has no task {task!r}; {nearest(task, summary.tasks)}")
    axes = axes or _new_axes()
    with matplotlib.rc_context(RC):
        lines.draw_panel(axes, table, summary.styles, summary.scale, task, x=x,
                         published=summary.published)  # fmt: skip
        axes.set(xlabel=x_label, ylabel=metric_label(summary.metric))
        _legend(axes, summary)
    return axes


def plot_bars(summary: Summary, axes: Axes | None = None) -> Axes:
    """Final scores of all tasks as bars, with averages over tasks."""
    axes = axes or _new_axes()
    table, titles = bar_table(summary)
    label, y_range = score_label(summary)
    styles = {method: summary.styles[method] for method in summary.methods_with_scores()}
    with matplotlib.rc_context(RC):
        bars.draw_panel(axes, table, styles, [*summary.tasks, *titles], published={},
                        titles=titles, y_range=y_range)  # fmt: skip
        axes.set_ylabel(label)
        _legend(axes, summary)
    return axes


def plot_aggregates(summary: Summary, axes: Axes | None = None) -> Axes:
    """Mean, median and interquartile mean over tasks, with 95 % intervals."""
    if summary.aggregates.empty:
        raise UserError(f"{summary.name}: fewer than two tasks with complete runs on its scale")
    axes = axes or _new_axes()
    methods = list(dict.fromkeys(summary.aggregates["method"]))
    with matplotlib.rc_context(RC):
        aggregates.draw_intervals(axes, summary.aggregates, methods, summary.styles)
        _legend(axes, summary)
    return axes


def _load(suite: str | Path, results: str | Path, metrics: Sequence[str]) -> tuple[Suite, Loaded]:
    if not Path(results).is_dir():
        raise UserError(f"{results}: no such results folder")
    return load_suite(FileSource(Path(results)), expand(suite), *metrics)


def _new_axes() -> Axes:
    with matplotlib.rc_context(RC):
        return Figure(figsize=(5.4, 3.0), layout="constrained").subplots()


def _legend(axes: Axes, summary: Summary) -> None:
    styles = [summary.styles[method] for method in summary.methods_with_scores()]
    axes.legend(handles=[line_handle(style) for style in styles])
