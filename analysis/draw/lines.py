"""Lines: learning curves, and final scores over a setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.count.methods import PUBLISHED_STYLES, Style
from analysis.draw.page import (
    GREY,
    RC,
    add_legend,
    line_handle,
    outer_labels,
    panels,
    pretty,
    score_axis,
    steps_text,
)
from suites.language.figures import Scale


def draw_lines(
    table: pd.DataFrame,
    styles: Mapping[str, Style],
    scale: Scale,
    *,
    x: str = "env_steps",
    x_label: str = "Environment steps",
    y_label: str = "Score",
    tasks: Sequence[str] | None = None,
    published: pd.DataFrame | None = None,
    reference: pd.DataFrame | None = None,
    seeds: pd.DataFrame | None = None,
) -> Figure:
    """A panel per task, a line per method: mean and band over seeds.

    `table`: task, method, `x`, mean, low, high (NaN: no band), n, n_expected. A line is dotted
    where fewer runs than expected contribute to it. `published`: method, task, score_mean, drawn as
    horizontals. `reference`: task, env_steps, mean, low, high, drawn as a thin line. `seeds`: task,
    method, run_id, `x`, value, drawn as thin lines, or as points over a setting.
    """
    tasks = list(tasks if tasks is not None else dict.fromkeys(table["task"]))
    figure, all_axes = panels(len(tasks))
    with matplotlib.rc_context(RC):
        for axes, task in zip(all_axes, tasks, strict=True):
            draw_panel(axes, table, styles, scale, task, x=x, published=published,
                       reference=reference, seeds=seeds)  # fmt: skip
        outer_labels(all_axes, x_label, y_label)
        present = [styles[m] for m in styles if m in set(table["method"])]
        handles: list[Any] = [line_handle(style) for style in present]
        if reference is not None and len(reference):
            handles.append(line_handle(PUBLISHED_STYLES["dreamer"]))
        drawn = set() if published is None else set(published["method"])
        handles += [line_handle(style) for m, style in PUBLISHED_STYLES.items() if m in drawn]
        add_legend(figure, handles)
    return figure


def draw_panel(
    axes: Axes,
    table: pd.DataFrame,
    styles: Mapping[str, Style],
    scale: Scale,
    task: str,
    *,
    x: str = "env_steps",
    published: pd.DataFrame | None = None,
    reference: pd.DataFrame | None = None,
    seeds: pd.DataFrame | None = None,
) -> None:
    """One task on given axes; the tables are those of `draw_lines`."""
    here = table[table["task"] == task]
    if seeds is not None:
        _draw_seeds(axes, seeds[seeds["task"] == task], styles, x)
    if reference is not None:
        _draw_reference(axes, reference[reference["task"] == task])
    found = dict(iter(here.groupby("method")))
    lines = {method: found.get(method, here[:0]).sort_values(x) for method in styles}
    under = _lines_below(lines, x)
    for place, (method, rows) in enumerate(lines.items()):
        _draw_line(axes, rows, x, styles[method], place, len(styles), under[method])
    if here.empty:
        axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", color=GREY)
    if published is not None:
        for row in published[published["task"] == task].itertuples():
            style = PUBLISHED_STYLES[row.method]
            axes.axhline(row.score_mean, color=style.colour, linestyle=style.line, lw=1.0)
    axes.set_title(pretty(task))
    score_axis(axes, scale.range_of(task))
    _x_axis(axes, here[x] if len(here) else table[x], x)


def _lines_below(lines: Mapping[str, pd.DataFrame], x: str) -> dict[str, int]:
    """For each line, the number of earlier lines with the same course (0.5 % of the range)."""
    places = sorted({place for rows in lines.values() for place in rows[x]})
    courses = np.full((len(lines), len(places)), np.nan)
    for course, rows in zip(courses, lines.values(), strict=True):
        course[np.searchsorted(places, rows[x])] = rows["mean"]
    finite = courses[np.isfinite(courses)]
    close = 0.005 * np.ptp(finite) if len(finite) else 0.0
    found: dict[str, int] = {}
    for number, (method, course) in enumerate(zip(lines, courses, strict=True)):
        gaps = np.abs(course - courses[:number])  # NaN where one of the two has no value
        both = np.isfinite(gaps).sum(1)
        found[method] = int((((gaps <= close).sum(1) > 0.8 * both) & (both > 0)).sum())
    return found


# A line on others shows them through its gaps.
OVER: tuple[Any, ...] = ((0, (4, 4)), (2, (2, 6)), (0, (1, 7)))
FEW_POINTS = 5


def _draw_line(
    axes: Axes, rows: pd.DataFrame, x: str, style: Style, place: int, count: int, below: int
) -> None:
    """The line of method number `place` of `count`, on `below` lines of the same course. A few
    points, and settings, are all marked. On longer lines methods have their marks at different
    points, so that overlapping lines can be distinguished."""
    if rows.empty:
        return
    xs, mean = rows[x].to_numpy(float), rows["mean"].to_numpy(float)
    low, high = rows[["low", "high"]].to_numpy(float).T
    axes.fill_between(xs, low, high, color=style.colour, alpha=0.18, linewidth=0)
    full = (rows["n"] >= rows["n_expected"]).to_numpy()
    near = ~full
    near[1:] |= ~full[:-1]
    near[:-1] |= ~full[1:]
    every = max(len(xs) // 5, min(count, len(xs)))
    first = (every // 2 + place * every // count) % every
    if len(xs) <= FEW_POINTS or x != "env_steps":
        first, every = 0, 1
    whole = OVER[min(below, len(OVER)) - 1] if below and style.line == "-" else style.line
    for chosen, line, width in ((full, whole, 1.25), (near, (0, (1, 1.3)), 1.0)):
        drawn = np.where(chosen, mean, np.nan)
        if np.isfinite(drawn).any():
            axes.plot(
                xs, drawn, color=style.colour, linestyle=line, linewidth=width,
                marker=style.marker, markersize=max(1.4, 3.0 - 0.7 * below), markeredgewidth=0,
                markevery=(first, every), clip_on=False, zorder=3,
            )  # fmt: skip


def _draw_seeds(axes: Axes, seeds: pd.DataFrame, styles: Mapping[str, Style], x: str) -> None:
    """Single runs: thin lines over env_steps, points over a setting."""
    for (method, _), rows in seeds.groupby(["method", "run_id"], sort=False):
        rows = rows.sort_values(x)
        points = x != "env_steps"
        axes.plot(
            rows[x], rows["value"], color=styles[str(method)].colour, alpha=0.45, linewidth=0.45,
            linestyle="" if points else "-", marker="." if points else "", markersize=2.5,
            markeredgewidth=0, zorder=2.5,
        )  # fmt: skip


def _draw_reference(axes: Axes, rows: pd.DataFrame) -> None:
    """The released curve; where it has few points, they are marked."""
    style = PUBLISHED_STYLES["dreamer"]
    rows = rows.sort_values("env_steps")
    xs = rows["env_steps"].to_numpy(float)
    low, high = rows[["low", "high"]].to_numpy(float).T
    axes.fill_between(xs, low, high, color=style.colour, alpha=0.10, linewidth=0)
    axes.plot(
        xs, rows["mean"], color=style.colour, linestyle=style.line, linewidth=0.9,
        marker="o" if len(rows) <= FEW_POINTS else "", markersize=2.5,
    )  # fmt: skip


def _x_axis(axes: Axes, values: pd.Series, x: str) -> None:
    if x == "env_steps":
        axes.set_xlim(0, float(values.max()) if len(values) else 1)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(steps_text))
    else:
        ticks = sorted(values.unique())
        shown = ticks[:: math.ceil(len(ticks) / 10)]
        axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axes.set_xticks(ticks, minor=True)
        axes.tick_params(axis="x", which="both", length=2.5)
        if len(shown) > 6:
            axes.tick_params(axis="x", labelsize=6.2)
