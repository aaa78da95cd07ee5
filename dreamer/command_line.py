"""What every command does with its streams, with Ctrl-C and with errors.

A mistake of the user and what the system refuses are one line on stderr (`error: ...`) and exit
code 2, never a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dreamer.errors import UserError, describe, disk_error

BAD_INPUT = 2
INTERRUPTED = 130  # as shells count: 128 and the signal


class Parser(argparse.ArgumentParser):
    """Reports mistakes as UserErrors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(
    parse: Callable[[Sequence[str]], argparse.Namespace],
    command: Callable[[argparse.Namespace], int],
    arguments: Sequence[str] | None,
) -> int:
    """Parses (the command line, if `arguments` is None) and executes; returns the exit code.

    Under `python -X dev` an error that nobody foresaw keeps its traceback.
    """
    prepare_streams()
    _listen_to_ctrl_c()
    try:
        try:
            code = command(parse(sys.argv[1:] if arguments is None else arguments))
        except SystemExit as end:  # --help
            code = end.code if isinstance(end.code, int) else 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has ended
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except (UserError, OSError) as error:
        nameless = isinstance(error, OSError) and error.filename is None
        where = "stdout: " if nameless and _give_up_lost_stdout() else ""
        print(f"error: {where}{describe(error)}", file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        hint = " (unexpected, please report it; python -X dev shows where)"
        print(f"error: {describe(error)}{'' if disk_error(error) else hint}", file=sys.stderr)
        return BAD_INPUT
    finally:
        _give_up_lost_stdout()


class _Lossy(io.FileIO):
    """A stream that never raises: its reader or terminal may go, its disk may be full."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def prepare_streams(lossy: Sequence[str] = ("stderr",)) -> None:
    """Makes the process' own streams usable: a closed one becomes /dev/null, what cannot be encoded
    is escaped, and those named in `lossy` never raise."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when Python started
            try:
                os.fstat(number)
            except OSError:  # no file that is opened later may get its number
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            stream = io.TextIOWrapper(io.FileIO(os.devnull, "w" if number else "r"))
            setattr(sys, name, stream)
        elif stream is not getattr(sys, f"__{name}__"):
            continue  # not the process' own: a test's or a notebook's
        elif number and name in lossy:
            buffer = io.BufferedWriter(_Lossy(number, "w", closefd=False))
            stream = io.TextIOWrapper(buffer, stream.encoding, write_through=True)
            setattr(sys, name, stream)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=name in lossy or None)


def _listen_to_ctrl_c() -> None:
    """Ctrl-C raises KeyboardInterrupt from now on. While modules were imported it ended the process
    (dreamer/__init__.py)."""
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _give_up_lost_stdout() -> bool:
    """Whether stdout cannot be written; it then leads nowhere, or Python would complain at the
    end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
