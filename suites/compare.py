"""Compare two methods: which one is better, how surely, and how many seeds would decide.

    python -m suites.compare suites/a.yaml suites/b.yaml
    python -m suites.compare suites/small_variants.yaml --methods dreamer planet

Compares final scores per task and over tasks, from the records in the results folder, and draws a
figure. Exit code 0, or 2 for bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamer.errors import UserError
from suites import command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 for bad input."""
    return command.main(parse, compare, arguments)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = command.parser("compare", __doc__.splitlines()[0])
    add = parser.add_argument
    add("--methods", nargs=2, metavar="METHOD", default=(None, None),
        help="the two, as tables name them (planet, 'dreamer horizon=10'); needed where a suite "
        "has several")  # fmt: skip
    add("--out", type=Path, help="folder of the figure; default: RESULTS/figures/compare")
    add("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    if len(options.suites) > 2:
        raise UserError(f"{len(options.suites)} suites: name one or two")
    options.out = options.out or options.results / "figures" / "compare"
    return options


def compare(options: argparse.Namespace) -> int:
    from analysis.commands import compared
    from analysis.draw.comparison import comparison_json, comparison_text

    settings = command.parse_settings(options.settings)
    suites = [command.read_suite(path, settings) for path in options.suites]
    suites = [
        suite._replace(runs=command.select(suite.runs, options.only, options.leave_out))
        for suite in suites
    ]
    found, synthetic, problems, path = compared(
        suites, options.methods, options.results, options.out
    )
    if options.format == "json":
        print(command.json_text(comparison_json(found, synthetic)))
        return 0
    if synthetic:
        print("SYNTHETIC DATA: drawn by a random generator, no agent was trained.")
    print("\n".join([comparison_text(found), "", *problems, f"figure: {path}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
