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

from analysis.count.methods import STYLES, pair_of
from analysis.count.statistics import reference_statistics
from analysis.draw.lines import draw_lines
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
    table["method"] = [pair_of(method) for method in table["method"]]  # without its settings
    reference = None
    if arguments.reference:
        released = read_curves(arguments.reference)
        released = released[released["task"].isin(table["task"])]
        near = released["env_steps"] <= 1.05 * table["env_steps"].max()
        reference = reference_statistics(released[near], "sd")
    figure = draw_lines(
        table,
        {name: style for name, style in STYLES.items() if name in set(table["method"])},
        named_scale(DEFAULT_SCALE),
        reference=reference,
        notes=[
            "One seed per task and method: no spread is shown. Score: return of one evaluation "
            "episode. Commits: " + ", ".join(sorted(set(table["commits"].str[:7]))) + "."
        ],
    )
    figure.savefig(arguments.out, dpi=300)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(options, redraw, argv)


if __name__ == "__main__":
    sys.exit(main())
