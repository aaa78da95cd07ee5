"""What all figures share: style, panels, legend, footer.

Sizes are those of a page: text is 7 to 8 points at the printed width (7 inches). The footer of a
figure says what its bands are, how many seeds there are, and what is missing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.count.methods import Style

PAGE_WIDTH = 7.0  # inches
PANEL_HEIGHT = 1.32  # inches
FOOTER_POINTS = 6.6
GREY = "#4B4B4B"

# seaborn's theme, adapted to print at this size.
RC = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("paper", font_scale=0.88),
    "font.family": "STIXGeneral",  # comes with matplotlib; sits well in a text set in Times
    "mathtext.fontset": "stix",
    "axes.titlesize": 9,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlepad": 3.5,
    "axes.labelpad": 2.5,
    "xtick.bottom": True,
    "ytick.left": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), "black"
    ),
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.0,
    "legend.columnspacing": 1.6,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: text stays text, fonts are embedded
    "ps.fonttype": 42,
}


def pretty(name: str) -> str:
    """`walker_walk` -> `Walker Walk`; `atari:pong` -> `Pong`."""
    return name.rpartition(":")[2].replace("_", " ").title()


def steps_text(value: float, _: Any = None) -> str:
    """2000000 -> `2M`, 50000 -> `50k`."""
    for unit, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{word}"
    return f"{value:.4g}"


def panels(count: int, row_height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of `count` panels; a page holds 4 x 5. row_height: inches."""
    columns = count if count <= 4 else 3 if count in (5, 6, 9) else 4
    rows = math.ceil(count / columns)
    width = {1: 4.0, 2: 5.4}.get(columns, PAGE_WIDTH)
    height = PANEL_HEIGHT * (1.7 if rows == 1 and columns <= 2 else 1.3 if rows == 1 else 1.05)
    height = row_height or height
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, rows * height + 0.55), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
    layout(figure).set(w_pad=0.03, h_pad=0.03, wspace=0.06, hspace=0.03)
    axes = list(grid.ravel())
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


MOST_COLUMNS = 16  # of a legend: more never fit on a page, whatever their labels


def add_legend(figure: Figure, handles: Sequence[Any]) -> None:
    """One legend above all panels, in as few rows as fit; the figure grows by rows after the first,
    so that panels keep their size."""
    if not handles:
        return
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.get_size_inches()
    for columns in range(min(len(handles), MOST_COLUMNS), 0, -1):
        legend = figure.legend(handles=list(handles), loc="outside upper center", ncols=columns)
        size = legend.get_window_extent(renderer)
        if size.width <= 0.98 * figure.bbox.width or columns == 1:
            break
        legend.remove()
    rows = math.ceil(len(handles) / columns)
    figure.set_size_inches(width, height + size.height / figure.dpi * (rows - 1) / rows)


def finish(figure: Figure, notes: Sequence[str] = (), synthetic: bool = False) -> Figure:
    """Add a footer with `notes`, and a mark across the figure if its data are synthetic.

    The figure grows by the footer's height, so that panels keep their size.
    """
    words = list(notes)
    if synthetic:
        words.insert(0, "SYNTHETIC DATA: drawn by a random generator, no agent was trained.")
    columns = int(figure.get_figwidth() * 24)
    lines = [line for note in words for line in textwrap.wrap(note, columns)]
    footer = (len(lines) * FOOTER_POINTS * 1.25 + 4) / 72 if lines else 0.0
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + footer)
    share = footer / (height + footer)
    if figure.get_layout_engine() is not None:
        layout(figure).set(rect=(0, share, 1, 1 - share))
    else:
        _lift(figure, share)
    with matplotlib.rc_context(RC):
        figure.text(
            0.012, share - 1.5 / 72 / (height + footer), "\n".join(lines), va="top", ha="left",
            fontsize=FOOTER_POINTS, color=GREY, linespacing=1.2,
        )  # fmt: skip
        if synthetic:
            figure.text(
                0.5, 0.5, "SYNTHETIC", rotation=28, ha="center", va="center", color="#B00020",
                alpha=0.13, fontsize=min(11 * width, 20 * height), fontweight="bold", zorder=1000,
            )  # fmt: skip
    return figure


def _lift(figure: Figure, share: float) -> None:
    """Move everything with a fixed position above `share` of the height."""
    for axes in figure.axes:
        box = axes.get_position()
        height = box.height * (1 - share)
        axes.set_position((box.x0, share + box.y0 * (1 - share), box.width, height))
    for text in figure.texts:
        text.set_y(share + text.get_position()[1] * (1 - share))


def line_handle(style: Style) -> Line2D:
    return Line2D(
        [], [], color=style.colour, linestyle=style.line, marker=style.marker or None,
        markersize=4, label=style.label,
    )  # fmt: skip


def score_axis(axes: Axes, scale: tuple[float, float] | None) -> None:
    """A y-axis of scores: the whole range of the scale, else what the values need."""
    if scale is None:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return
    low, high = scale
    span = high - low
    axes.set_ylim(low - 0.02 * span, high + 0.03 * span)
    ticks = [low + span * quarter / 4 for quarter in range(5)]
    labels = [f"{tick:g}" if place % 2 == 0 else "" for place, tick in enumerate(ticks)]
    axes.set_yticks(ticks, labels)


def layout(figure: Figure) -> ConstrainedLayoutEngine:
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    return engine


def place_of(axes: Axes) -> SubplotSpec:
    """The place of a panel in its grid."""
    spec = axes.get_subplotspec()
    assert spec is not None
    return spec


def outer_labels(all_axes: Sequence[Axes], x_label: str, y_label: str) -> None:
    """Label the outer panels only; inner panels with the same scale have no tick labels."""
    shared = len({axes.get_ylim() for axes in all_axes}) == 1
    for axes in all_axes:
        spec = place_of(axes)
        if spec.is_first_col():
            axes.set_ylabel(y_label)
        elif shared:
            axes.tick_params(labelleft=False)
        below = spec.rowspan.start + 1
        has_below = any(
            place_of(other).rowspan.start == below
            and place_of(other).colspan.start == spec.colspan.start
            for other in all_axes
        )
        if not has_below:
            axes.set_xlabel(x_label)
