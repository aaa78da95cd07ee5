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
    finish,
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
    notes: Sequence[str] = (),
    synthetic: bool = False,
) -> Figure:
    """A panel per task, a line per method: mean and band over seeds.

    `table`: task, method, `x`, mean, low, high (NaN: no band), n, n_expected. A line is dotted
    where fewer runs than expected contribute to it. `published`: method, task, score_mean, drawn as
    horizontals. `reference`: task, env_steps, mean, low, high, drawn as a thin line.
    """
    tasks = list(tasks if tasks is not None else dict.fromkeys(table["task"]))
    figure, all_axes = panels(len(tasks))
    with matplotlib.rc_context(RC):
        for axes, task in zip(all_axes, tasks, strict=True):
            draw_panel(axes, table, styles, scale, task, x=x, published=published,
                       reference=reference)  # fmt: skip
        outer_labels(all_axes, x_label, y_label)
        present = [styles[m] for m in styles if m in set(table["method"])]
        handles: list[Any] = [line_handle(style) for style in present]
        if reference is not None and len(reference):
            handles.append(line_handle(PUBLISHED_STYLES["dreamer"]))
        drawn = set() if published is None else set(published["method"])
        handles += [line_handle(style) for m, style in PUBLISHED_STYLES.items() if m in drawn]
        add_legend(figure, handles)
    return finish(figure, notes, synthetic)


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
) -> None:
    """One task on given axes; the tables are those of `draw_lines`."""
    here = table[table["task"] == task]
    if reference is not None:
        _draw_reference(axes, reference[reference["task"] == task])
    for place, method in enumerate(styles):
        _draw_line(axes, here[here["method"] == method], x, styles[method], place, len(styles))
    if here.empty:
        axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", color=GREY)
    if published is not None:
        for row in published[published["task"] == task].itertuples():
            style = PUBLISHED_STYLES[row.method]
            axes.axhline(row.score_mean, color=style.colour, linestyle=style.line, lw=1.0)
    axes.set_title(pretty(task))
    score_axis(axes, scale.range_of(task))
    _x_axis(axes, here[x] if len(here) else table[x], x)


def _draw_line(
    axes: Axes, rows: pd.DataFrame, x: str, style: Style, place: int, count: int
) -> None:
    """The line of method number `place` of `count`. Methods have their markers at different points,
    so that overlapping lines can be distinguished."""
    if rows.empty:
        return
    rows = rows.sort_values(x)
    xs, mean = rows[x].to_numpy(float), rows["mean"].to_numpy(float)
    axes.fill_between(
        xs, rows["low"].to_numpy(float), rows["high"].to_numpy(float),
        color=style.colour, alpha=0.18, linewidth=0,
    )  # fmt: skip
    full = (rows["n"] >= rows["n_expected"]).to_numpy()
    near = ~full
    near[1:] |= ~full[:-1]
    near[:-1] |= ~full[1:]
    every = max(len(xs) // 5, min(count, len(xs)))
    first = (every // 2 + place * every // count) % every
    for chosen, line, width in ((full, style.line, 1.25), (near, (0, (1, 1.3)), 1.0)):
        drawn = np.where(chosen, mean, np.nan)
        if np.isfinite(drawn).any():
            axes.plot(
                xs, drawn, color=style.colour, linestyle=line, linewidth=width,
                marker=style.marker, markersize=2.8, markeredgewidth=0,
                markevery=(first, every), clip_on=False, zorder=3,
            )  # fmt: skip


def _draw_reference(axes: Axes, rows: pd.DataFrame) -> None:
    style = PUBLISHED_STYLES["dreamer"]
    rows = rows.sort_values("env_steps")
    xs = rows["env_steps"].to_numpy(float)
    axes.fill_between(
        xs, rows["low"].to_numpy(float), rows["high"].to_numpy(float),
        color=style.colour, alpha=0.10, linewidth=0,
    )  # fmt: skip
    axes.plot(xs, rows["mean"], color=style.colour, linestyle=style.line, linewidth=0.9)


def _x_axis(axes: Axes, values: pd.Series, x: str) -> None:
    if x == "env_steps":
        axes.set_xlim(0, float(values.max()) if len(values) else 1)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(steps_text))
    else:
        ticks = sorted(values.unique())
        axes.set_xticks(ticks if len(ticks) <= 5 else ticks[:: math.ceil(len(ticks) / 5)])
