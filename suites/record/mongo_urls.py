"""Which MongoDB servers get records, and how to connect to them.

Credentials are in the environment or on the command line only, never in records and messages.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from dreamer.errors import UserError
from suites.record.secrets import bare, has_secret_option, hide

VARIABLE = "DREAMER_MONGO_URL"
DATABASE = "dreamer"  # where the URL names none
TIMEOUT_S = 10.0  # of one call to the server
# What a server answers to a record that it will never take: a document beyond 16 MB (10334, 17419),
# a value or type that it does not allow (2, 9, 14), one against its rules (121).
FINAL_CODES = (2, 9, 14, 121, 10334, 17419)
SCHEMES = ("mongodb://", "mongodb+srv://")


def name(url: str) -> str:
    """The server in messages and records: the URL without credentials and options."""
    return bare(url)


def give(url: str) -> None:
    """Sends records to this server too, from this process and those that it starts."""
    os.environ[VARIABLE] = url


def all_urls(named: Sequence[str]) -> list[str]:
    """The servers that suites name, and that of DREAMER_MONGO_URL.

    The variable may give one of them again, with credentials; then it replaces that one.
    """
    extra = os.environ.get(VARIABLE, "").strip()
    if not extra:
        return list(named)
    if not extra.startswith(SCHEMES):
        raise UserError(f"{VARIABLE} or --mongo: a URL that starts with mongodb:// is expected")
    return [url for url in named if name(url) != name(extra)] + [extra]


def connect(url: str) -> tuple[Any, str]:
    """(client, which has not contacted the server yet; name of the database)"""
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
            connect=False,  # no look-up of mongodb+srv names here, which could wait or fail
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
        )
        database = urllib.parse.urlsplit(url).path.strip("/") or DATABASE
        client[database]  # raises for a name that is not allowed
    except (PyMongoError, ValueError, OSError) as error:  # OSError: a file of the options
        raise UserError(f"{server}: {hide(str(error))}") from None
    return client, database


def check(named: Sequence[str]) -> None:
    """Raises UserError if the URL of a server that gets records is malformed, or if one in a suite
    has a secret option, since suites are shared.
    """
    for url in named:
        if has_secret_option(url):
            raise UserError(
                f"{name(url)}: an option of this URL is secret; suites are shared, give the URL in "
                f"{VARIABLE} instead"
            )
    for url in all_urls(named):
        client, _ = connect(url)
        client.close()


def is_final(error: Exception) -> bool:
    """Whether another try is useless, because the server refused the record itself. Everything else
    may pass: a server that is away, elects, or has a full disk."""
    from pymongo import errors

    refused = (errors.DuplicateKeyError, errors.InvalidDocument, errors.DocumentTooLarge)
    return isinstance(error, refused) or getattr(error, "code", None) in FINAL_CODES


@contextlib.contextmanager
def failures_told(url: str) -> Iterator[None]:
    """Turns failures of the server in the block into one UserError."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("pymongo", "gridfs", "bson"):
            raise
        text = hide(str(error)).split(",")[0]
        raise UserError(f"{name(url)}: not reached, or it refused: {text}") from None
