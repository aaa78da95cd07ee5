"""Draw a suite's figures and tables from its records.

    python analysis/make_figures.py --suite suites/quickstart.yaml
    python analysis/make_figures.py                       every suite that has results
    python analysis/make_figures.py --all --html report.html

Each figure is saved as PNG (300 dpi) and PDF beside a CSV of what it shows: the numbers, and the
runs, attempts and versions of the code behind each of them.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.count import statistics as aggregate
from analysis.count.methods import PUBLISHED_STYLES
from analysis.count.published import CAVEATS, baselines
from analysis.count.summary import Summary, summarise
from analysis.draw import lines as figures
from analysis.draw import tables
from analysis.files import write_text
from analysis.read import curves as exchange
from analysis.read.frame import Records, Source, load_suite
from analysis.read.mongo import opened
from analysis.report import report
from dreamer.config import UserError, nearest
from suites import command
from suites.expand import Suite, expand

ROOT = Path(__file__).resolve().parents[2]
LISTED_PROBLEMS = 5  # in a figure's footer; all of them are in problems.txt


class Prediction(NamedTuple):
    """A run's open-loop prediction of a held-out episode."""

    run_id: str
    task: str
    method: str
    seed: int
    truth: np.ndarray  # uint8 [T, 64, 64, 3]
    model: np.ndarray  # uint8 [T, 64, 64, 3]
    context: int  # frames that the model saw
    env_steps: int


class Drawn(NamedTuple):
    """One figure with its data."""

    name: str
    figure: Figure
    data: pd.DataFrame
    pdf: bool = True


# --- which suites ----------------------------------------------------------------------------


def included(suite: Suite) -> list[Path]:
    """The files of the suites that a suite is made of, where it has no runs of its own."""
    names = {name for run in suite.runs for name in run.suites if name != suite.name}
    if not names or any(set(run.suites) == {suite.name} for run in suite.runs):
        return []
    paths = [suite.path.parent / f"{name}.yaml" for name in sorted(names)]
    return [path for path in paths if path.exists()]


def expand_all(paths: Sequence[Path]) -> list[Suite]:
    """The suites, each once; one that only includes others stands for them."""
    suites: dict[str, Suite] = {}
    for path in paths:
        if not path.is_file():
            known = [file.stem for file in (ROOT / "suites").glob("*.yaml")]
            raise UserError(f"{path}: no such suite; {nearest(path.stem, known)}")
        suite = expand(path)
        for one in [expand(part) for part in included(suite)] or [suite]:
            suites[one.name] = one
    return list(suites.values())


# --- figures of a suite ----------------------------------------------------------------------


def notes_of(
    summary: Summary, published: Sequence[str] = (), *, binned: bool = True, mark: str = "shade"
) -> list[str]:
    """The footer: what the band is, how many seeds, how scores are averaged, what is missing."""
    counts = sorted({int(n) for n in summary.scores["n"]}) or [0]
    seeds = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
    spread = aggregate.BANDS[summary.band][0]
    what = METRIC_WORDS.get(summary.metric, f"values of {summary.metric}")
    lines = [f"Mean over {seeds} seeds per task and method; {mark}: {spread}."]
    if counts[-1] < 2:
        lines = ["One seed per task and method: no spread is shown."]
    if binned:
        lines[0] += f" Score: mean return of {what}, averaged per seed within bins first."
        if (summary.curves["n"] < summary.curves["n_expected"]).any():
            lines[0] += " Dotted: fewer runs than planned are behind the line."
    else:
        lines[0] += f" A seed's score is the mean return of its last {summary.last} {what}."
    if published:
        lines.append("; ".join(CAVEATS[m] for m in PUBLISHED_STYLES if m in published) + ".")
    return lines + problem_lines(summary)


METRIC_WORDS = {"evaluate_return": "evaluations", "episode_return": "training episodes"}


def problem_lines(summary: Summary) -> list[str]:
    problems = summary.problems
    more = len(problems) - LISTED_PROBLEMS
    lines = problems[: LISTED_PROBLEMS + (more == 1)]
    return lines + ([f"and {more} more, all listed in problems.txt"] if more > 1 else [])


def draw_curves(summary: Summary, reference: pd.DataFrame | None) -> list[Drawn]:
    """Learning curves, one panel per task: figures 7 to 11, and any other suite."""
    if summary.curves.empty:
        return []
    lines = _published_rows(summary)
    figure = figures.draw_lines(
        summary.curves, summary.styles, tasks=summary.tasks, baselines=lines,
        y_label=_axis_words(summary.metric),
        reference=None if reference is None else _reference_curves(reference, summary),
        notes=notes_of(summary, list(dict.fromkeys(lines["method"]))), synthetic=summary.synthetic,
    )  # fmt: skip
    return [Drawn("curves", figure, _marked(summary, summary.curves.drop(columns="x")))]


def draw_horizons(summary: Summary, reference: pd.DataFrame | None) -> list[Drawn]:
    """Final score over the imagination horizon: figure 4."""
    table = summary.scores
    if table.empty:
        return []
    lines = _published_rows(summary)
    notes = notes_of(summary, list(dict.fromkeys(lines["method"])), binned=False)
    if (summary.runs["behaviour"] == "planet").any():
        notes.insert(1, "PlaNet: how far it plans.")
    figure = figures.draw_lines(
        table, summary.styles, x="x", x_label="Imagination horizon", tasks=summary.tasks,
        baselines=lines, notes=notes, synthetic=summary.synthetic,
    )  # fmt: skip
    data = table.drop(columns="scores").rename(columns={"x": "horizon"})
    return [Drawn("horizons", figure, _marked(summary, data))]


def draw_bars(summary: Summary, reference: pd.DataFrame | None) -> list[Drawn]:
    """Final scores as bars, beside published ones, with fair averages: figure 6."""
    if summary.scores.empty:
        return []
    table, titles = bar_table(summary)
    shown = {m: s for m, s in summary.styles.items() if m in set(table["method"])}
    shown |= {m: PUBLISHED_STYLES[m] for m in summary.published if m in PUBLISHED_STYLES}
    groups = [*summary.tasks, *titles]
    notes = notes_of(summary, list(summary.published), binned=False, mark="lines")
    notes.insert(
        1,
        "Points: single seeds. ×: no number. Averages: mean over tasks, line: 95 % stratified "
        f"bootstrap interval ({aggregate.RESAMPLES} resamples)."
        + (" * Without quadruped: D4PG and A3C have no scores there." if len(titles) > 1 else ""),
    )
    figure = figures.draw_bars(
        table, shown, groups, titles=titles, rows=2 if len(groups) > 8 else 1, notes=notes,
        synthetic=summary.synthetic,
    )  # fmt: skip
    return [Drawn("bars", figure, _marked(summary, table.drop(columns="scores")))]


def bar_table(summary: Summary) -> tuple[pd.DataFrame, dict[str, str]]:
    """`group, method, mean, low, high, n, scores, run_ids` for tasks and averages; their titles."""
    table = summary.scores.rename(columns={"task": "group"})
    table = table[["group", "method", "mean", "low", "high", "n", "scores", "run_ids"]]
    rows = _published_rows(summary).rename(columns={"task": "group", "score_mean": "mean"})
    parts = [table, _plain_bars(rows[["group", "method", "mean"]])]
    titles = {}
    methods = [method for method in summary.styles if method in set(summary.finals["method"])]
    for tasks, words in tables.average_groups(summary):
        name = f"average_{len(tasks)}"
        titles[name] = words.replace(" without quadruped", " tasks*")
        ours = tables.averages(summary, methods, tasks).assign(group=name, run_ids="")
        theirs = [(m, tables.published_average(m, tasks)) for m in summary.published]
        known = [dict(group=name, method=m, mean=mean) for m, mean in theirs if mean is not None]
        parts += [ours.assign(scores=[[] for _ in methods]), _plain_bars(pd.DataFrame(known))]
    return pd.concat([part for part in parts if len(part)], ignore_index=True), titles


def _plain_bars(rows: pd.DataFrame) -> pd.DataFrame:
    blank = [[] for _ in range(len(rows))]
    return rows.assign(low=np.nan, high=np.nan, scores=blank, run_ids="published")


def draw_aggregates(summary: Summary, reference: pd.DataFrame | None) -> list[Drawn]:
    """Aggregates over tasks, performance profiles and pairs of methods."""
    if summary.aggregates.empty:
        return []
    tasks = int(summary.aggregates["tasks"].iloc[0])
    notes = [
        f"Final scores / 1000 of {tasks} tasks. Intervals: 95 %, stratified bootstrap "
        f"({aggregate.RESAMPLES} resamples; 500 for profiles; seeds drawn within tasks).",
        *problem_lines(summary),
    ]
    figure = figures.draw_aggregates(
        summary.aggregates, summary.profiles, summary.improvements, summary.styles, notes=notes,
        synthetic=summary.synthetic,
    )  # fmt: skip
    return [
        Drawn("aggregates", figure, _marked(summary, summary.aggregates)),
    ]


# The figures of a suite, by its name; "" is every other suite.
DRAWERS: dict[str, tuple[Callable[[Summary, pd.DataFrame | None], list[Drawn]], ...]] = {
    "": (draw_curves, draw_aggregates),
    "figure4": (draw_horizons,),
    "figure5": (draw_curves,),
    "figure6": (draw_bars, draw_aggregates, draw_curves),
}


def _axis_words(metric: str) -> str:
    return {"evaluate_return": "Score", "episode_return": "Training return"}.get(
        metric, metric.replace("_", " ")
    )


def _published_rows(summary: Summary) -> pd.DataFrame:
    rows = baselines(summary.published)
    return rows[rows["task"].isin(summary.tasks)]


def _reference_curves(reference: pd.DataFrame, summary: Summary) -> pd.DataFrame:
    """Mean and band over the seeds of given curves, up to the first point not before our budget."""
    budget = summary.runs.groupby("task")["target_env_steps"].max()
    here = reference[reference["task"].isin(budget.index)]
    behind = here[here["env_steps"] >= here["task"].map(budget)]
    last = behind.groupby("task")["env_steps"].min().reindex(budget.index).fillna(budget)
    here = here[here["env_steps"] <= here["task"].map(last)]
    return exchange.reference_statistics(here, summary.band)


def _marked(summary: Summary, data: pd.DataFrame) -> pd.DataFrame:
    """Data for a figure's CSV; made-up data say so in every row."""
    data = data.copy()
    data.insert(0, "suite", summary.name)
    if summary.synthetic:
        data.insert(0, "synthetic", True)
    return data


# --- predictions -----------------------------------------------------------------------------


def predictions_of(summary: Summary, source: Source) -> list[Prediction]:
    """One prediction per task and method: of the first seed that has one."""
    found: dict[tuple[str, str], Prediction] = {}
    for run in summary.runs.sort_values("seed", kind="stable").itertuples():
        data = None if (run.task, run.method) in found else source.prediction(run.run_id)
        if data is None:
            continue
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                found[run.task, run.method] = Prediction(
                    run.run_id, run.task, run.method, int(run.seed), file["truth"], file["model"],
                    int(file["context"]), int(file["env_steps"]),
                )  # fmt: skip
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            summary.problems.append(f"{run.run_id}: prediction.npz is damaged ({error})")
    order = {task: place for place, task in enumerate(summary.tasks)}
    rank = {method: place for place, method in enumerate(summary.styles)}
    return sorted(found.values(), key=lambda one: (order[one.task], rank[one.method]))


def draw_predictions(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """Each prediction as a strip of all its frames; those of `figure5` on one page, too."""
    drawn = []
    for one in predictions:
        label = summary.styles[one.method].label
        title = f"{figures.pretty(one.task)}, {label}, seed {one.seed}"
        note = (
            f"Open-loop prediction of a held-out episode at {one.env_steps:,} env. steps: "
            f"{one.context} images of context (left of the mark), {len(one.truth) - one.context} "
            f"predicted from actions alone. {figures.ERROR_WORDS}"
        )
        figure = figures.draw_prediction(
            one.truth, one.model, one.context, title=title, notes=[note],
            synthetic=summary.synthetic,
        )  # fmt: skip
        name = re.sub(r"[^\w=.-]", "-", f"prediction-{one.task}-{one.method}")
        drawn.append(Drawn(name, figure, prediction_data(summary, one), pdf=False))
    if summary.name == "figure5" and predictions:
        notes = [
            f"First {predictions[0].context} images: context; the others are predicted from "
            f"actions alone. {figures.ERROR_WORDS}",
            *problem_lines(summary),
        ]
        rows = [
            (f"{figures.pretty(p.task)}, seed {p.seed}", p.truth, p.model, p.context)
            for p in predictions
        ]
        figure = figures.draw_predictions(rows, notes=notes, synthetic=summary.synthetic)
        data = pd.concat([prediction_data(summary, p) for p in predictions], ignore_index=True)
        drawn.append(Drawn("predictions", figure, data))
    return drawn


def prediction_data(summary: Summary, one: Prediction) -> pd.DataFrame:
    """Mean squared error (in [0, 1] pixels) per frame, with the run behind it."""
    error = (one.truth.astype(float) - one.model.astype(float)) / 255
    data = pd.DataFrame(
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
    return _marked(summary, data)


def draw_observations(summary: Summary, predictions: Sequence[Prediction]) -> list[Drawn]:
    """What the agent sees of each task: figure 2, from the true images of predictions."""
    images = {one.task: one.truth[0] for one in reversed(predictions)}
    images = {task: images[task] for task in summary.tasks if task in images}
    if len(images) < 2:
        return []
    figure = figures.draw_observations(images, synthetic=summary.synthetic)
    sources = {one.task: one.run_id for one in reversed(predictions)}
    data = pd.DataFrame({"task": list(images), "run_id": [sources[task] for task in images]})
    return [Drawn("observations", figure, _marked(summary, data))]


# --- saving ----------------------------------------------------------------------------------


def save(drawn: Drawn, folder: Path) -> list[Path]:
    """PNG, PDF and CSV; a file is whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for ending in ("png", "pdf") if drawn.pdf else ("png",):
        path = folder / f"{drawn.name}.{ending}"
        temporary = path.with_suffix(f".tmp.{ending}")
        # Without dates, the same records give the same bytes.
        metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
        with figures.matplotlib.rc_context(figures.RC):
            drawn.figure.savefig(temporary, metadata=metadata, dpi=300)
        os.replace(temporary, path)
        paths.append(path)
    write_text(folder / f"{drawn.name}.csv", drawn.data.to_csv(index=False))
    return [*paths, folder / f"{drawn.name}.csv"]


def save_tables(summary: Summary, folder: Path) -> None:
    """Score table in three formats, and the runs behind everything."""
    table = tables.score_cells(summary)
    for ending, form in tables.FORMATS.items():
        write_text(folder / f"scores.{ending}", form(table))
    write_text(folder / "scores.csv", tables.csv_table(summary).to_csv(index=False))
    runs = summary.runs.drop(columns=["config", "provenance"])
    finals = summary.finals[["run_id", "score", "evaluations", "at", "partial"]]
    runs = runs.merge(finals, on="run_id", how="left").merge(
        summary.progress, on="run_id", how="left"
    )
    write_text(folder / "runs.csv", runs.to_csv(index=False))
    for name in ("profiles", "improvements"):
        if len(getattr(summary, name)):
            write_text(folder / f"{name}.csv", getattr(summary, name).to_csv(index=False))
    write_text(folder / "problems.txt", "".join(f"{line}\n" for line in summary.problems))


def make_suite(
    suite: Suite, source: Source, options: argparse.Namespace, reference: pd.DataFrame | None
) -> tuple[Summary, list[Drawn], list[Prediction]] | None:
    """Everything of one suite, drawn and saved; None where it has no records."""
    records = load_suite(source, suite, options.metric)
    if records.frame.empty:
        return None
    summary = summarise_suite(suite, records, options)
    if summary.curves.empty:
        raise UserError(f"{suite.name}: no values of {options.metric} in {len(records.runs)} runs")
    drawers = DRAWERS.get(suite.name, DRAWERS[""])
    drawn = [one for drawer in drawers for one in drawer(summary, reference)]
    predictions = predictions_of(summary, source)
    drawn += draw_predictions(summary, predictions) + draw_observations(summary, predictions)
    folder = options.out / suite.name
    for one in drawn:
        save(one, folder)
    save_tables(summary, folder)
    options.exported += exchange.released_entries(records.frame, summary.runs, options.metric)
    print(f"{suite.name}: {len(drawn)} figures and tables in {folder}")
    for line in summary.problems:
        print(f"  {line}")
    return summary, drawn, predictions


def summarise_suite(suite: Suite, records: Records, options: argparse.Namespace) -> Summary:
    return summarise(
        suite.name, suite.runs, records, about=suite.about, metric=options.metric,
        band=options.band, last=options.last, published=suite.published, until=options.at,
    )  # fmt: skip


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--suite", type=Path, nargs="+", action="extend", default=[],
                        help="suite files; default: every suite that has results")  # fmt: skip
    parser.add_argument("--all", action="store_true",
                        help="all suites in suites/; those without results are named")  # fmt: skip
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument(
        "--mongo",
        metavar="URL",
        help="read from this MongoDB; credentials also in DREAMER_MONGO_URL",
    )
    parser.add_argument("--out", type=Path, help="default: RESULTS/figures")
    parser.add_argument("--metric", default="evaluate_return",
                        help="evaluate_return, episode_return, or any that is logged")  # fmt: skip
    parser.add_argument("--band", choices=sorted(aggregate.BANDS), default="sd")
    parser.add_argument("--last", type=int, default=aggregate.LAST_EVALUATIONS,
                        help="evaluations that a final score averages")  # fmt: skip
    parser.add_argument("--at", type=float, help="end at so many env_steps (2e6)")
    parser.add_argument("--reference", type=Path, help="curves in the released JSON format, or CSV")
    parser.add_argument("--export", type=Path, help="write our curves in the released JSON format")
    parser.add_argument("--html", type=Path, help="one self-contained page with everything")
    options = parser.parse_args(argv)
    options.out = options.out or options.results / "figures"
    options.at = int(options.at) if options.at else None
    options.exported = []  # curves of all suites, for --export
    if options.last < 1:
        raise UserError(f"--last {options.last}: at least 1")
    if options.suite and options.all:
        raise UserError("--all and --suite: one of the two")
    return options


def run(options: argparse.Namespace) -> int:
    suites = expand_all(options.suite or sorted((ROOT / "suites").glob("*.yaml")))
    reference = exchange.read_curves(options.reference) if options.reference else None
    with opened(options.results, options.mongo) as source:
        made, empty = [], []
        for suite in suites:
            result = make_suite(suite, source, options, reference)
            if result is None:
                empty.append(suite.name)
            else:
                made.append((suite, *result))
        if empty and (options.suite or options.all):
            print(f"no results yet: {', '.join(empty)}")
        if not made:
            names = ", ".join(empty)
            raise UserError(f"no results of {names} in {source}; run python -m suites.run first")
        if options.html:
            report.write(options.html, made, source, reference, options.at)
            print(f"report: {options.html}")
    if options.export:
        exchange.write_released(options.export, options.exported)
        print(f"curves: {options.export}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(arguments, run, argv)
