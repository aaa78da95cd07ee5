"""Mistakes of users, and hints at what they meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def nearest(name: object, names: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest valid one, else all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else "choose from " + ", ".join(known)
