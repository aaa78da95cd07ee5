"""Mistakes of users, hints at what they meant, and errors as one line."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

MAX_LINE = 1000  # characters
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class UserError(Exception):
    """A mistake in the input. Commands print it as one `error:` line and exit with code 2."""


class ConfigError(UserError):
    """A setting that does not exist or cannot have the given value.

    `key` names the setting, so that a caller who knows the file can add the line.
    """

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


class DamagedError(UserError, ValueError):
    """A file of a run does not hold what was written to it. `what` names the file and the damage;
    the message says what to do, too."""

    def __init__(self, what: str):
        super().__init__(f"{what}; restore it from a copy, or start the run anew with --fresh")
        self.what = what


def counted(count: int, noun: str) -> str:
    """A count with its noun: 1 run, 2 runs."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def nearest(name: object, names: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid one, else all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else "choose from " + ", ".join(known)


class KilledError(Exception):
    """A process that training needs was killed from outside. The run can be continued."""


def shorten(text: str, most: int = 60) -> str:
    """The text, cut where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def one_line(text: str) -> str:
    """The text as one printable line, cut where it is very long."""
    return shorten(printable(" ".join(text.split())), MAX_LINE)


def printable(line: str) -> str:
    """The line with its control characters, such as those of escape sequences, written as \\x1b."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def disk_error(error: BaseException) -> OSError | None:
    """The error of a disk, such as a full one, on which this one followed. Libraries that close a
    half-written file often fail in a way that hides it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in DISK_ERRORS:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def describe(error: BaseException) -> str:
    """What went wrong, in one line: a UserError's own text; of the system's errors the file and
    the reason; else the kind of error and its text."""
    if isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = ": ".join([*names, error.strerror])
    elif (disk := disk_error(error)) is not None:
        text = describe(disk)
    elif isinstance(error, SystemExit):
        text = f"exit({error.code!r}) was called"
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else ""
    return one_line(text) or type(error).__name__
