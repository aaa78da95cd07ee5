"""Takes a suite's runs back from SLURM; what they have done so far stays.

    python -m suites.cancel suites/figure6.yaml [--only 'task=walker_*'] [--forget]

Runs that are running save a checkpoint and end as `stopped`; the next `suites.run` continues them.
Works from any machine that sees the results and can reach SLURM. Exit code 0, or 2 for bad input
and where SLURM does not answer. `--forget` does not ask it: for a cluster that is gone for good,
whose runs would be `unknown` for ever.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from suites import command
from suites.execution import cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command.parser("cancel", __doc__.splitlines()[0])
    parser.add_argument("--forget", action="store_true",
                        help="without asking SLURM: that cluster is gone for good")  # fmt: skip
    return command.main(parser.parse_args, cancel, arguments)


def cancel(options: argparse.Namespace) -> int:
    _, runs = command.chosen(options)
    if options.forget:
        forgotten = cluster.forget(options.results, [run.run_id for run in runs])
        print(f"{len(forgotten)} of {len(runs)} runs taken back; SLURM was not asked")
        return 0
    had, jobs = cluster.cancel(options.results, [run.run_id for run in runs])
    print(f"{len(had)} of {len(runs)} runs were queued or running; {len(jobs)} jobs cancelled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
