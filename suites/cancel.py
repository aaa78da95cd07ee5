"""Cancel a suite's queued and running jobs. Checkpoints and metrics are kept.

    python -m suites.cancel suites/figure6.yaml [--only 'task=walker_*'] [--forget]

Running runs save a checkpoint and stop; the next `suites.run` continues them. Works from any
machine that shares the results folder and can reach the cluster. With `--forget` the cluster is not
asked: it is gone for good, and its runs would stay `unknown`. Exit code 0; 2 for bad input or where
the cluster does not answer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dreamer.errors import counted
from suites import command
from suites.execution.executors import EXECUTORS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command.parser("cancel", __doc__.splitlines()[0])
    parser.add_argument("--forget", action="store_true",
                        help="do not ask the cluster, because it is gone for good")  # fmt: skip
    return command.main(parser.parse_args, cancel, arguments)


def cancel(options: argparse.Namespace) -> int:
    _, runs = command.chosen(options)
    run_ids = [run.run_id for run in runs]
    done = [e.withdraw(options.results, run_ids, options.forget) for e in EXECUTORS.values()]
    had = len({run_id for withdrawn in done for run_id in withdrawn.run_ids})
    if options.forget:
        print(f"{had} of {counted(len(runs), 'run')} forgotten; no cluster was asked")
        return 0
    jobs = sum(len(withdrawn.jobs) for withdrawn in done)
    cancelled = counted(jobs, "job")
    were = "was" if len(runs) == 1 else "were"
    print(f"{had} of {counted(len(runs), 'run')} {were} queued or running; {cancelled} cancelled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
