"""The figures that a suite asks for, each with the data that it shows.

`FIGURES` maps the names of a suite's `figures` key to functions. All numbers come from the
Summary; nothing is read or saved here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.count import statistics
from analysis.count.averages import common_range, interval_warning, normalised
from analysis.count.methods import PUBLISHED_STYLES, pair_of, settings_of
from analysis.count.published import CAVEATS, published_scores, random_scores
from analysis.count.summary import METRIC_WORDS, Summary
from analysis.count.verdict import counts_text
from analysis.draw import aggregates, bars, heatmap, images, lines
from analysis.draw.page import finish, pretty
from analysis.read.predictions import Prediction
from analysis.variants import label_of, pair_label

MOST_SEEDS = 10  # more single runs than these are not drawn
LISTED_PROBLEMS = 5  # in a figure's footer; all of them are in problems.txt
METRIC_LABELS = {"evaluate_return": "Score", "episode_return": "Training return"}


class Drawn(NamedTuple):
    """One figure with its data."""

    name: str
    figure: Figure
    data: pd.DataFrame
    pdf: bool = True


def draw_suite(
    figures: Sequence[str], summary: Summary, predictions: Sequence[Prediction]
) -> list[Drawn]:
    """The named figures, without those that have nothing to show."""
    order = {task: place for place, task in enumerate(summary.tasks)}
    rank = {method: place for place, method in enumerate(summary.styles)}
    predictions = sorted(predictions, key=lambda one: (order[one.task], rank[one.method]))
    return [one for name in figures for one in FIGURES[name](summary, predictions)]


def _drawn(
    summary: Summary, name: str, figure: Figure, data: pd.DataFrame,
    notes: Sequence[str] = (), *, pdf: bool = True,
) -> Drawn:  # fmt: skip
    """The figure with its footer. Synthetic data are marked in it and in every row of the data."""
    data = data.copy()
    data.insert(0, "suite", summary.name)
    if summary.synthetic:
        data.insert(0, "synthetic", True)
    return Drawn(name, finish(figure, notes, summary.synthetic), data, pdf)


# --- the figures -----------------------------------------------------------------------------


def draw_curves(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Learning curves, one panel per task."""
    if summary.curves.empty:
        return []
    figure = lines.draw_lines(
        summary.curves, summary.styles, summary.scale, tasks=summary.tasks,
        published=levels(summary), y_label=metric_label(summary.metric),
        reference=summary.reference, seeds=single_runs(summary),
    )  # fmt: skip
    data = summary.curves.drop(columns="x")
    return [_drawn(summary, "curves", figure, data, notes_of(summary, published=True))]


def draw_sweep(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Final score over the setting on the suite's x-axis."""
    if summary.scores.empty or summary.x is None:
        return []
    notes = notes_of(summary, published=True, binned=False)
    present = set(summary.runs["behaviour"])
    for behaviour, setting in summary.x.of_behaviour.items():
        if behaviour in present:
            notes.insert(1, f"{label_of('behaviour', behaviour)}: {setting.replace('_', ' ')}.")
    figure = lines.draw_lines(
        summary.scores, summary.styles, summary.scale, x="x", x_label=summary.x.label,
        y_label=metric_label(summary.metric), tasks=summary.tasks, published=levels(summary),
        seeds=single_runs(summary, final=True),
    )  # fmt: skip
    data = summary.scores.drop(columns="scores").rename(columns={"x": summary.x.setting})
    return [_drawn(summary, "sweep", figure, data, notes)]


def draw_bars(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Final scores and published scores as bars, with averages over tasks."""
    if summary.scores.empty:
        return []
    table, titles = bar_table(summary)
    styles = {m: s for m, s in summary.styles.items() if m in set(table["method"])}
    published = {m: s for m, s in PUBLISHED_STYLES.items() if m in summary.published_methods}
    groups = [*summary.tasks, *titles]
    notes = notes_of(summary, published=True, binned=False, mark="lines")
    legend = "Points: single seeds. ×: no number. Lines across bars: published scores."
    if not published:
        legend = legend.partition(" Lines")[0]
    if titles:
        legend += " Averages: mean over tasks, line: 95 % t interval."
    if len(titles) > 1:
        legend += " * Without quadruped: D4PG and A3C have no scores there."
    notes.insert(1, legend)
    label, y_range = score_label(summary)
    figure = bars.draw_bars(
        table, styles, groups, published=published, titles=titles,
        rows=2 if len(groups) > 8 else 1, y_label=label, y_range=y_range,
    )  # fmt: skip
    return [_drawn(summary, "bars", figure, table.drop(columns="scores"), notes)]


INTERVAL_WORDS = (
    "Intervals: 95 %; Student's t for mean and optimality gap, bootstrap of the seeds within tasks "
    "for median, IQM and profiles, Newcombe's for pairs."
)


def draw_heatmap(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Final scores over the two settings that the suite varies; nothing if these are not two."""
    scores = summary.scores
    table = pd.DataFrame(
        [
            {"method": pair_label(pair_of(row.method)), **settings_of(row.method)}
            | ({summary.x.setting: f"{row.x:g}"} if summary.x else {})
            for row in scores.itertuples()
        ]
    ).fillna("")
    varying = [name for name in table if table[name].nunique() > 1]
    if len(varying) != 2:
        return []
    y, x = sorted(varying, key=lambda name: table[name].nunique())
    table = table.assign(task=list(scores["task"]), mean=list(scores["mean"]), n=list(scores["n"]))
    figure = heatmap.draw_heatmap(
        table, summary.scale, x=x, y=y, tasks=summary.tasks, label=metric_label(summary.metric)
    )
    notes = notes_of(summary, binned=False, mark="")
    return [_drawn(summary, "heatmap", figure, table, notes)]


def draw_aggregates(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Aggregates over tasks, performance profiles and pairs of methods."""
    if summary.aggregates.empty:
        return []
    tasks = int(summary.aggregates["tasks"].iloc[0])
    if {summary.scale.range_of(task) for task in summary.tasks} <= {(0.0, 1000.0), None}:
        what, scores = "score / 1000", "Final scores / 1000"
    else:
        what = "0: lowest, 1: highest"
        scores = f"Normalised scores ({what})"
    notes = [
        f"{scores} of {tasks} tasks, which weigh the same. {INTERVAL_WORDS}",
        *filter(None, [interval_warning(summary.aggregates)]),
        *problem_lines(summary),
    ]
    figure = aggregates.draw_aggregates(
        summary.aggregates, summary.profiles, summary.improvements, summary.styles,
        f"Normalised score ({what})",
    )  # fmt: skip
    return [_drawn(summary, "aggregates", figure, summary.aggregates, notes)]


def draw_strips(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Each prediction as a strip of all its frames."""
    drawn: list[Drawn] = []
    for one in predictions:
        note = (
            f"Open-loop prediction of a held-out episode at {one.env_steps:,} env. steps: "
            f"{one.context} images of context (left of the mark), {len(one.truth) - one.context} "
            f"predicted from actions alone. {images.ERROR_WORDS}"
        )
        title = prediction_title(summary, one)
        figure = images.draw_strip(one.truth, one.model, one.context, title)
        name = re.sub(r"[^\w=.-]", "-", f"prediction-{one.task}-{one.method}")
        same = sum(other.name.partition("~")[0] == name for other in drawn)  # `a:b` and `a-b`
        name = f"{name}~{same + 1}" if same else name
        drawn.append(_drawn(summary, name, figure, prediction_data(one), [note], pdf=False))
    return drawn


def draw_predictions(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Chosen frames of all predictions on one page."""
    if not predictions:
        return []
    notes = [
        f"First {predictions[0].context} images: context; the others are predicted from "
        f"actions alone. {images.ERROR_WORDS}",
        *problem_lines(summary),
    ]
    rows = [
        (prediction_title(summary, one), one.truth, one.model, one.context) for one in predictions
    ]
    data = pd.concat([prediction_data(one) for one in predictions], ignore_index=True)
    return [_drawn(summary, "predictions", images.draw_predictions(rows), data, notes)]


def draw_observations(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """What the agent sees of each task, from the true images of predictions."""
    first = {one.task: one for one in reversed(predictions)}
    first = {task: first[task] for task in summary.tasks if task in first}
    if len(first) < 2:
        return []
    seen = {task: one.truth[0] for task, one in first.items()}
    run_ids = [one.run_id for one in first.values()]
    data = pd.DataFrame({"task": list(first), "run_id": run_ids})
    return [_drawn(summary, "observations", images.draw_observations(seen), data)]


FIGURES: dict[str, Callable[[Summary, Sequence[Prediction]], list[Drawn]]] = {
    "curves": draw_curves,
    "sweep": draw_sweep,
    "heatmap": draw_heatmap,
    "bars": draw_bars,
    "aggregates": draw_aggregates,
    "strips": draw_strips,
    "predictions": draw_predictions,
    "observations": draw_observations,
}


# --- their words -----------------------------------------------------------------------------


def notes_of(
    summary: Summary, *, published: bool = False, binned: bool = True, mark: str = "shade"
) -> list[str]:
    """The footer: what the band is, how many seeds, how scores are averaged, what is missing."""
    counts = summary.scores["n"]
    spread = statistics.BANDS[summary.band][0]
    band = f"; {mark}: {spread}" if mark else ""
    words = ["One seed per task and method: no spread is shown."]
    if counts.max() > 1:
        words = [f"Mean over {counts_text(counts)} seeds per task and method{band}."]
    if binned:
        score = f"mean return of {summary.metric_words}, averaged per seed within bins first"
        words.append(f"Score: {score}.")
        if (summary.curves["n"] < summary.curves["n_expected"]).any():
            words.append("Dotted: fewer runs than planned.")
        if len(single_runs(summary)):
            words.append("Thin lines: single seeds.")
        if summary.reference is not None and len(summary.reference):
            words.append(f"Dreamer (released): mean and {spread}; few points are marked.")
    else:
        words.append(f"A seed's score is {summary.final_words()}.")
    notes = [" ".join(words)]
    if published:
        if "best" in set(levels(summary)["method"]):
            best = "the highest published score of any method after any budget"
            notes.append(f"Best published: {best}.")
        caveats = [CAVEATS[m] for m in PUBLISHED_STYLES if m in summary.published_methods]
        notes += ["; ".join(caveats) + "."] if caveats else []
    return notes + problem_lines(summary)


def problem_lines(summary: Summary) -> list[str]:
    problems = summary.problems
    more = len(problems) - LISTED_PROBLEMS
    shown = problems[: LISTED_PROBLEMS + (more == 1)]
    return shown + ([f"and {more} more, all listed in problems.txt"] if more > 1 else [])


def metric_label(metric: str) -> str:
    return METRIC_LABELS.get(metric, metric.replace("_", " "))


def score_label(summary: Summary) -> tuple[str, tuple[float, float] | None]:
    """Label and range of an axis that all tasks share."""
    label = metric_label(summary.metric)
    shared = common_range(summary.scale, summary.tasks)
    if shared or not bars_in_percent(summary):
        return label, shared
    return f"{label} (% of scale)", (0.0, 100.0)


def prediction_title(summary: Summary, one: Prediction) -> str:
    return f"{pretty(one.task)}, {summary.styles[one.method].label}, seed {one.seed}"


# --- their data ------------------------------------------------------------------------------


def single_runs(summary: Summary, *, final: bool = False) -> pd.DataFrame:
    """Curves or final scores of single runs, where a method has two to MOST_SEEDS of them."""
    known = summary.runs[["run_id", "task", "method", "x", "n_expected"]]
    known = known[known["n_expected"].between(2, MOST_SEEDS)]
    if final:
        finals = summary.finals[["run_id", "score"]].rename(columns={"score": "value"})
        return finals.merge(known, on="run_id")
    return summary.binned[["run_id", "env_steps", "value"]].merge(known, on="run_id")


def levels(summary: Summary) -> pd.DataFrame:
    """The horizontal lines of a figure, `method, task, score_mean`: random actions, and the
    published scores that the suite names, otherwise the best published score of each task.
    """
    if summary.metric not in METRIC_WORDS:
        return summary.published
    chance = pd.DataFrame(list(random_scores().items()), columns=["task", "score_mean"])
    chance.insert(0, "method", "random")
    if len(summary.published):
        others = summary.published
    else:
        known = published_scores()
        others = known.loc[known.groupby("task")["score_mean"].idxmax()].assign(method="best")
    lines = pd.concat([chance, others], ignore_index=True)[["method", "task", "score_mean"]]
    return lines[lines["task"].isin(summary.tasks)]


def bars_in_percent(summary: Summary) -> bool:
    """Tasks with different ranges share an axis of bars only in percent of their ranges."""
    ranges = {summary.scale.range_of(task) for task in summary.tasks}
    return len(ranges) > 1 and None not in ranges


def bar_table(summary: Summary) -> tuple[pd.DataFrame, dict[str, str]]:
    """`group, method, mean, low, high, n, scores, run_ids` for tasks and averages; their titles."""
    columns = ["group", "method", "mean", "low", "high", "n", "scores", "run_ids"]
    names = {"task": "group", "score_mean": "mean"}
    ours, theirs = (one.rename(columns=names) for one in (summary.scores, summary.published))
    theirs = theirs.assign(scores=[[]] * len(theirs), run_ids="published")
    table = _stacked(ours, theirs).reindex(columns=columns)
    if bars_in_percent(summary):
        table = _in_percent(table, summary)
    means = summary.averages.assign(scores=[[]] * len(summary.averages))
    means["run_ids"] = np.where(means["published"].astype(bool), "published", "")
    titles = {
        group: title.replace(" without quadruped", " tasks*")
        for group, title in zip(means["group"], means["title"], strict=True)
    }
    return _stacked(table, means)[columns], titles


def _stacked(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _in_percent(table: pd.DataFrame, summary: Summary) -> pd.DataFrame:
    def percent(values: pd.Series, tasks: Iterable[str]) -> pd.Series:
        return 100 * normalised(values, tasks, summary.scale)

    numbers = {name: percent(table[name], table["group"]) for name in ("mean", "low", "high")}
    scores = [
        list(percent(pd.Series(given, dtype=float), [task] * len(given)))
        for task, given in zip(table["group"], table["scores"], strict=True)
    ]
    return table.assign(**numbers, scores=scores)


def prediction_data(one: Prediction) -> pd.DataFrame:
    """Mean squared error of each frame of one prediction, of pixels in [0, 1]."""
    error = (one.truth.astype(float) - one.model.astype(float)) / 255
    return pd.DataFrame(
        {
            "task": one.task,
            "method": one.method,
            "run_id": one.run_id,
            "env_steps": one.env_steps,
            "frame": np.arange(1, len(error) + 1),
            "context": np.arange(len(error)) < one.context,
            "mean_squared_error": (error**2).mean((1, 2, 3)),
        }
    )
