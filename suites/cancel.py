"""Takes a suite's runs back from SLURM; what they have done so far stays.

    python -m suites.cancel suites/figure6.yaml [--only 'task=walker_*']

Runs that are running save a checkpoint and end as `stopped`; the next `suites.run` continues them.
Works from any machine that sees the results and can reach SLURM. Exit code 0, or 2 for bad input
and where SLURM does not answer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamer.config import UserError
from suites import cluster, expand
from suites.run import Parser, parse_settings, select


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        return cancel(parse(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "python -m suites.cancel", description="Takes runs back from SLURM.", allow_abbrev=False
    )
    add = parser.add_argument
    add("suites", nargs="+", metavar="SUITE", help="a YAML file")
    add("--only", action="append", default=[], metavar="KEY=GLOB", help="only these runs")
    add("--except", action="append", default=[], metavar="KEY=GLOB", dest="leave_out",
        help="not these runs")  # fmt: skip
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="as it was given to suites.run")  # fmt: skip
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    return parser.parse_args(arguments)


def cancel(options: argparse.Namespace) -> int:
    suites = [expand.expand(path, parse_settings(options.settings)) for path in options.suites]
    runs = select(expand.merge(suites), options.only, options.leave_out)
    had, jobs = cluster.cancel(options.results, [run.run_id for run in runs])
    print(f"{len(had)} of {len(runs)} runs were queued or running; {len(jobs)} jobs cancelled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
