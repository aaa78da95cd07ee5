"""Which MongoDB servers are told. Credentials live in the environment only, never in records."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dreamer.config import UserError
from suites.provenance import without_credentials

VARIABLE = "DREAMER_MONGO_URL"
SCHEMES = ("mongodb://", "mongodb+srv://")


def name(url: str) -> str:
    """How messages and records name a server: without credentials or options."""
    return without_credentials(url).split("?")[0]


def give(url: str) -> None:
    """Tell this server as well, from this process and those that it starts."""
    os.environ[VARIABLE] = url


def all_urls(named: Sequence[str]) -> list[str]:
    """The servers that suites name, and that of DREAMER_MONGO_URL.

    The variable may name one of them again, with credentials: then it stands for it.
    """
    extra = os.environ.get(VARIABLE, "").strip()
    if not extra:
        return list(named)
    if not extra.startswith(SCHEMES):
        raise UserError(f"{VARIABLE} or --mongo: a URL that starts with mongodb:// is expected")
    return [url for url in named if name(url) != name(extra)] + [extra]
