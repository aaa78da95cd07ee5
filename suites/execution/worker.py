"""A process that executes one run. Executors start it:

    python -m suites.execution.worker < spec.json

The spec is the first line of stdin. stdin then stays open: when it closes, the process that started
this one is gone, and the run stops in order.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from dreamer.errors import UserError
from dreamer.run_folder import Status
from suites.execution.attempt import execute
from suites.execution.spec import EXIT_BAD_INPUT, EXIT_BUSY, EXIT_CODES, Spec
from suites.record.folder import BusyError

ORPHAN_STOPS_WITHIN_S = 120.0


def main() -> int:
    """Executes the run and returns the exit code that stands for its status."""
    orphaned = threading.Event()
    line = sys.stdin.readline()
    if not line:  # the parent was killed before it could send the spec
        return EXIT_CODES[Status.INTERRUPTED]
    spec = Spec.from_json(line)

    def watch() -> None:
        while sys.stdin.read(1):
            pass
        orphaned.set()
        time.sleep(ORPHAN_STOPS_WITHIN_S)
        os._exit(EXIT_CODES[Status.INTERRUPTED])

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
    try:
        status = execute(spec, should_stop=orphaned.is_set, own_log=True)
    except BusyError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BUSY
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_CODES.get(status["status"], 1)


if __name__ == "__main__":
    sys.exit(main())
