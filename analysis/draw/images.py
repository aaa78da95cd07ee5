"""Images: open-loop predictions, and what the agent sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.count.methods import VERMILION
from analysis.draw.page import GREY, PAGE_WIDTH, RC, layout, pretty

ROW_NAMES = ("Truth", "Model", "Error")
MOST_PER_ROW = 25  # frames of a strip
CHOSEN = (0, 2, 4, 5, 9, 14, 19, 24, 29, 34, 39, 44, 49)  # frames on a page of predictions
FORMULA = "(model - truth + 1) / 2".replace(" ", "\u00a0")  # no line breaks inside
ERROR_WORDS = f"Error: {FORMULA}, grey is no error."


def error_image(truth: np.ndarray, model: np.ndarray) -> np.ndarray:
    """(model - truth + 1) / 2 in [0, 1]: mid-grey where the prediction is right. uint8."""
    difference = model.astype(np.int16) - truth.astype(np.int16)
    return ((difference + 255) // 2).astype(np.uint8)


def draw_strip(truth: np.ndarray, model: np.ndarray, context: int, title: str) -> Figure:
    """An open-loop prediction with all its frames: rows of truth, model and error.

    truth, model: uint8 [T, 64, 64, 3]. The first `context` frames were seen by the model.
    """
    blocks = math.ceil(len(truth) / MOST_PER_ROW)
    per_row = math.ceil(len(truth) / blocks)  # rows of equal length
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
                _draw_frames(axes, rows, frames, context)
                figure.text(left - 0.006, bottom + cell / 2 / height, name, ha="right", va="center",
                            fontsize=7.5)  # fmt: skip
            for place, frame in enumerate(frames):
                if frame == 0 or (frame + 1) % 5 == 0:
                    x = (0.45 + (place + 0.5) * cell) / PAGE_WIDTH
                    words = "t=1" if frame == 0 else str(frame + 1)
                    figure.text(x, (top + 0.03) / height, words, ha="center", va="bottom",
                                fontsize=6.5, color=GREY)  # fmt: skip
    return figure


def _draw_frames(axes: Axes, images: np.ndarray, frames: range, context: int) -> None:
    """Frames side by side, with an orange line where the context ends and white lines elsewhere."""
    side = images.shape[2]
    axes.imshow(np.concatenate([images[frame] for frame in frames], axis=1), aspect="auto")
    for place, frame in enumerate(frames):
        if frame:
            colour, width = (VERMILION, 1.6) if frame == context else ("white", 0.7)
            axes.axvline(place * side - 0.5, color=colour, linewidth=width)
    axes.set_axis_off()


def draw_predictions(
    predictions: Sequence[tuple[str, np.ndarray, np.ndarray, int]],
) -> Figure:
    """Chosen frames of several predictions on a page (the paper's Figure 5).

    predictions: (title, truth, model, context), images uint8 [T, 64, 64, 3].
    """
    left, gap = 0.45, 0.08
    cell = (PAGE_WIDTH - left - gap) / len(CHOSEN)
    block = 3 * cell + 0.36
    height = block * len(predictions)
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        figure = Figure(figsize=(PAGE_WIDTH, height))
        for number, (title, truth, model, context) in enumerate(predictions):
            top = height - number * block
            figure.text(left / PAGE_WIDTH, (top - 0.05) / height, title, va="top", fontsize=9)
            shown = [frame for frame in CHOSEN if frame < len(truth)]
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
    return figure


def draw_observations(images: Mapping[str, np.ndarray]) -> Figure:
    """What the agent sees of each task: task -> uint8 [64, 64, 3] (the paper's Figure 2)."""
    count = len(images)
    columns = min(count, 5)
    rows = math.ceil(count / columns)
    cell = 1.1 if columns < 5 else PAGE_WIDTH / columns - 0.1
    with matplotlib.rc_context({**RC, "axes.grid": False}):
        width = max((cell + 0.1) * columns, 3.4)
        figure = Figure(figsize=(width, rows * (cell + 0.28) + 0.05), layout="constrained")
        layout(figure).set(w_pad=0.03, h_pad=0.02)
        all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in all_axes:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, (task, image) in zip(all_axes, images.items(), strict=False):
            axes.imshow(image, interpolation="nearest")
            axes.set_title(pretty(task), fontsize=8.5)
    return figure
