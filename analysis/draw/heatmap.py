"""Heat maps: final scores over two settings."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.draw.page import RC, layout, outer_labels, panels, pretty
from suites.language.figures import Scale


def draw_heatmap(
    table: pd.DataFrame,
    scale: Scale,
    *,
    x: str,
    y: str,
    tasks: Sequence[str],
    label: str,
) -> Figure:
    """A panel per task, a cell per pair of values: the mean score as colour and number.

    `table`: task, `x`, `y`, mean. A pair without runs stays empty. The colours of a task span its
    range on `scale`, else its lowest to its highest mean.
    """
    xs, ys = _values(table[x]), _values(table[y])
    figure, all_axes = panels(len(tasks), row_height=0.6 + 0.24 * len(ys))
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        for axes, task in zip(all_axes, tasks, strict=True):
            here = table[table["task"] == task]
            cells = here.pivot_table(index=y, columns=x, values="mean").reindex(ys, columns=xs)
            low, high = scale.range_of(task) or (cells.min().min(), cells.max().max())
            image = axes.pcolormesh(cells.to_numpy(float), cmap="viridis", vmin=low, vmax=high)
            for row, column in np.argwhere(np.isfinite(cells.to_numpy(float))):
                value = float(cells.iat[row, column])
                bright = value > (low + high) / 2
                axes.text(column + 0.5, row + 0.5, _number(value), ha="center", va="center",
                          fontsize=7, color="black" if bright else "white")  # fmt: skip
            axes.set_xticks(np.arange(len(xs)) + 0.5, xs)
            axes.set_yticks(np.arange(len(ys)) + 0.5, ys)
            axes.tick_params(length=0)
            axes.set_title(pretty(task))
            if scale.range_of(task) is None:
                figure.colorbar(image, ax=axes, label=label)
        if all(scale.range_of(task) for task in tasks):
            figure.colorbar(image, ax=all_axes, label=label, shrink=0.9, aspect=18, pad=0.02)
        outer_labels(all_axes, x.replace("_", " ").capitalize(), y.replace("_", " ").capitalize())
        layout(figure).set(w_pad=0.05)
    return figure


def _values(column: pd.Series) -> list[str]:
    """The distinct values: numbers sorted, others in the order in which they appear."""
    values = pd.Series(column.unique())
    numbers = pd.to_numeric(values, errors="coerce")
    return list(values if numbers.isna().any() else values.iloc[np.argsort(numbers)])


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
