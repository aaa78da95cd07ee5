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

from suites import cluster, command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command.parser("cancel", __doc__.splitlines()[0])
    return command.main(parser.parse_args, cancel, arguments)


def cancel(options: argparse.Namespace) -> int:
    _, runs = command.chosen(options)
    had, jobs = cluster.cancel(options.results, [run.run_id for run in runs])
    print(f"{len(had)} of {len(runs)} runs were queued or running; {len(jobs)} jobs cancelled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
