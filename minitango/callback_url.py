"""URLs of callbacks, as people write them; which addresses one may lead to; and what an operator says of that.

A callback is sent by a machine that may stand where its submitters may not: beside a cloud's metadata, in a private
network. So an address must be public, however it is written, unless the operator named the host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct, structs

from minitango.errors import ConfigError


class _Anywhere(Collection[str]):
    """Every host."""

    def __contains__(self, host: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ANYWHERE: Final[Collection[str]] = _Anywhere()
"""For whom it is not to decide which hosts are allowed."""
MAX_URL: Final = 2000
"""Characters."""
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""What a host's last label is where systems take the whole for an address: 2130706433, 127.1, 0x7f.0.0.1."""
_FIRST_FREE_PORT: Final = 1024
"""Below it are mail, shells and the like, which a request can make do things."""
_AZURE: Final = ipaddress.ip_address("168.63.129.16")
"""The one service for a cloud's own machines that has a public address."""
_PROTOCOLS: Final = ipaddress.ip_network("192.0.0.0/24")
"""For protocols, and a cloud's metadata; not every Python counts it as private."""
_UNICAST: Final = ipaddress.ip_network("2000::/3")
_TUNNELS: Final = tuple(map(ipaddress.ip_network, ("2002::/16", "2001::/32")))
"""6to4 and Teredo: addresses that lead to an IPv4 address inside them."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class Target(Struct, frozen=True):
    """Where a callback goes."""

    secure: bool
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int
    path: str
    """With its query: what the request asks for."""

    @property
    def authority(self) -> str:
        """The host, and the port where it is not the usual one, as the `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For people: without path and query, which may hold a secret."""
        return f"{'https' if self.secure else 'http'}://{self.authority}"


def parse(url: str, allow: Collection[str] = ()) -> Target:
    """The target of a callback's URL. ConfigError `callback_url`: nothing will ever be sent there.

    `allow` are hosts (`host_of`) that the operator named: of those, any address and port will do.
    """
    if not isinstance(url, str):
        raise _bad(repr(url), "it is not a string")
    if not url:
        raise _bad(url, "it is empty")
    if len(url) > MAX_URL:
        raise _bad(url[:60] + "...", f"it is longer than {MAX_URL} characters")
    if not re.fullmatch(r"[!-\[\]-~]+", url):  # printable, no blank, no backslash
        raise _bad(url, "it has blanks, control characters, backslashes or letters beyond ASCII: percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad(url, str(error)) from error
    if parts.scheme not in ("http", "https"):
        raise _bad(url, "it is neither http nor https")
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise _bad(shown, "it has a user's name or password in it")
    if "#" in url:
        raise _bad(url, "it has a fragment (#), which is never sent")
    if port == 0 or parts.netloc.endswith(":"):
        raise _bad(url, "its port is none")
    host = host_of(parts.hostname or "", url)
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(secure, host, port or (443 if secure else 80), path)
    if host in allow:
        return target
    if target.port < _FIRST_FREE_PORT and target.port not in (80, 443):
        raise _bad(url, f"port {target.port} is not for callbacks", allow=host)
    if host == "localhost" or host.endswith(".localhost"):
        raise _bad(url, f"{host} is this machine", allow=host)
    address = literal(host)
    if address is not None and (why := refusal(address)):
        raise _bad(url, f"{host} is {why}", allow=host)
    return target


def host_of(text: str, url: str = "") -> str:
    """A host in the one way in which hosts are compared. ConfigError where it is none, or is one in disguise."""
    host = text.lower().removeprefix("[").removesuffix("]")
    address = literal(host)
    if address is not None:
        return str(address)
    why = ""
    if len(host) > 253 or not _NAME.fullmatch(host):
        why = f"{text!r} is no host's name"
    elif _NUMBER.fullmatch(host.rpartition(".")[2]):
        why = f"{text!r} is an odd way to write an address: write four numbers with dots"
    if why and url:
        raise _bad(url, why)
    if why:
        text = f"callbacks cannot be allowed to a host that is none: {why}"
        raise ConfigError(text, hint="name it as URLs do, without scheme and port: lms.internal", id="callback_url")
    return host


def literal(host: str) -> Address | None:
    """The address that a host is written as; None: it is a name."""
    try:
        return ipaddress.ip_address(host) if "%" not in host else None
    except ValueError:
        return None


def refusal(address: Address) -> str:
    """Why nothing is sent to this address unless its host was named by the operator, in a few words; empty: it is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if address in _NAT64:
            inner = ipaddress.IPv4Address(address.packed[-4:])
        if inner is not None:
            return refusal(inner)
        if address not in _UNICAST or any(address in net for net in _TUNNELS):
            return "a loopback address" if address.is_loopback else "no public address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local or address == _AZURE:
        return "an address of this machine's own network or cloud"
    if address.is_multicast or address in _PROTOCOLS or not address.is_global:
        return "no public address"
    return ""


class Callbacks(Struct, frozen=True):
    """How an engine sends callbacks. ConfigError `callback_url` where `allow` has what is no host."""

    allow: tuple[str, ...] = ()
    """Hosts, as URLs name them, that may be at any address, also a private one, and at any port."""
    secret: str = ""
    """Signs what is sent; empty: nothing is signed."""

    def __post_init__(self) -> None:
        if isinstance(self.allow, str) or not all(isinstance(host, str) for host in self.allow):
            text = f"callbacks are allowed to {self.allow!r}, which is no list of hosts"
            raise ConfigError(text, hint='Callbacks(allow=("lms.internal",))', id="callback_url")
        structs.force_setattr(self, "allow", tuple(dict.fromkeys(map(host_of, self.allow))))

    def __repr__(self) -> str:
        return f"Callbacks(allow={self.allow!r}, secret={'...' if self.secret else ''!r})"

    def check(self, url: str) -> None:
        """ConfigError `callback_url` where nothing could ever be sent to this URL. Looks up no name."""
        parse(url, self.allow)


def _bad(url: str, why: str, *, allow: str = "") -> ConfigError:
    meant = f"where that is meant, for who submits and for every worker: --callback-allow {allow}"
    hint = meant if allow else "write one such as https://lms.example/graded"
    return ConfigError(f"nothing can be sent to the callback {url!r}: {why}", hint=hint, id="callback_url")
