"""Score tables (task x method) as Markdown, LaTeX and CSV, and the verdict as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.count import statistics
from analysis.count.averages import interval_warning
from analysis.count.estimates import Interval, Sample
from analysis.count.methods import PUBLISHED_STYLES
from analysis.count.published import CAVEATS
from analysis.count.summary import Summary
from analysis.count.verdict import TaskVerdict
from analysis.draw.page import pretty, steps_text
from suites.command import aligned


class Cell(NamedTuple):
    text: str
    best: bool = False


class Table(NamedTuple):
    """What every format shows."""

    head: list[str]
    rows: list[list[Cell]]
    rules: set[int]  # rows with a rule above
    notes: list[str]


def score_cells(summary: Summary) -> Table:
    """Final scores: a row per task (and x), a column per method, then published ones, averages.

    In each row the best of our methods is marked, if it differs from every other one;
    published scores are never marked.
    """
    scores = summary.scores
    methods, published = summary.methods_with_scores(), summary.published
    shown = summary.published_methods
    many_x = summary.x is not None and scores["x"].nunique() > 1
    head = ["Task", *([pretty(summary.x.setting)] if summary.x and many_x else [])]
    head += [summary.styles[method].label for method in methods]
    head += [f"{PUBLISHED_STYLES[m].label} (published)" for m in shown]
    rows = []
    for (task, x), group in scores.groupby(["task", "x"], sort=False):
        here = published[published["task"] == task].set_index("method")["score_mean"]
        cells = _method_cells(group.set_index("method"), methods, summary.band)
        first = [Cell(pretty(task)), *([Cell(f"{x:g}")] if many_x else [])]
        rows.append([*first, *cells, *_published_cells(here, shown)])
    rules = {len(rows)}
    rows += _average_rows(summary, methods, shown, many_x)
    return Table(head, rows, rules, _notes(summary, shown))


def _method_cells(group: pd.DataFrame, methods: Sequence[str], band: str) -> list[Cell]:
    cells = []
    for method in methods:
        if method not in group.index:
            cells.append(Cell("–"))
            continue
        row = group.loc[method]
        mark = f" †{steps_text(row['at'])}" if row["partial"] else ""
        count = f" (n={row['n']:.0f})" if row["n"] != row["n_expected"] else ""
        text = spread_text(row["mean"], row["low"], row["high"])
        if band != "ci" and row["n"] > 1:
            text += interval_text(row["ci_low"], row["ci_high"])
        cells.append(Cell(text + count + mark, bool(row["best"])))
    return cells


def spread_text(mean: float, low: float, high: float) -> str:
    """`802 ± 35`; without an interval only the mean."""
    if not math.isfinite(mean):
        return "not a number"
    if math.isclose(high - mean, mean - low, abs_tol=1e-6):
        return f"{mean:.0f} ± {high - mean:.0f}"
    return f"{mean:.0f}{interval_text(low, high)}"


def interval_text(low: float, high: float, form: str = ".0f") -> str:
    """` [767, 837]`; nothing where there is no interval."""
    return f" [{low:{form}}, {high:{form}}]" if math.isfinite(low) else ""


def _average_rows(
    summary: Summary, methods: Sequence[str], shown: Sequence[str], many_x: bool
) -> list[list[Cell]]:
    """Averages over the tasks that all methods share; a second one over the 18 tasks of D4PG."""
    rows = []
    for _, group in summary.averages.groupby("group", sort=False):
        of_ours = ~group["published"].astype(bool)
        ours, theirs = (group[chosen].set_index("method") for chosen in (of_ours, ~of_ours))
        cells = [
            Cell(f"{row['mean']:.0f}{interval_text(row['low'], row['high'])}", bool(row["best"]))
            for row in (ours.loc[method] for method in methods)
        ]
        first = [Cell(group["title"].iloc[0]), *([Cell("")] if many_x else [])]
        rows.append([*first, *cells, *_published_cells(theirs["mean"], shown)])
    return rows


def _published_cells(scores: pd.Series, shown: Sequence[str]) -> list[Cell]:
    return [Cell(f"{scores[method]:.0f}" if method in scores else "–") for method in shown]


def _notes(summary: Summary, shown: Sequence[str]) -> list[str]:
    words = statistics.BANDS[summary.band][0]
    interval = "" if summary.band == "ci" else "; [95 % Student's t interval of the mean]"
    notes = [
        f"Mean over seeds; ± {words}{interval}. A seed's score is {summary.final_words()}. Bold: "
        "the best method of a row, if it differs from every other one (Welch's t test, 5 %).",
    ]
    if not summary.averages.empty:
        notes.append(
            "Averages: mean over tasks, which weigh the same, with a 95 % t interval over the "
            "seeds within tasks."
        )
        means = summary.aggregates[summary.aggregates["statistic"] == "mean"]
        notes += filter(None, [interval_warning(means)])
    if summary.scores["partial"].any():
        notes.append("† no complete run: scores at the env_steps that all runs reached.")
    if (summary.scores["n"] != summary.scores["n_expected"]).any():
        notes.append("(n=…) fewer runs than planned.")
    if summary.synthetic:
        notes.insert(0, "SYNTHETIC DATA: drawn by a random generator, no agent was trained.")
    return notes + [CAVEATS[method] + "." for method in shown]


# --- the verdict -------------------------------------------------------------------------------


VERDICT_HEAD = ("task", "env_steps", "ours", "released", "difference", "margin", "verdict")


def verdict_rows(found: Sequence[TaskVerdict]) -> list[tuple[str, ...]]:
    """A row per task under VERDICT_HEAD."""
    return [
        (
            one.task, f"{one.env_steps:,}", sample_text(one.ours), sample_text(one.theirs),
            difference_text(one.difference, one.interval),
            f"{one.margin:.0f}" if one.theirs.n else "-", f"{one.verdict} ({one.reason})",
        )
        for one in found
    ]  # fmt: skip


def verdict_text(found: Sequence[TaskVerdict]) -> str:
    """The verdicts as aligned text."""
    return "\n".join(aligned([VERDICT_HEAD, *verdict_rows(found)]))


def sample_text(one: Sample) -> str:
    if not one.n:
        return "-"
    spread = f" ± {one.sd:.0f}" if math.isfinite(one.sd) else ""
    return f"{one.mean:.0f}{spread} (n={one.n})"


def difference_text(value: float, interval: Interval, unit: str = "") -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:+.0f}{unit}{interval_text(*interval, '+.0f')}"


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
    """All statistics in long form, with the runs of each row."""
    table = summary.scores.drop(columns="scores")
    table.insert(2, "label", [summary.styles[m].label for m in table["method"]])
    table.insert(0, "suite", summary.name)
    if summary.synthetic:
        table.insert(0, "synthetic", True)
    return table


FORMATS = {"md": markdown, "tex": latex}
