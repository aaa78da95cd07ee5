"""Keeps passwords, tokens and keys out of records, logs and messages.

Two ways, both without guessing how a secret looks: URLs are taken apart, and lose user, password
and options; and values that this process knows to be secret, from its environment, are cut out
wherever they stand.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator

# In the name of a variable or an option (of capitals and small letters, with `_` and `-` left out):
# then its value is secret.
WORDS = ("password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "accesskey",
         "privatekey", "authkey", "signature", "mechanismproperties")  # fmt: skip
SHORTEST = 6  # a value shorter than this (`false`, `root`) would be cut out of ordinary words
HIDDEN = "***"
URL_VARIABLES = ("DREAMER_MONGO_URL", "DOCTOR_URL")


def is_secret(name: str) -> bool:
    """Whether a variable or option of this name holds a secret."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return any(word in plain for word in WORDS)


def bare(url: str) -> str:
    """A URL without user, password, options: scheme, hosts and path."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    address, _, options = rest.partition("?")
    hosts = address.rpartition("@")[2].partition("/")
    ports = [host.partition(":")[2] for host in hosts[0].split(",")]
    if "@" in options and not (hosts[1] and all(port.isdecimal() or not port for port in ports)):
        return f"{scheme}://{HIDDEN}"  # a password with `?`, or options with `@`: nobody can tell
    return f"{scheme}://{address.rpartition('@')[2]}"


def has_secret_option(url: str) -> bool:
    """Whether an option of the URL holds a secret."""
    options = url.partition("?")[2].split("&")
    return any(is_secret(option.partition("=")[0]) for option in options)


def hide(text: str) -> str:
    """The text without the secrets that this process knows, and with bare URLs. In a text a URL
    ends at a space or a quotation mark; its password may hold spaces."""
    for value in sorted(set(_known()), key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return "\n".join(map(_hide_urls, text.split("\n")))


def hide_word(word: str) -> str:
    """A word of a command line: all that follows `://` is one URL, and `--NAME=VALUE` with a secret
    name loses its value."""
    name = word.partition("=")[0]
    if name != word and "://" not in name and is_secret(name):
        return f"{name}={HIDDEN}"
    before, mark, rest = word.partition("://")
    if mark:
        start, colon, scheme = before.rpartition("=")
        word = f"{start}{colon}{bare(f'{scheme}://{rest}')}"
    return hide(word)


def _hide_urls(line: str) -> str:
    parts = re.split(r"(?=\b[a-z][a-z0-9+.-]*://)", line, flags=re.IGNORECASE)
    return "".join(map(_hide_url, parts))


def _hide_url(part: str) -> str:
    """A text that begins with a URL, or has none."""
    if "://" not in part:
        return part
    scheme, _, rest = part.partition("://")
    if "@" in rest.partition("?")[0]:
        rest = rest.rpartition("@")[2]
    end = re.search(r"[\s\"'<>]", rest)
    url, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    return bare(f"{scheme}://{url}") + after


def _known() -> Iterator[str]:
    """The secrets in this process' environment, as they are written and decoded."""
    for name, value in os.environ.items():
        found = [value] if is_secret(name) else []
        if name in URL_VARIABLES or (name.endswith(("_URL", "_URI")) and "@" in value):
            found = list(_in_url(value))
        for secret in found:
            for form in {secret, urllib.parse.unquote(secret), urllib.parse.unquote_plus(secret)}:
                if len(form) >= SHORTEST:
                    yield form


def _in_url(url: str) -> Iterator[str]:
    """The password of a URL and the values of its secret options."""
    address, _, options = url.partition("://")[2].partition("?")
    if "@" in url.rpartition("/")[0] or "@" in address:
        yield url.partition("://")[2].rpartition("@")[0].partition(":")[2]
        yield address.rpartition("@")[0].partition(":")[2]
    for option in options.split("&"):
        name, _, value = option.partition("=")
        if is_secret(name):
            yield value
            yield from (part.partition(":")[2] for part in value.split(","))
