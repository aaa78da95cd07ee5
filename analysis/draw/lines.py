"""Aggregated frames in, matplotlib figures out. Nothing is read, computed or saved here.

Sizes are those of a page: text is 7 to 8 points at the printed width (7 inches). Every figure
carries a footer that says what its bands are, how many seeds are behind it and what is missing.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.count.methods import PUBLISHED_STYLES, VERMILION, Style
from analysis.count.published import CONTROL_TASKS, MAX_CONTROL_SCORE

PAGE_WIDTH = 7.0  # inches
PANEL_HEIGHT = 1.32  # inches
FOOTER_POINTS = 6.6
GREY = "#4B4B4B"

# seaborn's theme, and on top of it what print at this size needs.
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
    """2000000 -> `2M`, 50000 -> `50K`."""
    for unit, word in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{word}"
    return f"{value:.4g}"


# --- what all figures share ------------------------------------------------------------------


def panels(count: int, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of `count` panels; a page holds 4 x 5."""
    columns = columns or (count if count <= 4 else 4)
    rows = math.ceil(count / columns)
    width = {1: 4.0, 2: 5.4}.get(columns, PAGE_WIDTH)
    height = PANEL_HEIGHT * (1.7 if rows == 1 and columns <= 2 else 1.3 if rows == 1 else 1.05)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, rows * height + 0.55), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.06, hspace=0.03)
    axes = list(grid.ravel())
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def add_legend(figure: Figure, handles: Sequence[Any], extra: int = 0) -> None:
    """One legend above all panels, in as many rows as it takes."""
    characters = sum(len(handle.get_label()) + 8 for handle in handles)
    per_row = max(1, int(figure.get_figwidth() * 15))
    rows = max(1, math.ceil(characters / per_row))
    figure.legend(
        handles=list(handles), loc="outside upper center", ncols=math.ceil(len(handles) / rows)
    )


def finish(figure: Figure, notes: Sequence[str], synthetic: bool = False) -> Figure:
    """Footer with `notes`, and a mark across the figure where its data are synthetic.

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
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, share, 1, 1 - share))
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
    """Everything placed by hand moves into the part above `share` of the height."""
    for axes in figure.axes:
        box = axes.get_position()
        height = box.height * (1 - share)
        axes.set_position((box.x0, share + box.y0 * (1 - share), box.width, height))
    for text in figure.texts:
        text.set_y(share + text.get_position()[1] * (1 - share))


def _line_handle(style: Style) -> Line2D:
    return Line2D(
        [], [], color=style.colour, linestyle=style.line, marker=style.marker or None,
        markersize=4, label=style.label,
    )  # fmt: skip


def _score_axis(axes: Axes, task: str) -> None:
    """The control suite's scores lie in 0 to 1000, and all its panels show all of it."""
    if task in CONTROL_TASKS:
        axes.set_ylim(-20, MAX_CONTROL_SCORE * 1.03)
        axes.set_yticks([0, 250, 500, 750, 1000], ["0", "", "500", "", "1000"])
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))


# --- lines: learning curves, and final scores over a setting ---------------------------------


def draw_lines(
    table: pd.DataFrame,
    styles: Mapping[str, Style],
    *,
    x: str = "env_steps",
    x_label: str = "Environment steps",
    y_label: str = "Score",
    tasks: Sequence[str] | None = None,
    baselines: pd.DataFrame | None = None,
    reference: pd.DataFrame | None = None,
    titles: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    synthetic: bool = False,
) -> Figure:
    """A panel per task, a line per method: mean and band over seeds.

    `table`: task, method, `x`, mean, low, high (NaN: no band), n, n_expected. Where fewer runs
    than expected are behind a point, the line is dotted. `baselines`: method, task, score_mean,
    drawn as horizontals. `reference`: task, env_steps, mean, low, high, drawn as a thin line.
    """
    tasks = list(tasks if tasks is not None else dict.fromkeys(table["task"]))
    figure, all_axes = panels(len(tasks))
    drawn_baselines: dict[str, Style] = {}
    with matplotlib.rc_context(RC):
        for axes, task in zip(all_axes, tasks, strict=True):
            here = table[table["task"] == task]
            if reference is not None:
                _draw_reference(axes, reference[reference["task"] == task])
            for place, method in enumerate(styles):
                rows = here[here["method"] == method]
                _draw_line(axes, rows, x, styles[method], place, len(styles))
            if here.empty:
                axes.text(0.5, 0.5, "no runs", transform=axes.transAxes, ha="center", color=GREY)
            if baselines is not None:
                for row in baselines[baselines["task"] == task].itertuples():
                    style = PUBLISHED_STYLES[row.method]
                    axes.axhline(row.score_mean, color=style.colour, linestyle=style.line, lw=1.0)
                    drawn_baselines[row.method] = style
            axes.set_title((titles or {}).get(task, pretty(task)))
            _score_axis(axes, task if task in CONTROL_TASKS or not titles else "")
            _x_axis(axes, here[x] if len(here) else table[x], x)
        _outer_labels(all_axes, x_label, y_label)
        present = [styles[m] for m in styles if m in set(table["method"])]
        handles: list[Any] = [_line_handle(style) for style in present]
        if reference is not None and len(reference):
            handles.append(_line_handle(PUBLISHED_STYLES["dreamer"]))
        order = [name for name in PUBLISHED_STYLES if name in drawn_baselines]
        handles += [_line_handle(drawn_baselines[name]) for name in order]
        add_legend(figure, handles)
    return finish(figure, notes, synthetic)


def _draw_line(
    axes: Axes, rows: pd.DataFrame, x: str, style: Style, place: int, count: int
) -> None:
    """The line of method number `place` of `count`: markers take turns, so that methods are seen
    where one line lies on another."""
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


def _outer_labels(all_axes: Sequence[Axes], x_label: str, y_label: str) -> None:
    """Labels at the outer panels only; inner panels of one scale repeat nothing."""
    shared = len({axes.get_ylim() for axes in all_axes}) == 1
    for axes in all_axes:
        spec = axes.get_subplotspec()
        if spec.is_first_col():
            axes.set_ylabel(y_label)
        elif shared:
            axes.tick_params(labelleft=False)
        below = spec.rowspan.start + 1
        has_below = any(
            other.get_subplotspec().rowspan.start == below
            and other.get_subplotspec().colspan.start == spec.colspan.start
            for other in all_axes
        )
        if not has_below:
            axes.set_xlabel(x_label)


# --- bars: final scores per task -------------------------------------------------------------


def draw_bars(
    table: pd.DataFrame,
    styles: Mapping[str, Style],
    groups: Sequence[str],
    *,
    titles: Mapping[str, str] | None = None,
    rows: int = 2,
    y_label: str = "Score",
    notes: Sequence[str] = (),
    synthetic: bool = False,
) -> Figure:
    """Groups of bars (tasks, then averages), a bar per method, in `rows` rows.

    `table`: group, method, mean, low, high (NaN: no interval), scores (list of the runs' scores,
    drawn as points; may be empty). A method without a bar in a group leaves its place empty and
    marked, so that absence is seen.
    """
    per_row = math.ceil(len(groups) / rows)
    width = 0.84 / len(styles)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE_WIDTH, 1.75 * rows + 0.4), layout="constrained")
        all_axes = figure.subplots(rows, 1, squeeze=False).ravel()
        for row, axes in enumerate(all_axes):
            here = groups[row * per_row : (row + 1) * per_row]
            for place, (method, style) in enumerate(styles.items()):
                offset = (place - (len(styles) - 1) / 2) * width
                _draw_bars(axes, table[table["method"] == method], here, offset, width, style)
            names = [(titles or {}).get(group, pretty(group)) for group in here]
            names = [name.replace(" ", "\n", 1) for name in names]
            axes.set_xticks(range(len(here)), names, linespacing=1.0)
            axes.tick_params(axis="x", length=0, labelsize=7)
            axes.set_xlim(-0.6, per_row - 0.4)
            axes.set_ylim(0, MAX_CONTROL_SCORE * 1.06)
            axes.set_yticks([0, 250, 500, 750, 1000])
            axes.grid(False, axis="x")
            axes.set_ylabel(y_label)
        handles = [Patch(color=style.colour, label=style.label) for style in styles.values()]
        add_legend(figure, handles)
    return finish(figure, notes, synthetic)


def _draw_bars(
    axes: Axes, rows: pd.DataFrame, groups: Sequence[str], offset: float, width: float, style: Style
) -> None:
    indexed = rows.set_index("group")
    for number, group in enumerate(groups):
        x = number + offset
        if group not in indexed.index:
            axes.plot(x, 14, marker="x", markersize=2.6, color=style.colour, markeredgewidth=0.7)
            continue
        row = indexed.loc[group]
        axes.bar(x, row["mean"], width * 0.9, color=style.colour, linewidth=0)
        if math.isfinite(row["low"]):
            axes.plot([x, x], [row["low"], row["high"]], color="black", linewidth=0.8)
        scores = list(row["scores"])
        if not scores:
            continue
        spread = width / 4 if len(scores) > 1 else 0
        axes.plot(
            np.linspace(x - spread, x + spread, len(scores)), scores, linestyle="", marker="o",
            markersize=1.6, color="white", markeredgecolor="black", markeredgewidth=0.35,
            clip_on=False,
        )  # fmt: skip


# --- all tasks together ----------------------------------------------------------------------


def draw_aggregates(
    aggregates: pd.DataFrame,
    profiles: pd.DataFrame,
    improvements: pd.DataFrame,
    styles: Mapping[str, Style],
    *,
    notes: Sequence[str] = (),
    synthetic: bool = False,
) -> Figure:
    """Mean, median and interquartile mean with intervals; performance profiles; improvement.

    `aggregates`: method, statistic, value, low, high. `profiles`: method, threshold, share, low,
    high. `improvements`: ours, theirs, value, low, high.
    """
    methods = [method for method in styles if method in set(aggregates["method"])]
    has_pairs = len(improvements) > 0
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE_WIDTH, 2.15 + 0.06 * len(methods)), layout="constrained")
        ratios = [1.25, 1.25, 1.1] if has_pairs else [1, 1]
        all_axes = figure.subplots(1, len(ratios), width_ratios=ratios)
        _draw_intervals(all_axes[0], aggregates, methods, styles)
        _draw_profiles(all_axes[1], profiles, methods, styles)
        if has_pairs:
            _draw_improvements(all_axes[2], improvements, styles)
        add_legend(figure, [_line_handle(styles[method]) for method in methods])
    return finish(figure, notes, synthetic)


def _draw_intervals(
    axes: Axes, aggregates: pd.DataFrame, methods: Sequence[str], styles: Mapping[str, Style]
) -> None:
    names = list(dict.fromkeys(aggregates["statistic"]))
    for place, method in enumerate(methods):
        rows = aggregates[aggregates["method"] == method].set_index("statistic").loc[names]
        thickness = 0.7 / len(methods)
        y = np.arange(len(names)) + (place - (len(methods) - 1) / 2) * thickness
        _intervals(axes, y, rows, thickness * 0.8, styles[method].colour)
    axes.set_yticks(range(len(names)), [{"iqm": "IQM"}.get(n, n.capitalize()) for n in names])
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.015)
    axes.set_xlabel("Normalised score (score / 1000)")
    axes.set_title("Aggregates over tasks")


def _intervals(
    axes: Axes, y: np.ndarray, rows: pd.DataFrame, thickness: float, colour: str
) -> None:
    """Boxes from `low` to `high` with a black line at `value`."""
    axes.barh(y, rows["high"] - rows["low"], thickness, left=rows["low"], color=colour, alpha=0.8,
              linewidth=0)  # fmt: skip
    axes.vlines(rows["value"], y - thickness / 2, y + thickness / 2, color="black", linewidth=1.2)


def _draw_profiles(
    axes: Axes, profiles: pd.DataFrame, methods: Sequence[str], styles: Mapping[str, Style]
) -> None:
    for method in methods:
        rows = profiles[profiles["method"] == method]
        style = styles[method]
        axes.fill_between(rows["threshold"], rows["low"], rows["high"], color=style.colour,
                          alpha=0.18, linewidth=0, step="post")  # fmt: skip
        every = max(1, len(rows) // 5)
        axes.plot(rows["threshold"], rows["share"], color=style.colour, drawstyle="steps-post",
                  marker=style.marker, ms=2.8, markevery=(every // 2, every))  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(r"Normalised score $\tau$")
    axes.set_ylabel(r"Share of runs with score > $\tau$")
    axes.set_title("Performance profiles")


def _draw_improvements(axes: Axes, improvements: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    y = np.arange(len(improvements))
    for place in y:
        row = improvements.iloc[[place]]
        _intervals(axes, y[[place]], row, 0.3, styles[row["ours"].item()].colour)
    names = [
        f"{styles[ours].label}\nover {styles[theirs].label}"
        for ours, theirs in zip(improvements["ours"], improvements["theirs"], strict=True)
    ]
    axes.set_yticks(y, names, linespacing=1.0)
    axes.set_ylim(len(y) - 0.4, -0.6)
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.015)
    axes.set_xlabel("Probability of improvement")
    axes.set_title("Pairs of methods")


# --- images ----------------------------------------------------------------------------------


ROW_NAMES = ("Truth", "Model", "Error")


FORMULA = "(model - truth + 1) / 2".replace(" ", "\u00a0")  # these blanks do not break lines
ERROR_WORDS = f"Error: {FORMULA}, grey is no error."


def error_image(truth: np.ndarray, model: np.ndarray) -> np.ndarray:
    """(model - truth + 1) / 2 in [0, 1]: mid-grey where the prediction is right. uint8."""
    difference = model.astype(np.int16) - truth.astype(np.int16)
    return ((difference + 255) // 2).astype(np.uint8)


def draw_prediction(
    truth: np.ndarray,
    model: np.ndarray,
    context: int,
    *,
    title: str,
    most_per_row: int = 25,
    notes: Sequence[str] = (),
    synthetic: bool = False,
) -> Figure:
    """An open-loop prediction, every frame of it: truth, model and error in rows.

    truth, model: uint8 [T, 64, 64, 3]. The first `context` frames were seen by the model.
    """
    blocks = math.ceil(len(truth) / most_per_row)
    per_row = math.ceil(len(truth) / blocks)  # rows of the same length, also of 26 frames
    cell = (PAGE_WIDTH - 0.45) / per_row
    height = blocks * (3 * cell + 0.2) + 0.22
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        figure = Figure(figsize=(PAGE_WIDTH, height))
        figure.text(0.45 / PAGE_WIDTH, 1 - 0.06 / height, title, va="top", fontsize=9)
        for block in range(blocks):
            top = height - 0.36 - block * (3 * cell + 0.2)
            frames = range(block * per_row, min((block + 1) * per_row, len(truth)))
            images = (truth, model, error_image(truth, model))
            for line, (name, rows) in enumerate(zip(ROW_NAMES, images, strict=True)):
                left, bottom = 0.45 / PAGE_WIDTH, (top - (line + 1) * cell) / height
                width = cell * len(frames) / PAGE_WIDTH
                axes = figure.add_axes((left, bottom, width, cell * 0.97 / height))
                _draw_strip(axes, rows, frames, context)
                figure.text(left - 0.006, bottom + cell / 2 / height, name, ha="right", va="center",
                            fontsize=7.5)  # fmt: skip
            for place, frame in enumerate(frames):
                if frame == 0 or (frame + 1) % 5 == 0:
                    x = (0.45 + (place + 0.5) * cell) / PAGE_WIDTH
                    words = "t=1" if frame == 0 else str(frame + 1)
                    figure.text(x, (top + 0.03) / height, words, ha="center", va="bottom",
                                fontsize=6.5, color=GREY)  # fmt: skip
    return finish(figure, notes, synthetic)


def _draw_strip(axes: Axes, images: np.ndarray, frames: range, context: int) -> None:
    """Frames side by side with white lines between, orange where the context ends."""
    side = images.shape[2]
    axes.imshow(np.concatenate([images[frame] for frame in frames], axis=1), aspect="auto")
    for place, frame in enumerate(frames):
        if frame:
            colour, width = (VERMILION, 1.6) if frame == context else ("white", 0.7)
            axes.axvline(place * side - 0.5, color=colour, linewidth=width)
    axes.set_axis_off()


def draw_predictions(
    predictions: Sequence[tuple[str, np.ndarray, np.ndarray, int]],
    *,
    frames: Sequence[int] = (0, 2, 4, 5, 9, 14, 19, 24, 29, 34, 39, 44, 49),
    notes: Sequence[str] = (),
    synthetic: bool = False,
) -> Figure:
    """Several predictions at chosen frames, large enough for a page (the paper's Figure 5).

    predictions: (title, truth, model, context), images uint8 [T, 64, 64, 3].
    """
    left, gap = 0.45, 0.08
    cell = (PAGE_WIDTH - left - gap) / len(frames)
    block = 3 * cell + 0.36
    height = block * len(predictions)
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        figure = Figure(figsize=(PAGE_WIDTH, height))
        for number, (title, truth, model, context) in enumerate(predictions):
            top = height - number * block
            figure.text(left / PAGE_WIDTH, (top - 0.05) / height, title, va="top", fontsize=9)
            shown = [frame for frame in frames if frame < len(truth)]
            all_images = (truth, model, error_image(truth, model))
            for line, (name, images) in enumerate(zip(ROW_NAMES, all_images, strict=True)):
                y = (top - 0.33 - (line + 1) * cell) / height
                figure.text((left - 0.05) / PAGE_WIDTH, y + cell / 2 / height, name, ha="right",
                            va="center", fontsize=7.5)  # fmt: skip
                for column, frame in enumerate(shown):
                    x = (left + column * cell + (gap if frame >= context else 0)) / PAGE_WIDTH
                    axes = figure.add_axes((x, y, cell * 0.96 / PAGE_WIDTH, cell * 0.96 / height))
                    axes.imshow(images[frame])
                    axes.set_axis_off()
                    if line == 0:
                        axes.set_title(f"t={frame + 1}", fontsize=6.5, color=GREY, pad=1.5)
    return finish(figure, notes, synthetic)


def draw_observations(
    images: Mapping[str, np.ndarray], *, notes: Sequence[str] = (), synthetic: bool = False
) -> Figure:
    """What the agent sees of each task: task -> uint8 [64, 64, 3] (the paper's Figure 2)."""
    count = len(images)
    columns = min(count, 5)
    rows = math.ceil(count / columns)
    cell = 1.1 if columns < 5 else PAGE_WIDTH / columns - 0.1
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        width = max((cell + 0.1) * columns, 3.4)
        figure = Figure(figsize=(width, rows * (cell + 0.28) + 0.05), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.02)
        all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in all_axes:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, (task, image) in zip(all_axes, images.items(), strict=False):
            axes.imshow(image, interpolation="nearest")
            axes.set_title(pretty(task), fontsize=8.5)
    return finish(figure, notes, synthetic)
