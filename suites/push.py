"""Send to MongoDB what it lacks of a suite's runs, from the runs' own files.

    python -m suites.push suites/figure6.yaml [--mongo URL]

Each server gets exactly the attempts, measurements and files that are missing there or differ, so
a second call sends nothing. Running runs are skipped: they send their records themselves. A
metric that MongoDB never takes (beyond 16 MB) is named, and the rest is sent. Exit code 0; 1 if
something was refused for good; 2 for bad input and where a server cannot be reached.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamer.errors import UserError, counted
from suites import command
from suites.language.suite import Run
from suites.record import mongo_urls
from suites.record.contents import read
from suites.record.mongo import Server, connect_all


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = command.parser("push", __doc__.splitlines()[0])
    parser.add_argument("--mongo", metavar="URL", help="this MongoDB too; also DREAMER_MONGO_URL")
    return command.main(parser.parse_args, push, arguments)


def push(options: argparse.Namespace) -> int:
    suites, runs = command.chosen(options)
    servers = connect_all(options.mongo, [url for suite in suites for url in suite.observers])
    print(send(options.results, runs, servers))
    return 1 if any(server.refused for server in servers) else 0


def send(results: Path, runs: Sequence[Run], servers: Sequence[Server]) -> str:
    """Sends each server what it lacks; says how much that was. Raises UserError if a server fails,
    or if there is none."""
    if not servers:
        raise UserError("push: no server is named; give --mongo URL")
    sent = 0
    for run in runs:
        contents = read(results, run)
        for server in servers:
            with mongo_urls.failures_told(server.url):
                sent += server.push(contents)
    names = ", ".join(server.name for server in servers)
    lines = [f"{names}: {counted(sent, 'missing item')} sent"]
    lines += [f"{s.name} refuses {item} for good: too large" for s in servers for item in s.refused]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
