"""Draw recorded runs of one task as one figure, from the curves that their suites' figures left.

    python results/measured/variants.py OUT.png FOLDER...

Reads `curves.csv` of each folder and keeps the lines of TASK.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

from analysis.figures import draw_lines  # noqa: E402
from analysis.methods import STYLES  # noqa: E402

TASK = "pendulum_swingup"


def main(out: Path, folders: list[Path]) -> None:
    table = pd.concat([pd.read_csv(folder / "curves.csv") for folder in folders])
    table = table[table["task"] == TASK]
    # A method with settings of its own (PlaNet's smaller plans) is called by its first word here.
    table["method"] = table["method"].str.split().str[0]
    styles = {name: STYLES[name] for name in STYLES if name in set(table["method"])}
    notes = ["One seed per method: no spread is shown. Score: return of one evaluation episode."]
    draw_lines(table, styles, notes=notes).savefig(out, dpi=300)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
