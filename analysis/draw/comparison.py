"""Two methods: the scores of single seeds per task, and the differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.count.comparison import Comparison
from analysis.count.estimates import MAX_SEEDS, Estimate, Sample
from analysis.count.methods import BLUE, ORANGE, Style
from analysis.draw.page import GREY, PAGE_WIDTH, RC, add_legend, finish, line_handle, pretty
from analysis.draw.tables import difference_text, sample_text
from suites.command import aligned
from suites.record.scores import WINDOW_WORDS

LOOKS = ((BLUE, "o"), (ORANGE, "s"))


def draw_comparison(found: Comparison, *, synthetic: bool = False) -> Figure:
    """A row per task: every seed of both methods with their means; the difference on the right."""
    rows = len(found.tasks)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE_WIDTH, 1.1 + 0.27 * rows), layout="constrained")
        scores, differences = figure.subplots(1, 2, sharey=True)
        for row, one in enumerate(found.tasks):
            for side, (colour, marker) in enumerate(LOOKS):
                y = row + 0.16 * (2 * side - 1)
                values = one.scores[side]
                scores.plot(values, [y] * len(values), marker, color=colour, markersize=3.2,
                            alpha=0.6, linewidth=0)  # fmt: skip
                scores.vlines(one.samples[side].mean, y - 0.13, y + 0.13, color="black")
            _difference(differences, row, one.difference)
        scores.set_yticks(range(rows), [pretty(one.task) for one in found.tasks])
        scores.set_ylim(rows - 0.5, -0.5)
        scores.set_xlabel("Final score of each seed; line: mean")
        differences.axvline(0, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        differences.set_xlabel("Difference of means")
        looks = zip(found.labels, LOOKS, strict=True)
        add_legend(figure, [line_handle(Style(label, *look)) for label, look in looks])
    notes = [
        f"{found.labels[0]} minus {found.labels[1]}; lines: Welch's 95 % interval, for one task. "
        f"A seed's score is the mean of its evaluations in {WINDOW_WORDS}.",
        overall_text(found),
    ]
    return finish(figure, notes, synthetic)


def _difference(axes: Axes, row: int, estimate: Estimate) -> None:
    low, high = estimate.interval()
    if math.isfinite(low):
        axes.plot([low, high], [row, row], color="black", linewidth=1)
    axes.plot(estimate.value, row, "D", color="black", markersize=3.6)


# --- as text and numbers -----------------------------------------------------------------------


def comparison_text(found: Comparison) -> str:
    """What is better over tasks first, then each task."""
    differ = ", ".join(f"{key} {a} / {b}" for key, (a, b) in found.settings.items())
    lines = [
        f"{found.labels[0]} minus {found.labels[1]}. {overall_text(found)}",
        *([f"Settings that differ: {differ}"] if differ else []),
        *([f"Only one of them has {', '.join(found.left_out)}"] if found.left_out else []),
        "",
    ]
    head = ("task", "env_steps", "evaluations", *found.labels, "difference", "p", "would decide")
    rows = [
        (
            one.task, f"{one.env_steps:,}", one.evaluations, *map(sample_text, one.samples),
            _estimate_text(one.difference), f"{one.p:.2g}" if math.isfinite(one.p) else "-",
            _seeds_text(one.seeds_needed, one.samples),
        )
        for one in found.tasks
    ]  # fmt: skip
    return "\n".join([*lines, *aligned([head, *rows])])


def overall_text(found: Comparison) -> str:
    """`Dreamer is better: mean difference over 2 tasks +300 points [+280, +320] (95 %), ...`"""
    many = "1 task" if found.mean_tasks == 1 else f"{found.mean_tasks} tasks"
    low, high = found.improvement_interval
    parts = [f"probability of improvement {found.improvement:.2f} [{low:.2f}, {high:.2f}]"]
    if found.mean is not None:
        text = _estimate_text(found.mean, f" {found.unit}")
        parts.insert(0, f"mean difference over {many} {text} (95 %)")
        samples = [one for task in found.tasks for one in task.samples]
        parts.append(f"would decide: {_seeds_text(found.seeds_needed, samples)}")
    elif not found.unit and any(min(s.n for s in one.samples) > 1 for one in found.tasks):
        parts.append("no mean difference: the tasks share no scale (`scale` in the suite)")
    else:
        parts.append("no mean difference: it takes two seeds on both sides")
    return f"{found.outcome}: {'; '.join(parts)}."


def _estimate_text(one: Estimate, unit: str = "") -> str:
    return difference_text(one.value, one.interval(), unit)


def _seeds_text(needed: int | None, samples: Sequence[Sample]) -> str:
    if needed is not None:
        return f"{needed} seeds each"
    return "?" if min(one.n for one in samples) < 2 else f"more than {MAX_SEEDS} seeds"


def comparison_table(found: Comparison) -> pd.DataFrame:
    """A row per task, and a last one, `mean`."""
    rows = [
        _row(one.task, one.difference, one.seeds_needed)
        | {"env_steps": one.env_steps, "evaluations": one.evaluations, "p": one.p}
        | {f"{key}_{name}": value
           for name, side in zip(("first", "second"), one.samples, strict=True)
           for key, value in side._asdict().items()}
        for one in found.tasks
    ]  # fmt: skip
    if found.mean is not None:
        rows.append(_row("mean", found.mean, found.seeds_needed) | {"p": found.mean.p_different()})
    table = pd.DataFrame(rows)
    table.insert(0, "first", found.labels[0])
    table.insert(1, "second", found.labels[1])
    return table


def _row(task: str, estimate: Estimate, needed: int | None) -> dict[str, Any]:
    low, high = estimate.interval()
    seeds = np.nan if needed is None else needed
    return dict(task=task, difference=estimate.value, low=low, high=high, seeds_needed=seeds)


def comparison_json(found: Comparison, synthetic: bool) -> dict[str, Any]:
    """Everything that the text says, with NaN where there is no number."""
    table = comparison_table(found).drop(columns=["first", "second"])
    return {
        **({"synthetic": True} if synthetic else {}),
        "first": found.labels[0],
        "second": found.labels[1],
        "outcome": found.outcome,
        "unit": found.unit,
        "probability_of_improvement": {
            "value": found.improvement,
            **found.improvement_interval._asdict(),
        },
        "settings": {key: list(values) for key, values in found.settings.items()},
        "left_out": found.left_out,
        "rows": table.to_dict("records"),
    }
