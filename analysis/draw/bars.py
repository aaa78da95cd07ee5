"""Bars: final scores per task, and averages over tasks. Published scores are lines across them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.count.methods import Style
from analysis.draw.page import PAGE_WIDTH, RC, add_legend, line_handle, pretty


def draw_bars(
    table: pd.DataFrame,
    styles: Mapping[str, Style],
    groups: Sequence[str],
    *,
    published: Mapping[str, Style],
    titles: Mapping[str, str],
    rows: int,
    y_label: str,
    y_range: tuple[float, float] | None,
) -> Figure:
    """Groups of bars (tasks, then averages), a bar per method, in `rows` rows, with a line across
    a group for each method in `published` that has a score there.

    `table`: group, method, mean, low, high (NaN: no interval), scores (list of the runs' scores,
    drawn as points; may be empty). A missing bar is marked by a cross. Without `y_range` the axis
    is as long as the values need.
    """
    per_row = math.ceil(len(groups) / rows)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE_WIDTH, 1.75 * rows + 0.4), layout="constrained")
        all_axes = figure.subplots(rows, 1, squeeze=False).ravel()
        for row, axes in enumerate(all_axes):
            here = groups[row * per_row : (row + 1) * per_row]
            draw_panel(axes, table, styles, here, published=published, titles=titles,
                       y_range=y_range)  # fmt: skip
            axes.set_xlim(-0.6, per_row - 0.4)
            axes.set_ylabel(y_label)
        handles = [Patch(color=style.colour, label=style.label) for style in styles.values()]
        lines = [line_handle(style) for style in published.values()]
        add_legend(figure, [*handles, *lines])
    return figure


def draw_panel(
    axes: Axes,
    table: pd.DataFrame,
    styles: Mapping[str, Style],
    groups: Sequence[str],
    *,
    published: Mapping[str, Style],
    titles: Mapping[str, str],
    y_range: tuple[float, float] | None,
) -> None:
    """Groups of bars on given axes; the table is that of `draw_bars`."""
    width = 0.84 / len(styles)
    low, high = y_range or (min(0.0, float(table["mean"].min())), float(table["mean"].max()))
    floor = low + 0.014 * (high - low)
    for place, (method, style) in enumerate(styles.items()):
        offset = (place - (len(styles) - 1) / 2) * width
        rows = table[table["method"] == method]
        _draw_method(axes, rows, groups, offset, width, style, low, floor)
    for method, style in published.items():
        rows = table[table["method"] == method].set_index("group")["mean"].reindex(groups)
        at = np.flatnonzero(rows.notna())
        axes.hlines(rows.to_numpy()[at], at - 0.46, at + 0.46, color=style.colour,
                    linestyle=style.line, linewidth=1.0, zorder=4)  # fmt: skip
    names = [titles.get(group, pretty(group)).replace(" ", "\n", 1) for group in groups]
    axes.set_xticks(range(len(groups)), names, linespacing=1.0)
    axes.tick_params(axis="x", length=0, labelsize=7)
    if y_range:
        axes.set_ylim(low, high + 0.06 * (high - low))
        axes.set_yticks([low + (high - low) * quarter / 4 for quarter in range(5)])
    axes.grid(False, axis="x")


def _draw_method(
    axes: Axes, rows: pd.DataFrame, groups: Sequence[str], offset: float, width: float,
    style: Style, low: float, floor: float,
) -> None:  # fmt: skip
    """A method's bars from `low` upwards; a cross at `floor` where it has none."""
    indexed = rows.set_index("group")
    for number, group in enumerate(groups):
        x = number + offset
        if group not in indexed.index:
            axes.plot(x, floor, marker="x", markersize=2.6, color=style.colour, markeredgewidth=0.7)
            continue
        row = indexed.loc[group]
        axes.bar(x, row["mean"] - low, width * 0.9, bottom=low, color=style.colour, linewidth=0)
        if math.isfinite(row["low"]):
            axes.plot([x, x], [row["low"], row["high"]], color="black", linewidth=0.8)
        scores = list(row["scores"])
        if not scores:
            continue
        spread = width / 3.5 if len(scores) > 1 else 0
        axes.plot(
            np.linspace(x - spread, x + spread, len(scores)), scores, linestyle="", marker="o",
            markersize=2.2, color="white", markeredgecolor="black", markeredgewidth=0.45,
            clip_on=False, zorder=5,
        )  # fmt: skip
