"""The way to the server that has a queue: the one that its URL names, the master that sentinels name, or the node of a
cluster that owns its slot. Nobody else knows that it may be another one tomorrow.

A queue is one slot, and so is on one server at a time: this finds it, and everything is then asked of that one by a
plain client. What a sentinel or a node says of where it is, is hostile until it is parsed.
"""

from __future__ import annotations

import binascii
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Final

import redis
from redis import exceptions

from minitango.errors import StoreError
from minitango.store._redis_clients import ANSWER, Brief, Clients, made
from minitango.store._redis_tls import check_files
from minitango.store._redis_url import Host, Place, found_host

SURE_FOR: Final = 2.0
"""Seconds after which sentinels are asked again, though their master answers: until they reach it, it does not know
that it is none any more, and what it accepts is lost."""
_ASKING: Final = 0.4
"""Seconds for asking where the queue is: with ANSWER, less than the two within which people have an answer, by what a
machine takes for it all."""
_EACH: Final = 0.3
"""Seconds for one sentinel or node of those, that others be asked, too."""
_PAUSE: Final = 0.1
"""Seconds between two times of asking."""
_SLOTS: Final = 16384
_MOST_NODES: Final = 1000


def way_to(place: Place, queue: str) -> Way:
    """To the server that has this queue. StoreError where the URL, or a file that it names, cannot be used."""
    check_files(place)
    match place.kind:
        case "server":
            return Way(place)
        case "sentinel":
            return SentinelWay(place)
        case "cluster":
            return ClusterWay(place, queue)


class Way:
    """To one server, whatever becomes of it. Threads share it."""

    several = False
    """Whether the queue may be on another server next time."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.turn = 0
        """Goes up with each server that the queue turns out to be on."""
        self._current: Clients | None = None
        self._lock = threading.Lock()

    def clients(self) -> Clients:
        """Of the server that has the queue, as far as is known. RedisError, OSError, StoreError where none is known."""
        with self._lock:
            if self._current is None:
                self._current = made(self.place, self.place.server)
            return self._current

    def doubt(self, clients: Clients, error: BaseException) -> None:
        """This came of asking it: it may not have the queue any more."""

    def keys(self, prefix: str) -> list[str]:
        """What a script is told beside its key."""
        return []

    @property
    def host(self) -> Host | None:
        """Where others say that that server is; None: nobody was asked, or none is known."""
        return self._current.host if self._current is not None else None

    @property
    def cli(self) -> str:
        """What to type to speak to that server."""
        return self.place.cli(self.host)

    def close(self) -> None:
        if self._current is not None:
            self._current.close()


class _Found(Way, ABC):
    """To a server that others name, and name anew when it fails."""

    several = True
    _sure_for = float("inf")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._known: list[Host] = list(place.hosts)
        """Who may know where it is: those that answered last come first."""
        self._doubted = False
        self._asked = -_PAUSE
        self._told: Host | None = None
        """Where the server that was asked last says that it is."""

    def clients(self) -> Clients:
        with self._lock:
            if not self._is_due():
                assert self._current is not None
                return self._current
            current, told = self._current, self._told
            try:
                host = told or self._find(current, doubted=self._doubted)
            except (redis.RedisError, OSError, StoreError):
                if current is None:
                    raise
                return current  # which alone is known: it may be back, and they not
            finally:
                self._told, self._asked = None, time.monotonic()
            self._doubted = False
            if current is None or current.host != host:
                self._current = made(self.place, self.place.at(host), host=host, master=self.place.kind == "sentinel")
                self.turn += 1
                if current is not None:
                    current.close(all=False)
            assert self._current is not None
            return self._current

    def _is_due(self) -> bool:
        since = time.monotonic() - self._asked
        if self._current is None or self._told is not None:
            return True
        return since > _PAUSE if self._doubted else since > self._sure_for

    def doubt(self, clients: Clients, error: BaseException) -> None:
        with self._lock:
            if clients is not self._current:
                return
            self._doubted = True
            if isinstance(error, exceptions.MovedError):
                mine = clients.host
                self._told = found_host(error.host or (mine.name if mine else ""), error.port)

    @abstractmethod
    def _find(self, current: Clients | None, *, doubted: bool) -> Host:
        """Where the queue is: another place than the doubted one, if anybody names one."""

    def _ask_all(self) -> Iterable[tuple[Host, float]]:
        """Those that may know, each with the seconds that it has to answer, for as long as there are any."""
        end = time.monotonic() + (_ASKING if self._current is not None else ANSWER)
        for host in list(self._known):
            left = end - time.monotonic()
            if left < 0.02:
                return
            yield host, min(left, _EACH if self._current is not None else _ASKING)

    def _silent(self, host: Host) -> None:
        self._known.remove(host)
        self._known.append(host)

    def _nobody(self, trouble: BaseException | None) -> redis.ConnectionError:
        who = "sentinels" if self.place.kind == "sentinel" else "nodes"
        error = redis.ConnectionError(f"none of its {who} answers: {trouble}")
        error.__cause__ = trouble
        return error


class SentinelWay(_Found):
    """To the master of a service. Each connection makes sure that it is one: a replica would answer, and be behind."""

    _sure_for = SURE_FOR

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        guesses = ("", place.login) if place.sentinel_login is None else (place.sentinel_login,)
        self._logins = list(dict.fromkeys(guesses))

    def _find(self, current: Clients | None, *, doubted: bool) -> Host:
        """By what the latest failover decided, of those that a majority know, or as many as answer."""
        best: tuple[int, bool] = (-1, False)
        found: Host | None = None
        heard = 0
        trouble: BaseException | None = None
        for sentinel, seconds in self._ask_all():
            try:
                master = self._ask(sentinel, seconds)
            except exceptions.AuthenticationError as error:
                raise StoreError(
                    f"the sentinel at {sentinel} does not let us in: {error}",
                    hint="add its password to the store's URL: &sentinel_password=PASSWORD",
                    id="store_auth",
                ) from error
            except (redis.RedisError, OSError, ValueError) as error:
                trouble = error
                self._silent(sentinel)
                continue
            heard += 1
            if master is not None:
                mine = current is not None and current.host == master[0]
                if (rank := (master[1], mine != doubted)) > best:
                    best, found = rank, master[0]
            if heard > len(self._known) // 2 and found is not None:
                break
        if found is not None:
            return found
        if heard:
            raise StoreError(
                f"the sentinels at {self.place.shown} know no service {self.place.service!r}",
                hint=f"name it in the URL as they do: {self.place.cli(self._known[0])} sentinel masters",
                id="redis_service",
            )
        raise self._nobody(trouble)

    def _ask(self, sentinel: Host, seconds: float) -> tuple[Host, int] | None:
        """Where it says that the master is, and since which failover; None: it knows of none."""
        for login in list(self._logins):
            with Brief(self.place.sentinel_at(sentinel, login), seconds) as client:
                pipe = client.pipeline(transaction=False)
                pipe.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.place.service)  # type: ignore[no-untyped-call]
                pipe.execute_command("SENTINEL", "MASTER", self.place.service)  # type: ignore[no-untyped-call]
                try:
                    address, more = pipe.execute(raise_on_error=False)
                except exceptions.AuthenticationError:
                    if login == self._logins[-1]:
                        raise
                    continue
            if isinstance(address, exceptions.AuthenticationError) and login != self._logins[-1]:
                continue
            self._logins = [login, *(other for other in self._logins if other != login)]
            if isinstance(address, redis.ResponseError) and "unknown command" in str(address).lower():
                raise StoreError(
                    f"what answers at {sentinel} is no sentinel",
                    hint=f"name sentinels, which answer on port 26379 as a rule: {self.place.look}",
                    id="redis_kind",
                )
            return master_of(address, more)
        raise AssertionError("unreachable")


class ClusterWay(_Found):
    """To the node that owns the slot of a queue."""

    def __init__(self, place: Place, queue: str) -> None:
        super().__init__(place)
        self._slot = binascii.crc_hqx(queue.encode(), 0) % _SLOTS

    def keys(self, prefix: str) -> list[str]:
        """One that never is. While a slot is on its way to another node, the server refuses whatever names one that it
        does not have, before a script begins; else a script would be torn where it first met one."""
        return [prefix + "nowhere"]

    def _find(self, current: Clients | None, *, doubted: bool) -> Host:
        before = current.host if current is not None and doubted else None
        heard = 0
        trouble: BaseException | None = None
        found: Host | None = None
        for node, seconds in self._ask_all():
            try:
                with Brief(self.place.at(node), seconds) as client:
                    reply = client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
                owner, nodes = owner_of(reply, self._slot, node)
            except exceptions.AuthenticationError:
                raise
            except redis.ResponseError as error:
                if "cluster support disabled" in str(error) or "unknown command" in str(error).lower():
                    raise StoreError(
                        f"what answers at {node} is no node of a cluster",
                        hint="write redis:// for redis+cluster://, or name nodes of the cluster",
                        id="redis_kind",
                    ) from error
                trouble = error
                continue
            except (redis.RedisError, OSError, ValueError) as error:
                trouble = error
                self._silent(node)
                continue
            heard += 1
            self._known += [other for other in nodes if other not in self._known][: _MOST_NODES - len(self._known)]
            if owner is not None and owner != before:
                return owner
            found = found or owner
        if found is not None:
            return found
        if heard:
            raise exceptions.ClusterDownError(f"no node has slot {self._slot}, in which the queue is")
        raise self._nobody(trouble)


def master_of(address: Any, more: Any) -> tuple[Host, int] | None:
    """What a sentinel answered: where the master is, and the number of the failover that made it one (0: it does not
    say). None: it knows of none. ValueError, RedisError."""
    if isinstance(address, Exception):
        raise address
    if address is None:
        return None
    if not isinstance(address, list) or len(address) != 2:
        raise ValueError("a sentinel's answer is no address")
    host = _host(*address)
    if host is None:
        raise ValueError("a sentinel's answer is no address")
    epoch = 0
    if isinstance(more, list):
        fields = dict(zip(more[::2], more[1::2], strict=False)) if all(isinstance(one, bytes) for one in more) else {}
        if re.fullmatch(rb"[0-9]{1,18}", said := fields.get(b"config-epoch", b"")):
            epoch = int(said)
    return host, epoch


def owner_of(reply: Any, slot: int, asked: Host) -> tuple[Host | None, list[Host]]:
    """What a node answered to CLUSTER SLOTS: who owns the slot (None: nobody), and who else is there. ValueError."""
    owner: Host | None = None
    nodes: dict[Host, None] = {}
    strange = ValueError("a node's answer tells of no slots")
    for entry in reply if isinstance(reply, list) else [None]:
        if not isinstance(entry, list) or len(entry) < 3 or not all(type(at) is int for at in entry[:2]):
            raise strange
        for n, node in enumerate(entry[2:]):
            if not isinstance(node, list) or len(node) < 2:
                raise strange
            # without a name, or an empty one: it has the one that was asked
            host = _host(node[0] or asked.name.encode(), node[1])
            if host is None:
                continue  # '?': it does not know its own name
            nodes[host] = None
            if n == 0 and entry[0] <= slot <= entry[1]:
                owner = host
    return owner, list(nodes)


def _host(name: Any, port: Any) -> Host | None:
    if isinstance(port, bytes) and re.fullmatch(rb"[0-9]{1,5}", port):
        port = int(port)
    if not isinstance(name, bytes) or type(port) is not int:
        return None
    return found_host(name.decode("ascii", "replace"), port)
