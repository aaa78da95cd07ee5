"""Draw recorded curves as one figure, where the runs' own records are no longer at hand.

    python -m analysis.redraw OUT.png CURVES.csv... [--task TASK] [--reference RELEASED]

CURVES.csv are what a suite's figures left; RELEASED is what `make_figures.py --reference` takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from analysis.count.methods import STYLES
from analysis.draw.lines import draw_lines
from analysis.read.curves import read_curves, reference_statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("curves", type=Path, nargs="+")
    parser.add_argument("--task", help="only this one's")
    parser.add_argument("--reference", type=Path, help="released curves to draw beside them")
    arguments = parser.parse_args()
    table = pd.concat([pd.read_csv(path) for path in arguments.curves])
    if arguments.task:
        table = table[table["task"] == arguments.task]
    # A method with settings of its own (PlaNet's smaller plans) is called by its first word here.
    table["method"] = table["method"].str.split().str[0]
    reference = None
    if arguments.reference:
        released = read_curves(arguments.reference)
        released = released[released["task"].isin(table["task"])]
        near = released["env_steps"] <= 1.05 * table["env_steps"].max()
        reference = reference_statistics(released[near], "sd")
    figure = draw_lines(
        table,
        {name: style for name, style in STYLES.items() if name in set(table["method"])},
        reference=reference,
        notes=[
            "One seed per task and method: no spread is shown. Score: return of one evaluation "
            "episode. Commits: " + ", ".join(sorted(set(table["commits"].str[:7]))) + "."
        ],
    )
    figure.savefig(arguments.out, dpi=300)


if __name__ == "__main__":
    main()
