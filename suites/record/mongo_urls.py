"""Which MongoDB servers are told, and how they are reached.

Credentials live in the environment or on the command line only, never in records and messages.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from dreamer.config import UserError
from suites.record.provenance import without_credentials

VARIABLE = "DREAMER_MONGO_URL"
DATABASE = "dreamer"  # where the URL names none
TIMEOUT_S = 10.0  # of one call to the server
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


def connect(url: str) -> tuple[Any, str]:
    """A client, which has not reached the server yet, and the database's name."""
    server = name(url)
    try:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError
    except ImportError:
        raise UserError(f"{server}: pymongo is not installed; pip install pymongo") from None
    timeout_ms = int(TIMEOUT_S * 1000)
    try:
        client: Any = MongoClient(
            url,
            connect=False,  # names of mongodb+srv are not looked up here: nothing waits, or fails
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
        )
        database = urllib.parse.urlsplit(url).path.strip("/") or DATABASE
        client[database]  # complains about names that cannot be
    except (PyMongoError, ValueError) as error:
        raise UserError(f"{server}: {without_credentials(str(error))}") from None
    return client, database


@contextlib.contextmanager
def failures_told(url: str) -> Iterator[None]:
    """What goes wrong with the server inside is one UserError."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("pymongo", "gridfs", "bson"):
            raise
        text = without_credentials(str(error)).split(",")[0]
        raise UserError(f"{name(url)}: not reached, or it refused: {text}") from None
