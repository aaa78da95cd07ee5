"""Draw a suite's figures and tables from its records.

python analysis/make_figures.py suites/quickstart.yaml
python analysis/make_figures.py                       every suite that has results
python analysis/make_figures.py --all --html report.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
if sys.path[0] == str(HERE):  # started as a file: find our packages, not the files beside this one
    sys.path[0] = str(HERE.parent)


def main(argv: Sequence[str] | None = None) -> int:
    import dreamer

    dreamer.end_quietly_on_ctrl_c(argv is None)
    from analysis import commands
    from suites import command

    return command.main(commands.figure_options, commands.make_figures, argv)


if __name__ == "__main__":
    sys.exit(main())
