"""All tasks together: aggregates with intervals, performance profiles, pairs of methods."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.count.methods import Style
from analysis.draw.page import GREY, PAGE_WIDTH, RC, add_legend, line_handle

STATISTIC_LABELS = {"iqm": "IQM", "optimality_gap": "Optimality gap\n(less is better)"}


def draw_aggregates(
    aggregates: pd.DataFrame,
    profiles: pd.DataFrame,
    improvements: pd.DataFrame,
    styles: Mapping[str, Style],
    score_words: str,
) -> Figure:
    """Mean, median and interquartile mean with intervals; performance profiles; improvement.

    `aggregates`: method, statistic, value, low, high. `profiles`: method, threshold, share, low,
    high. `improvements`: ours, theirs, value, low, high. `score_words`: the label of the first
    x-axis.
    """
    methods = [method for method in styles if method in set(aggregates["method"])]
    has_pairs = len(improvements) > 0
    with matplotlib.rc_context(RC):
        height = max(2.15 + 0.06 * len(methods), 1.0 + 0.36 * len(improvements))
        figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
        ratios = [1.25, 1.25, 0.9] if has_pairs else [1, 1]
        all_axes = figure.subplots(1, len(ratios), width_ratios=ratios)
        draw_intervals(all_axes[0], aggregates, methods, styles, score_words)
        _draw_profiles(all_axes[1], profiles, methods, styles)
        if has_pairs:
            _draw_improvements(all_axes[2], improvements, styles)
        add_legend(figure, [line_handle(styles[method]) for method in methods])
    return figure


def draw_intervals(
    axes: Axes,
    aggregates: pd.DataFrame,
    methods: Sequence[str],
    styles: Mapping[str, Style],
    score_words: str = "Normalised score",
) -> None:
    """Aggregates with their intervals on given axes."""
    names = list(dict.fromkeys(aggregates["statistic"]))
    for place, method in enumerate(methods):
        rows = aggregates[aggregates["method"] == method].set_index("statistic").loc[names]
        thickness = 0.7 / len(methods)
        y = np.arange(len(names)) + (place - (len(methods) - 1) / 2) * thickness
        _intervals(axes, y, rows, thickness * 0.8, styles[method])
    axes.set_yticks(range(len(names)), [STATISTIC_LABELS.get(n, n.capitalize()) for n in names])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.015)
    axes.set_xlabel(score_words)
    axes.set_title("Aggregates over tasks")


def _intervals(
    axes: Axes, y: np.ndarray, rows: pd.DataFrame, thickness: float, style: Style
) -> None:
    """Boxes from `low` to `high`, hatched where the method's lines are dashed, and its mark at
    `value`: its colour is seen where an interval is narrow."""
    hatch = "" if style.line == "-" else "////"
    axes.barh(y, rows["high"] - rows["low"], thickness, left=rows["low"], facecolor=style.colour,
              alpha=0.4, linewidth=0, hatch=hatch, edgecolor="white")  # fmt: skip
    axes.plot(rows["value"], y, color=style.colour, marker=style.marker or "o", linestyle="",
              markersize=4.8, markeredgewidth=0, clip_on=False)  # fmt: skip


def _draw_profiles(
    axes: Axes, profiles: pd.DataFrame, methods: Sequence[str], styles: Mapping[str, Style]
) -> None:
    for method in methods:
        rows = profiles[profiles["method"] == method]
        style = styles[method]
        axes.fill_between(rows["threshold"], rows["low"], rows["high"], color=style.colour,
                          alpha=0.18, linewidth=0, step="post")  # fmt: skip
        every = max(1, len(rows) // 5)
        axes.plot(rows["threshold"], rows["share"], color=style.colour, linestyle=style.line,
                  drawstyle="steps-post",
                  marker=style.marker, ms=2.8, markevery=(every // 2, every))  # fmt: skip
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(r"Normalised score $\tau$")
    axes.set_ylabel(r"Share of runs > $\tau$")
    axes.set_title("Performance profiles")


def _draw_improvements(axes: Axes, improvements: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    y = np.arange(len(improvements))
    for place in y:
        row = improvements.iloc[[place]]
        _intervals(axes, y[[place]], row, 0.2, styles[row["ours"].item()])
        value, low, high = (row[name].item() for name in ("value", "low", "high"))
        axes.text(0.5, place - 0.15, f"{value:.2f} [{low:.2f}, {high:.2f}]", fontsize=7,
                  va="bottom", ha="center", transform=axes.get_yaxis_transform(),
                  bbox=dict(facecolor="white", edgecolor="none", pad=0.6))  # fmt: skip
    axes.set_yticks(y, [styles[theirs].label for theirs in improvements["theirs"]])
    axes.set_ylim(len(y) - 0.7, -0.65)
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.grid(False, axis="y")
    # As much of 0 to 1 as the intervals need; 0.5, no difference, always.
    low, high = improvements["low"].min(), improvements["high"].max()
    axes.set_xlim(max(0, min(0.45, low - 0.05)) - 0.01, min(1, max(0.55, high + 0.05)) + 0.015)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5]))
    [ours] = improvements["ours"].unique()
    axes.set_xlabel(textwrap.fill(f"P({styles[ours].label} is better)", 28))
    axes.set_title("Probability of improvement")
