"""What a Redis store's URL says: where the server is, and which queue on it."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from msgspec import Struct

from minitango.errors import ConfigError
from minitango.store import hidden

SCHEMES: Final = ("redis", "rediss", "unix")
_QUEUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DURABILITY: Final = ("warn", "require", "any")
_PASSED_ON: Final = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Parameters that are redis-py's own."""


class Place(Struct, frozen=True):
    """One queue on one server."""

    server: str
    """The URL as redis-py takes it, secrets included: not to be shown."""
    shown: str
    """The same for people: without a password."""
    queue: str
    """Empty: none is named."""
    durability: str
    """What is done about a server that may lose what it accepted: warn, require (refuse it) or any."""


def parse(url: str) -> Place:
    """Read `redis://[user:password@]host[:port][/db]`, `rediss://...` or `unix:///path`, with `?queue=NAME`,
    `durability=warn|require|any` and `db=N` where wanted. ConfigError `store_url`."""
    if re.search("[\x00-\x20\x7f]", url):  # some of which urlsplit leaves out without a word
        raise _refuse(url, "it has a blank or a control character: write %20 for a blank in a password")
    if "#" in url:
        raise _refuse(url, "it has a '#': write %23 in a password")
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        port = parts.port
    except ValueError:  # which may quote a password
        raise _refuse(url, "its host, port or parameters cannot be read") from None
    asked = dict(pairs)
    if len(asked) != len(pairs):
        raise _refuse(url, "it names something twice")
    queue, durability = asked.pop("queue", None), asked.pop("durability", "warn")
    if queue is not None:
        check_queue(queue)
    if durability not in _DURABILITY:
        raise _refuse(url, f"durability is {durability!r}, not {', '.join(_DURABILITY)}")
    for name in asked:
        if name not in _PASSED_ON:
            raise _refuse(
                url, f"it has an unknown parameter {name!r}: there are queue, durability, {', '.join(_PASSED_ON)}"
            )
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise _refuse(url, "it names no socket")
    elif not parts.hostname:
        raise _refuse(url, "it names no host")
    inside = parts.path.strip("/") if parts.scheme != "unix" else ""
    if inside and "db" in asked:
        raise _refuse(url, f"it names two databases, /{inside[:80]} and db={asked['db'][:80]}")
    database = asked.get("db", inside)
    if not re.fullmatch(r"[0-9]{0,5}", database):
        raise _refuse(url, f"{database!r} is no database's number")
    rest = parts.path + (f"?{urlencode(asked)}" if asked else "")
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    user = f"{quote(parts.username)}@" if parts.username else ""
    shown = f"{user}{host}{f':{port}' if port else ''}"
    return Place(f"{parts.scheme}://{parts.netloc}{rest}", f"{parts.scheme}://{shown}{rest}", queue or "", durability)


def check_queue(queue: str) -> str:
    """The name, if it can be a queue's on Redis. ConfigError `queue_name`."""
    if not _QUEUE.fullmatch(queue):
        raise ConfigError(
            f"{queue[:80]!r} cannot name a queue",
            hint="take up to 64 letters, digits, '.', '_' and '-', such as cs101-2026",
            id="queue_name",
        )
    return queue


def _refuse(url: str, why: str) -> ConfigError:
    return ConfigError(
        f"the store URL {hidden(url)!r} cannot be used: {why}",
        hint="write redis://HOST:6379/0?queue=NAME, rediss://USER:PASSWORD@HOST?queue=NAME or unix:///run/redis.sock; "
        "in a password / is %2F, @ is %40, # is %23",
        id="store_url",
    )
