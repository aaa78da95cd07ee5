"""Score tables: task x method as Markdown, LaTeX and CSV. Strings out; nothing is saved here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.count import statistics as aggregate
from analysis.count.methods import PUBLISHED_STYLES
from analysis.count.published import CAVEATS, TASKS_18, baselines
from analysis.count.summary import Summary, common_tasks, strata
from analysis.draw.lines import pretty, steps_text


class Cell(NamedTuple):
    text: str
    best: bool = False


class Table(NamedTuple):
    """What all formats print."""

    head: list[str]
    rows: list[list[Cell]]
    rules: set[int]  # rows with a rule above
    notes: list[str]


def score_cells(summary: Summary) -> Table:
    """Final scores: a row per task (and x), a column per method, then published ones, averages.

    The best mean of our methods is marked in each row; published numbers are beside, unmarked.
    """
    scores = summary.scores
    methods = [method for method in summary.styles if method in set(scores["method"])]
    published = baselines(summary.published) if summary.published else pd.DataFrame()
    shown = [m for m in summary.published if len(published) and m in set(published["method"])]
    many_x = scores["x"].nunique() > 1
    head = ["Task", *(["Horizon"] if many_x else []), *(summary.styles[m].label for m in methods)]
    head += [f"{PUBLISHED_STYLES[m].label} (published)" for m in shown]
    rows = []
    for (task, x), group in scores.groupby(["task", "x"], sort=False):
        cells = _method_cells(group.set_index("method"), methods)
        for method in shown:
            found = published[(published["method"] == method) & (published["task"] == task)]
            cells.append(Cell(f"{found['score_mean'].iloc[0]:.0f}" if len(found) else "–"))
        rows.append([Cell(pretty(task)), *([Cell(str(x))] if many_x else []), *cells])
    rules = {len(rows)}
    rows += _average_rows(summary, methods, shown, many_x)
    return Table(head, rows, rules, _notes(summary, shown))


def _method_cells(group: pd.DataFrame, methods: Sequence[str]) -> list[Cell]:
    means = group["mean"].reindex(methods)
    complete = ~group["partial"].reindex(methods).astype("boolean").fillna(True).astype(bool)
    usable = means[complete]
    best = usable.max() if usable.notna().sum() > 1 else math.nan
    cells = []
    for method in methods:
        if method not in group.index:
            cells.append(Cell("–"))
            continue
        row = group.loc[method]
        mark = f" †{steps_text(row['at'])}" if row["partial"] else ""
        count = f" (n={row['n']:.0f})" if row["n"] != row["n_expected"] else ""
        text = spread_text(row["mean"], row["low"], row["high"]) + count + mark
        cells.append(Cell(text, bool(complete[method] and row["mean"] == best)))
    return cells


def spread_text(mean: float, low: float, high: float) -> str:
    """`802 ± 35`; without an interval only the mean."""
    if not math.isfinite(mean):
        return "not a number"
    if not math.isfinite(low):
        return f"{mean:.0f}"
    if math.isclose(high - mean, mean - low, abs_tol=1e-6):
        return f"{mean:.0f} ± {high - mean:.0f}"
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]"


def _average_rows(
    summary: Summary, methods: Sequence[str], shown: Sequence[str], many_x: bool
) -> list[list[Cell]]:
    """Averages over the tasks that all methods share; a second one over the 18 tasks of D4PG."""
    rows = []
    for tasks, label in average_groups(summary):
        cells: list[Cell] = []
        table = averages(summary, methods, tasks).set_index("method")
        for method in methods:
            row = table.loc[method]
            best = len(methods) > 1 and row["mean"] == table["mean"].max()
            text = f"{row['mean']:.0f}"
            if math.isfinite(row["low"]):
                text += f" [{row['low']:.0f}, {row['high']:.0f}]"
            cells.append(Cell(text, bool(best)))
        for method in shown:
            mean = published_average(method, tasks)
            cells.append(Cell("–" if mean is None else f"{mean:.0f}"))
        rows.append([Cell(label), *([Cell("")] if many_x else []), *cells])
    return rows


def average_groups(summary: Summary) -> list[tuple[list[str], str]]:
    """The sets of tasks over which averages are fair: (tasks, words)."""
    if summary.runs["x"].nunique() > 1:
        return []
    methods = sorted(set(summary.finals["method"]))
    tasks = common_tasks(summary.finals, methods)
    if len(tasks) < 2:
        return []
    groups = [(tasks, f"Mean of {len(tasks)} tasks")]
    without = [task for task in tasks if task in TASKS_18]
    if {"d4pg", "a3c"} & set(summary.published) and 2 <= len(without) < len(tasks):
        groups.append((without, f"Mean of {len(without)} without quadruped"))
    return groups


def averages(summary: Summary, methods: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    """Mean score over `tasks` per method, with its bootstrap interval: method, mean, low, high."""
    rows = []
    for method in methods:
        groups = strata(summary.finals, method, tasks)
        low, high = aggregate.bootstrap_interval(groups, aggregate.mean_over_tasks)
        mean = float(aggregate.mean_over_tasks(groups))
        rows.append(dict(method=method, mean=1000 * mean, low=1000 * low, high=1000 * high))
    return pd.DataFrame(rows)


def published_average(method: str, tasks: Sequence[str]) -> float | None:
    """A published method's mean over `tasks`; None where it lacks one of them."""
    rows = baselines((method,)).set_index("task")["score_mean"]
    return float(rows.loc[list(tasks)].mean()) if set(tasks) <= set(rows.index) else None


def _notes(summary: Summary, shown: Sequence[str]) -> list[str]:
    words = aggregate.BANDS[summary.band][0]
    notes = [
        f"Mean over seeds; ± {words}. A seed's score is the mean of its last {summary.last} values "
        f"of {summary.metric}. Best mean of a row in bold.",
    ]
    if average_groups(summary):
        notes.append(
            "Averages: mean over tasks with a 95 % stratified bootstrap interval "
            f"({aggregate.RESAMPLES} resamples, seeds within tasks)."
        )
    if summary.scores["partial"].any():
        notes.append("† no run of this cell is complete: scores at the env_steps that all reached.")
    if (summary.scores["n"] != summary.scores["n_expected"]).any():
        notes.append("(n=…) fewer runs than planned are behind this number.")
    if summary.synthetic:
        notes.insert(0, "SYNTHETIC DATA: drawn by a random generator, no agent was trained.")
    return notes + [CAVEATS[method] + "." for method in shown]


# --- formats ---------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    lines = ["| " + " | ".join(table.head) + " |"]
    lines.append("| --- |" + " ---: |" * (len(table.head) - 1))
    for row in table.rows:
        words = [f"**{cell.text}**" if cell.best else cell.text for cell in row]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {note}" for note in table.notes) + "\n"


def latex(table: Table) -> str:
    """A booktabs tabular, ready for \\input."""
    lines = [f"% {note}" for note in table.notes]
    lines += [r"\begin{tabular}{l" + "r" * (len(table.head) - 1) + "}", r"\toprule"]
    lines += [" & ".join(_tex(word) for word in table.head) + r" \\", r"\midrule"]
    for number, row in enumerate(table.rows):
        if number in table.rules and number:
            lines.append(r"\midrule")
        words = [rf"\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text) for c in row]
        lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    for plain, code in (
        ("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"),
        ("±", r"$\pm$"), ("–", "--"), ("†", r"$\dagger$"),
    ):  # fmt: skip
        text = text.replace(plain, code)
    return text


def csv_table(summary: Summary) -> pd.DataFrame:
    """Everything behind the table, in long form, with the runs of each row."""
    table = summary.scores.drop(columns="scores")
    table.insert(2, "label", [summary.styles[m].label for m in table["method"]])
    table.insert(0, "suite", summary.name)
    if summary.synthetic:
        table.insert(0, "synthetic", True)
    return table


FORMATS = {"md": markdown, "tex": latex}
