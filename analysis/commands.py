"""What the commands on records do, with the options of two of them.

analysis/make_figures.py    figures, tables and the report of suites
analysis/reproduction.py    the verdict on a suite's Dreamer
suites/compare.py           two methods
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.count import statistics
from analysis.count.comparison import Comparison, Side, compare
from analysis.count.summary import Summary, summarise
from analysis.count.verdict import CAVEAT, MARGIN, TESTS, as_json, overall
from analysis.draw.comparison import comparison_table, draw_comparison
from analysis.draw.save import save_figure, save_tables
from analysis.draw.suite import Drawn, draw_suite
from analysis.draw.tables import verdict_text
from analysis.read.curves import read_curves, released_entries, write_released
from analysis.read.frame import load_suite
from analysis.read.mongo import opened
from analysis.read.predictions import read_predictions
from analysis.read.source import Source
from analysis.report import report
from analysis.variants import DEFAULT_REPRESENTATION, DREAMER
from dreamer.errors import UserError, counted, nearest
from dreamer.run_folder import RESULTS
from suites import command
from suites.language.nodes import show
from suites.language.suite import Suite, expand
from suites.record.scores import WINDOW_WORDS

ROOT = Path(__file__).resolve().parents[1]


def _parser(about: str) -> command.Parser:
    """With the options that both commands share."""
    parser = command.Parser(description=about)
    add = parser.add_argument
    add("--results", type=Path, default=RESULTS,
        help="folder of records; default: results, in the folder you are in")  # fmt: skip
    add("--mongo", metavar="URL",
        help="read from this MongoDB; DREAMER_MONGO_URL may hold its credentials")  # fmt: skip
    add("--reference", type=Path, help="curves to compare with: JSON as released, or CSV")
    add("--metric", default="evaluate_return",
        help="evaluate_return (default), episode_return, or any logged metric")  # fmt: skip
    command.add_set(parser)
    return parser


def env_steps(text: str) -> int:
    """A number of env_steps, such as 2e6."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (1 <= value < 1e15):
        raise argparse.ArgumentTypeError(f"{show(text)}: a number of env_steps such as 2e6")
    return int(value)


# --- figures ---------------------------------------------------------------------------------


def figure_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser("Draw a suite's figures and tables from its records.")
    add = parser.add_argument
    add("suites", nargs="*", type=Path, metavar="SUITE",
        help="suites; default: every suite with results")  # fmt: skip
    add("--suite", type=Path, nargs="+", action="extend", default=[], help=argparse.SUPPRESS)
    add("--all", action="store_true", help="all suites in suites/; list those without results")
    add("--out", type=Path, help="default: RESULTS/figures")
    add("--band", choices=sorted(statistics.BANDS), default="sd", help="default: sd")
    add("--last", type=int,
        help=f"average so many evaluations for a final score; default: those in {WINDOW_WORDS}",
    )  # fmt: skip
    add("--at", type=env_steps, help="ignore everything after so many env_steps (2e6)")
    add("--export", type=Path, help="write our curves as JSON in the released format")
    add("--html", type=Path, help="write everything into one self-contained page")
    options = parser.parse_args(argv)
    options.suite += options.suites
    options.out = options.out or options.results / "figures"
    if options.last is not None and not 1 <= options.last <= 10**9:
        raise UserError(f"--last {show(options.last)}: from 1 to 1e9")
    if options.suite and options.all:
        raise UserError("--all and suites: one of the two")
    return options


def make_figures(options: argparse.Namespace) -> int:
    suites = expand_all(
        options.suite or sorted((ROOT / "suites").glob("*.yaml")),
        command.parse_settings(options.settings),
    )
    reference = read_curves(options.reference) if options.reference else None
    pages: list[report.Section] = []
    exported: list[dict[str, Any]] = []
    empty = []
    with opened(options.results, options.mongo) as source:
        for suite in suites:
            made = make_suite(suite, source, options, reference)
            if made is None:
                empty.append(suite.name)
                continue
            pages.append(made[0])
            exported += made[1]
        if empty and (options.suite or options.all):
            print(f"no results yet: {', '.join(empty)}")
        if not pages:
            names = ", ".join(empty)
            raise UserError(
                f"no results of {names} in {source}; run python -m suites.run first, or name "
                "another folder by --results"
            )
    if options.html:
        report.write(options.html, pages)
        print(f"report: {options.html}")
    if options.export:
        write_released(options.export, exported)
        print(f"curves: {options.export}")
    return 0


def make_suite(
    suite: Suite, source: Source, options: argparse.Namespace, reference: pd.DataFrame | None
) -> tuple[report.Section, list[dict[str, Any]]] | None:
    """Draw and save everything of one suite; None where it has no records.

    Returns its section of the report and its curves in the released format.
    """
    suite, loaded = load_suite(source, suite, options.metric)
    if loaded.frame.empty:
        return None
    summary = summarise(
        suite, loaded, metric=options.metric, band=options.band, last=options.last,
        until=options.at, reference=reference,
    )  # fmt: skip
    if summary.curves.empty:
        names = {name for run_id in loaded.runs["run_id"] for name in source.metric_names(run_id)}
        raise UserError(
            f"{suite.name}: no values of {show(options.metric)[1:-1]}; "
            + (nearest(options.metric, names) if names else "nor of any other metric")
        )
    predictions, damaged = read_predictions(source, summary.runs)
    summary = summary._replace(problems=summary.problems + damaged)
    drawn = draw_suite(suite.shown.figures, summary, predictions)
    folder = options.out / suite.name
    for one in drawn:
        save_figure(one, folder)
    save_tables(summary, folder)
    print(f"{suite.name}: {counted(len(drawn), 'figure')} and tables in {folder}")
    for line in summary.problems:
        print(f"  {line}")
    curves = released_entries(loaded.frame, summary.runs, options.metric)
    return report.Section(summary, drawn, predictions), curves


def expand_all(paths: Sequence[Path], settings: Mapping[str, Any]) -> list[Suite]:
    """The suites, each once; a suite that only includes others is replaced by them."""
    suites: dict[str, Suite] = {}
    for path in paths:
        suite = command.read_suite(path, settings)
        for one in [expand(part, settings) for part in _included(suite)] or [suite]:
            suites[one.name] = one
    return list(suites.values())


def _included(suite: Suite) -> list[Path]:
    """The files of the suites that a suite consists of; none if it has runs of its own."""
    names = {name for run in suite.runs for name in run.suites if name != suite.name}
    if not names or any(set(run.suites) == {suite.name} for run in suite.runs):
        return []
    paths = [suite.path.parent / f"{name}.yaml" for name in sorted(names)]
    return [path for path in paths if path.exists()]


# --- the verdict -----------------------------------------------------------------------------


def verdict_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser("Do our runs reproduce the released Dreamer? A verdict per task and over all.")
    add = parser.add_argument
    add("suite", nargs="?", type=Path, metavar="SUITE", help="a suite")
    add("--suite", type=Path, dest="named", help=argparse.SUPPRESS)
    add("--method", help=f"default: the suite's {DREAMER}")
    add("--margin", type=float, default=MARGIN,
        help="smallest difference that matters, in points, but at most half of what the released "
        "agent learned; default: 100")  # fmt: skip
    add("--at", type=env_steps, help="compare at so many env_steps at most (1e6)")
    add("--format", choices=("text", "json"), default="text")
    add("--json", action="store_const", dest="format", const="json", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.suite = options.suite or options.named
    if options.suite is None:
        parser.error("the following arguments are required: SUITE")
    if not 0 < options.margin < math.inf:
        raise UserError(f"--margin {options.margin}: more than 0")
    return options


def reproduction(options: argparse.Namespace) -> int:
    reference = read_curves(options.reference) if options.reference else None
    suite = command.read_suite(options.suite, command.parse_settings(options.settings))
    with opened(options.results, options.mongo) as source:
        suite, loaded = load_suite(source, suite, options.metric)
        if loaded.frame.empty:
            raise UserError(f"no results of {suite.name} in {source}")
    summary = summarise(
        suite, loaded, metric=options.metric, until=options.at,
        reference=reference, method=options.method, margin=options.margin,
    )  # fmt: skip
    verdict = summary.verdict
    if not verdict.tasks:
        raise UserError(verdict.reason)
    released = str(options.reference or "results/published/scores.csv")
    if options.format == "json":
        print(command.json_text(as_json(verdict, released, summary.synthetic)))
        return 0
    if summary.synthetic:
        print("SYNTHETIC DATA: drawn by a random generator, no agent was trained.")
    print(f"{overall(verdict.tasks)['statement']}\n\n{verdict_text(verdict.tasks)}")
    print(f"\nScores: {summary.final_words()}. Intervals: 95 %. {TESTS}")
    print(f"Released scores: {released}. {CAVEAT}")
    return 0


# --- two methods -----------------------------------------------------------------------------


def compared(
    suites: Sequence[Suite], methods: Sequence[str | None], results: Path, out: Path
) -> tuple[Comparison, bool, list[str], Path]:
    """Two methods of one suite or two: (comparison, whether synthetic, problems, figure's path).

    `methods`: what the user calls them, None where their suite has one only.
    """
    with opened(results, None) as source:
        sides = _sides([_summary(suite, source) for suite in suites], methods)
    found = compare(*sides)
    if not found.tasks:
        raise UserError(f"{' and '.join(found.labels)} have no task in common")
    synthetic = any(side.summary.synthetic for side in sides)
    figure = draw_comparison(found, synthetic=synthetic)
    stem = re.sub(r"[^\w.=-]+", "_", "-".join(found.labels)).strip("_")
    save_figure(Drawn(stem, figure, comparison_table(found)), out)
    problems = [line for side in sides for line in side.summary.problems if side.method in line]
    return found, synthetic, list(dict.fromkeys(problems)), out / f"{stem}.png"


def _summary(suite: Suite, source: Source) -> tuple[Summary, pd.DataFrame]:
    """With the frame that it is of. Values on an x-axis are different methods here."""
    suite, loaded = load_suite(source, suite)
    summary = summarise(suite._replace(shown=suite.shown._replace(x=None)), loaded)
    if summary.finals.empty:
        raise UserError(f"no final scores of {suite.name} in {source}")
    return summary, loaded.frame


def _sides(
    given: list[tuple[Summary, pd.DataFrame]], methods: Sequence[str | None]
) -> tuple[Side, Side]:
    if len(given) == 1:
        found = given[0][0].methods_with_scores()
        if methods[0] is None and len(found) != 2:
            raise UserError(
                f"{given[0][0].name} has {counted(len(found), 'method')} with scores; two are "
                "compared: name another suite, or choose by --methods of "
                f"{', '.join(map(repr, found))}"
            )
        given, methods = given * 2, found if methods[0] is None else methods
    sides = []
    for (summary, frame), wanted in zip(given, methods, strict=True):
        method = _method(summary, wanted)
        sides.append(Side(summary.styles[method].label, method, summary, frame))
    first, second = sides
    if first.run_ids == second.run_ids:
        raise UserError(
            f"{first.method} of {first.summary.name} and {second.method} of "
            f"{second.summary.name} are the same runs"
        )
    if first.label == second.label:
        first, second = (one._replace(label=f"{one.label} ({one.summary.name})") for one in sides)
    return first, second


def _method(summary: Summary, wanted: str | None) -> str:
    """The method of a suite that is called so: by its name, its label, or a part of its name."""
    found = summary.methods_with_scores()
    if wanted is None:
        if len(found) == 1:
            return found[0]
        raise UserError(
            f"{summary.name} has {counted(len(found), 'method')} with scores; choose by "
            f"--methods, one for each suite, of {', '.join(map(repr, found))}"
        )
    default = f"/{DEFAULT_REPRESENTATION}"
    called = {name: {name, name.replace(default, ""), summary.styles[name].label} for name in found}
    for name, names in called.items():
        if wanted.lower() in {one.lower() for one in names}:
            return name
    known = [name.replace(default, "") for name in found]
    raise UserError(f"{summary.name} has no scores of {wanted!r}; {nearest(wanted, known)}")
