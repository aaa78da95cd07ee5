"""A process that executes one run. Executors start it:

    python -m suites.execution.worker < spec.json

The spec is the first line of stdin. stdin then stays open: when it closes, the process that started
this one is gone, and the run stops in order. The last line on stderr is the run's last status.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from io import FileIO
from typing import NoReturn

from dreamer.command_line import prepare_streams
from dreamer.errors import describe
from dreamer.run_folder import Status, StatusRecord
from suites.execution.attempt import execute
from suites.execution.spec import EXIT_BAD_INPUT, EXIT_BUSY, EXIT_CODES, LAST_WORDS, Spec
from suites.record.folder import BusyError

STOPS_WITHIN_S = 120.0  # without its parent, or after its last word


def main() -> int:
    """Executes the run and returns the exit code that stands for its status."""
    parent, told = os.dup(0), os.dup(2)
    # Code of others may read stdin, close it (exit() does) or print to a full disk.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    prepare_streams(lossy=("stdout", "stderr"))
    stdin = FileIO(parent)
    line = stdin.readline()
    if not line:  # the parent was killed before it could send the spec
        return EXIT_CODES[Status.INTERRUPTED]
    orphaned = threading.Event()

    def watch() -> None:
        while stdin.read(1):
            pass
        orphaned.set()
        end_soon(EXIT_CODES[Status.INTERRUPTED])

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
    try:
        status = execute(Spec.from_json(line.decode()), orphaned.is_set, own_log=True)
    except BusyError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BUSY
    except BaseException as error:
        status = {"status": Status.FAILED, "error": describe(error)}
        _say(told, status)
        return EXIT_BAD_INPUT
    _say(told, status)
    return EXIT_CODES[status["status"]]


def _say(descriptor: int, status: StatusRecord) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, (json.dumps({LAST_WORDS: status}, default=str) + "\n").encode())


def end_soon(code: int) -> None:
    """Ends the process with `code`, whatever it still does then."""
    time.sleep(STOPS_WITHIN_S)
    os._exit(code)


def run_and_end() -> NoReturn:
    """The process' whole life. Threads and exit handlers of an environment get some time to end."""
    code = main()
    threading.Thread(target=end_soon, args=[code], daemon=True).start()
    sys.exit(code)


if __name__ == "__main__":
    run_and_end()
