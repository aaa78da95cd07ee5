"""Draw curves from the CSV files of earlier figures, where the records of the runs are gone.

    python -m analysis.redraw OUT.png CURVES.csv... [--task TASK] [--reference RELEASED]

RELEASED: curves as for `make_figures.py --reference`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.count.methods import styles
from analysis.count.statistics import reference_statistics
from analysis.draw.lines import draw_lines
from analysis.draw.page import finish
from analysis.read.curves import read_curves
from dreamer.errors import UserError
from suites import command
from suites.language.figures import DEFAULT_SCALE, named_scale


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.Parser(description="Draw curves from the CSV files of earlier figures.")
    parser.add_argument("out", type=Path, help="picture to write")
    parser.add_argument("curves", type=Path, nargs="+", help="curves.csv of suites")
    parser.add_argument("--task", help="draw this task only")
    parser.add_argument("--reference", type=Path, help="released curves: JSON or CSV")
    return parser.parse_args(argv)


def redraw(arguments: argparse.Namespace) -> int:
    for path in arguments.curves:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    table = pd.concat([pd.read_csv(path) for path in arguments.curves])
    if arguments.task:
        table = table[table["task"] == arguments.task]
    released = read_curves(arguments.reference) if arguments.reference else None
    draw(table, released).savefig(arguments.out, dpi=300)
    return 0


def draw(table: pd.DataFrame, released: pd.DataFrame | None = None) -> Figure:
    """Curves of a curves.csv, with released ones of the same tasks, as far as they go."""
    reference = None
    if released is not None:
        released = released[released["task"].isin(table["task"])]
        near = released["env_steps"] <= 1.05 * table["env_steps"].max()
        reference = reference_statistics(released[near], "sd")
    commits = ", ".join(sorted(set(table["commits"].str[:7])))
    scale, looks = named_scale(DEFAULT_SCALE), styles(list(table["method"].unique()))
    figure = draw_lines(table, looks, scale, reference=reference)
    return finish(figure, [f"{_seeds(table)} Commits: {commits}."])


def _seeds(table: pd.DataFrame) -> str:
    most = int(table["n"].max())
    if most == 1:
        return (
            "One seed per task and method: no spread is shown. Score: return of one evaluation "
            "episode."
        )
    return f"Mean over up to {most} seeds per task and method; shade: the band of the CSV file."


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(options, redraw, argv)


if __name__ == "__main__":
    sys.exit(main())
