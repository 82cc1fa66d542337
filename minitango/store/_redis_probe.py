"""Who answers where a Redis server was to be, and did not answer as one: asked once more, in a few bytes of our own."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import Final
from urllib.parse import unquote

from minitango.errors import StoreError
from minitango.store import _redis_tls as tls
from minitango.store._redis_url import Host, Place
from minitango.text import one_line

WITHIN: Final = 1.0
"""Seconds for all of it."""
_EACH: Final = 0.4
"""Seconds for one answer."""
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_ALERT: Final = b"\x15\x03"
"""How TLS begins to say that it was spoken to in something else."""
_MOST: Final = 512
_KNOWN: Final = {b"HTTP/": "an HTTP server", b"SSH-": "an ssh server", b"<": "a web server"}


def diagnosed(place: Place, error: StoreError, found: Host | None) -> StoreError:
    """What can be said of a server that could not be opened: more than `error`, where it is known who answers. `found`:
    where others said that it is."""
    if error.id not in ("store_unreachable", "store_io", "redis_tls"):
        return error
    until = time.monotonic() + WITHIN
    silent: StoreError | None = None
    for where in _places(place, found):
        with suppress(OSError, ValueError):  # nobody is there, or none of whom more can be said
            other = _of_one(place, where, until)
            if other is not None and other.id != "store_unreachable":
                return other
            silent = silent or other
        if time.monotonic() > until:
            break
    return silent or error


def no_redis(place: Place, where: str, what: str) -> StoreError:
    return StoreError(
        f"what answers at {where} is no Redis, but {what}",
        hint=f"correct host and port in the store's URL, Redis has 6379 as a rule: {place.look}",
        id="redis_kind",
    )


def _places(place: Place, found: Host | None) -> Iterable[str | Host]:
    """Sockets and hosts that were to answer."""
    if found is not None:
        yield found
    if place.scheme == "unix":
        yield unquote(place.rest.partition("?")[0])
    elif place.kind == "server":
        yield place.peer
    yield from place.hosts


def _of_one(place: Place, where: str | Host, until: float) -> StoreError | None:
    """None: it is a Redis that answers, or one of which nothing is known."""
    heard = _asked(where, until)
    if heard is not None and heard.startswith((b"+PONG", b"-", b":", b"$")):
        return tls.no_tls(place) if place.scheme == "rediss" else None
    if place.scheme != "unix" and (not heard or heard.startswith(_ALERT)) and _shakes(where, until):
        return _let_in(place, where, until) if place.scheme == "rediss" else tls.only_tls(place)
    if heard:
        known = next((what for begins, what in _KNOWN.items() if heard.startswith(begins)), "")
        return no_redis(place, str(where), known or f"something that says {one_line(repr(heard[:60])[2:-1], 60)}")
    if heard is None:
        return StoreError(
            f"what answers at {where} takes connections, and says nothing: a Redis that hangs, or none",
            hint=f"look whether it is one, and well: {place.look}",
            id="store_unreachable",
        )
    return no_redis(place, str(where), "something that says nothing, and hangs up")


def _asked(where: str | Host, until: float) -> bytes | None:
    """What it says first when it is asked for a sign of life; empty: it hangs up; None: nothing. OSError."""
    with closing(_connected(where, until)) as line:
        line.sendall(_PING)
        try:
            return line.recv(_MOST)
        except TimeoutError:
            return None
        except ConnectionResetError:
            return b""


def _shakes(where: str | Host, until: float) -> bool:
    """Whether it speaks TLS, whoever it says that it is, and whoever it wants us to be. OSError."""
    with closing(_connected(where, until)) as line:
        try:
            _context().wrap_socket(line).close()
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except (TimeoutError, ConnectionError):
            return False
    return True


def _let_in(place: Place, where: str | Host, until: float) -> StoreError | None:
    """Whether it takes what we show of ourselves: with TLS 1.3 it says so only afterwards. OSError."""
    context = _context()
    if (mine := place.tls.get("ssl_certfile")) is not None:
        context.load_cert_chain(mine, place.tls.get("ssl_keyfile"), password=lambda: "")
    with closing(_connected(where, until)) as line:
        try:
            with closing(context.wrap_socket(line)) as secret:
                secret.recv(1)
        except TimeoutError:
            return None
        except ssl.SSLError as error:
            return tls.trouble(error, place)
    return None


def _context() -> ssl.SSLContext:
    """Of one who tells nothing, and so need not know to whom."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _connected(where: str | Host, until: float) -> socket.socket:
    """OSError, also where there is no time left."""
    seconds = min(_EACH, until - time.monotonic())
    if seconds <= 0:
        raise TimeoutError
    if isinstance(where, str):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(seconds)
        try:
            line.connect(where)
        except BaseException:
            line.close()
            raise
        return line
    line = socket.create_connection((where.name, where.port), seconds)
    line.settimeout(seconds)
    return line
