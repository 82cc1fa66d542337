"""What a Redis store's URL says: where the server is, or who knows it, and which queue on it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from msgspec import Struct

from minitango.errors import ConfigError
from minitango.store import hidden

Kind = Literal["server", "sentinel", "cluster"]
_QUEUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HOST: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?"
)
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_MOST_HOSTS: Final = 100
_DURABILITY: Final = ("warn", "require", "any")
_FILES: Final = {"ssl_ca_certs": "--cacert", "ssl_certfile": "--cert", "ssl_keyfile": "--key"}
"""Parameters that name files of certificates, and the flags of redis-cli for the same."""
_PASSED_ON: Final = ("db", *_FILES)
"""Parameters that are redis-py's own."""
_LOGIN: Final = ("sentinel_user", "sentinel_password")
_PORTS: Final = {"sentinel": 26379, "cluster": 6379}
_HINTS: Final = {
    "server": "write redis://HOST:6379/0?queue=NAME, rediss://USER:PASSWORD@HOST?queue=NAME or unix:///run/redis.sock",
    "sentinel": "write redis+sentinel://USER:PASSWORD@HOST1:26379,HOST2:26379/SERVICE/0?queue=NAME, or "
    "rediss+sentinel:// for TLS",
    "cluster": "write redis+cluster://USER:PASSWORD@HOST1:6379,HOST2:6379?queue=NAME, or rediss+cluster:// for TLS",
    "several": "name one server; or write redis+sentinel://HOST1:26379,HOST2:26379/SERVICE/0?queue=NAME where they are "
    "sentinels, redis+cluster://HOST1:6379,HOST2:6379?queue=NAME where they are a cluster's nodes (rediss+... for TLS)",
}


class Host(Struct, frozen=True):
    """Where something answers."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def cli(self) -> str:
        return f"redis-cli -h {self.name} -p {self.port}"


class Place(Struct, frozen=True):
    """One queue: on one server, on the one that its sentinels name, or on the node of a cluster that has its slot."""

    scheme: str
    """As redis-py knows it: redis, rediss (TLS) or unix."""
    login: str
    """What stands before the host, secrets included, with its `@`: not to be shown."""
    where: str
    """The host of the one server; else empty."""
    rest: str
    """What stands behind the host."""
    shown: str
    """The URL for people: without a password."""
    queue: str
    """Empty: none is named."""
    durability: str
    """What is done about a server that may lose what it accepted: warn, require (refuse it) or any."""
    replicas: int = 0
    """How many replicas must have what is accepted or recorded before we say that it is."""
    kind: Kind = "server"
    hosts: tuple[Host, ...] = ()
    """The sentinels, or nodes of the cluster, that are asked first."""
    service: str = ""
    """What sentinels call the servers that are meant."""
    sentinel_login: str | None = None
    """As `login`, for the sentinels; None: they are asked without, and with `login` where they want one."""

    @property
    def server(self) -> str:
        """The URL of the one server as redis-py takes it, secrets included: not to be shown."""
        return f"{self.scheme}://{self.login}{self.where}{self.rest}"

    def at(self, host: Host) -> str:
        """The same for a server that was found."""
        return f"{self.scheme}://{self.login}{host}{self.rest}"

    def sentinel_at(self, host: Host, login: str) -> str:
        """The same for a sentinel, which has no databases."""
        query = self.rest.partition("?")[2]
        return f"{self.scheme}://{login}{host}" + (f"?{query}" if query else "")

    def instead(self, host: Host) -> str:
        """The whole URL, for people, of the same queue on one server that is there: a password is to be filled in."""
        name, colon, _ = self.login.removesuffix("@").partition(":")
        login = f"{name}:PASSWORD@" if colon else self.login
        path, _, query = self.rest.partition("?")
        asked = {"queue": self.queue, "durability": self.durability, "replicas": str(self.replicas)}
        usual = {"queue": "", "durability": "warn", "replicas": "0"}
        more = "&".join([part for part in (query,) if part] + [f"{n}={v}" for n, v in asked.items() if v != usual[n]])
        where = f"redis://{login}{host}" if self.scheme == "unix" else f"{self.scheme}://{login}{host}{path}"
        return where + (f"?{more}" if more else "")

    @property
    def peer(self) -> Host:
        """The host of the one server, or the first of those that are named. A socket has none."""
        if self.hosts:
            return self.hosts[0]
        parts = urlsplit(f"//{self.where}")
        return Host(parts.hostname or "localhost", parts.port or 6379)

    @property
    def tls(self) -> Mapping[str, str]:
        """The files of its certificates, by the parameter that names them."""
        asked = dict(parse_qsl(self.rest.partition("?")[2]))
        return {name: asked[name] for name in _FILES if name in asked}

    def cli(self, host: Host | None = None) -> str:
        """What to type to speak to the one server, or to one that was found: without the password."""
        flags = ""
        if self.scheme == "rediss":
            flags = (" --tls" if host or self.hosts else "") + "".join(
                f" {_FILES[name]} {shlex.quote(file)}" for name, file in self.tls.items()
            )
        if host is not None or self.hosts:
            return f"{(host or self.hosts[0]).cli}{flags}"
        url, _, query = self.shown.partition("?")
        where = f"-s {shlex.quote(url.removeprefix('unix://'))}" if self.scheme == "unix" else f"-u {shlex.quote(url)}"
        number = dict(parse_qsl(query)).get("db")
        return f"redis-cli {where}{flags}" + (f" -n {number}" if number else "")

    @property
    def look(self) -> str:
        """What to type to see whether somebody answers there, and who."""
        asks = {"server": "ping", "sentinel": f"sentinel master {self.service}", "cluster": "cluster nodes"}
        return f"{self.cli()} {asks[self.kind]}"


def parse(url: str) -> Place:
    """Read `redis://[user:password@]host[:port][/db]`, `rediss://...` or `unix:///path`, with `?queue=NAME`,
    `durability=warn|require|any`, `replicas=N` and `db=N` where wanted; also
    `redis+sentinel://[user:password@]host[:port],.../SERVICE[/db]` (and `sentinel_user=`, `sentinel_password=`),
    `redis+cluster://[user:password@]host[:port],...`, and both with `rediss`. ConfigError `store_url`."""
    if re.search("[\x00-\x20\x7f]", url):  # some of which urlsplit leaves out without a word
        raise _refuse(url, "it has a blank or a control character: write %20 for a blank in a password")
    if "#" in url:
        raise _refuse(url, "it has a '#': write %23 in a password")
    before, _, after = url.partition("://")
    scheme, _, kind = before.lower().partition("+")
    several = kind in _PORTS
    if not several and scheme != "unix" and "," in re.split("[/?]", after, maxsplit=1)[0].rpartition("@")[2]:
        raise _refuse(url, f"it names several hosts, and {scheme}:// is one server", hints="several")
    try:
        # several hosts are not for urlsplit, which looks for one port
        netloc = re.split("[/?]", after, maxsplit=1)[0] if several else ""
        parts = urlsplit(f"{scheme}://{after[len(netloc) :]}" if several else url)
        netloc = netloc if several else parts.netloc
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        port = parts.port
    except ValueError:  # which may quote a password
        raise _refuse(url, "its host, port or parameters cannot be read") from None
    asked = dict(pairs)
    if len(asked) != len(pairs):
        raise _refuse(url, "it names something twice")
    queue, durability, replicas = asked.pop("queue", None), asked.pop("durability", "warn"), asked.pop("replicas", "0")
    if queue is not None:
        check_queue(queue)
    if durability not in _DURABILITY:
        raise _refuse(url, f"durability is {durability!r}, not {', '.join(_DURABILITY)}")
    if not re.fullmatch("[0-9]", replicas):
        raise _refuse(url, f"replicas is {replicas[:80]!r}, not a number from 0 to 9")
    known = (*_PASSED_ON, *(_LOGIN if kind == "sentinel" else ()))
    for name in asked:
        if name not in known:
            raise _refuse(
                url, f"it has an unknown parameter {name!r}: there are queue, durability, replicas, {', '.join(known)}"
            )
        if name.startswith("ssl_") and url[:6].lower() != "rediss":
            raise _refuse(url, f"it has {name}, and no TLS: write rediss instead of redis")
    user, password = (asked.pop(name, None) for name in _LOGIN)
    if user is not None and not password:
        raise _refuse(url, "it names a user of the sentinels, and no sentinel_password")
    sentinel_login = None if password is None else f"{quote(user or '', safe='')}:{quote(password, safe='')}@"
    login, at, where = netloc.rpartition("@")
    login += at
    hosts: tuple[Host, ...] = ()
    service, path = "", parts.path
    if several:
        if "@" in login[:-1]:
            raise _refuse(url, "it has more than one '@': name a user and a password once, and write %40 in it")
        hosts = _hosts(url, where, _PORTS[kind])
        where = ""
        service, path = _inside(url, parts.path, kind)
    elif parts.scheme == "unix":
        if not path.strip("/"):
            raise _refuse(url, "it names no socket")
    elif not parts.hostname:
        raise _refuse(url, "it names no host")
    elif "&" in parts.hostname:
        raise _refuse(url, "its host has a '&': a '?' begins the parameters, as in /0?queue=NAME")
    inside = path.strip("/") if scheme != "unix" else ""
    if inside and "db" in asked:
        raise _refuse(url, f"it names two databases, /{inside[:80]} and db={asked['db'][:80]}")
    database = asked.get("db", inside)
    if not re.fullmatch(r"[0-9]{0,5}", database):
        raise _no_database(url, database)
    if kind == "cluster" and int(database or 0):
        raise _refuse(url, "a cluster has database 0 alone")
    query = f"?{urlencode(asked)}" if asked else ""
    rest = path + query
    name = login.partition(":")[0].removesuffix("@")
    if several:
        host = ",".join(map(str, hosts)) + (f"/{service}" if service else "")
    else:
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        host += f":{port}" if port else ""
    user = f"{quote(name, safe='%')}@" if name else ""
    shown = f"{before.lower()}://{user}{host}{rest}"
    return Place(
        scheme, login, where, rest, shown, queue or "", durability, int(replicas),
        "sentinel" if kind == "sentinel" else "cluster" if several else "server", hosts, service, sentinel_login,
    )  # fmt: skip


def _no_database(url: str, text: str) -> ConfigError:
    """What stands where a database's number is to be is the queue, as a rule."""
    if "@" in text:  # or a part of a password that was not escaped
        return _refuse(url, "what follows its host is no database's number")
    meant = re.fullmatch(r"([0-9]{0,5})(?:&queue=)?([^&=]+)", text)
    queue = f"/{meant[1] or 0}?queue={meant[2]}" if meant and _QUEUE.fullmatch(meant[2]) else ""
    return _refuse(url, f"{text[:80]!r} is no database's number", meant=f"name the queue so: {queue}" if queue else "")


def _hosts(url: str, text: str, port: int) -> tuple[Host, ...]:
    """Nothing of it is quoted: it may be a part of a password that was not escaped."""
    found: dict[Host, None] = {}
    for one in text.split(","):
        read = _HOST.fullmatch(one)
        host = None if read is None else found_host(read["six"] or read["name"], int(read["port"] or port))
        if host is None:
            raise _refuse(url, "its hosts cannot be read: HOST:PORT,HOST:PORT" if text else "it names no host")
        found[host] = None
    if len(found) > _MOST_HOSTS:
        raise _refuse(url, f"it names {len(found)} hosts: some of them will do")
    return tuple(found)


def _inside(url: str, path: str, kind: str) -> tuple[str, str]:
    """The service that a path names, and what is left of it. Nothing of it is quoted, either."""
    if kind == "cluster":
        return "", path
    service, _, database = path.removeprefix("/").partition("/")
    if not _SERVICE.fullmatch(service):
        why = "has a service that cannot be one" if service else "names no service, as `sentinel monitor` calls it"
        raise _refuse(url, f"it {why}")
    if not re.fullmatch("[0-9]{0,5}/?", database):
        raise _refuse(url, "what follows its service is no database's number")
    return service, f"/{database}" if database else ""


def found_host(name: str, port: int) -> Host | None:
    """A host that somebody names; None where it cannot be one."""
    return Host(name, port) if _NAME.fullmatch(name) and 0 < port < 65536 else None


def check_queue(queue: str) -> str:
    """The name, if it can be a queue's on Redis. ConfigError `queue_name`."""
    if not _QUEUE.fullmatch(queue):
        raise ConfigError(
            f"{queue[:80]!r} cannot name a queue",
            hint="take up to 64 letters, digits, '.', '_' and '-', such as cs101-2026",
            id="queue_name",
        )
    return queue


def _refuse(url: str, why: str, *, hints: str = "", meant: str = "") -> ConfigError:
    kind = hints or url.partition("://")[0].lower().partition("+")[2]
    return ConfigError(
        f"the store URL {hidden(url)!r} cannot be used: {why}",
        hint=meant or f"{_HINTS.get(kind, _HINTS['server'])}; in a password / is %2F, @ is %40, # is %23",
        id="store_url",
    )
