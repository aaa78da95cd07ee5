"""Do our runs reproduce the released Dreamer? A verdict for each task, and one over all tasks.

python analysis/reproduction.py suites/figure6.yaml [--reference scores.json] [--format json]
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

    return command.main(commands.verdict_options, commands.reproduction, argv)


if __name__ == "__main__":
    sys.exit(main())
