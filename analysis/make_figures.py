"""Draw a suite's figures and tables from its records.

python analysis/make_figures.py --suite suites/quickstart.yaml
python analysis/make_figures.py                       every suite that has results
python analysis/make_figures.py --all --html report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if sys.path[0] == str(HERE):  # started as a file: find our packages, not our siblings
    sys.path[0] = str(HERE.parent)


def main() -> int:
    from analysis.draw.suite import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
