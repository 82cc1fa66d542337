"""Several Redis servers for the tests: a master and its replica with sentinels, and a cluster. Real, private."""

from __future__ import annotations

import binascii
import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.redis_server import START, Server, free_port
from tests.support import eventually

SERVICE = "course"
NODE_TIMEOUT = 500
DOWN_AFTER = 1000


def until(check: Callable[[], object], what: str, timeout: float = START) -> None:
    def does() -> bool:
        with contextlib.suppress(Exception):
            return bool(check())
        return False

    eventually(does, what, within=timeout, every=0.01)


def follows(master: Server) -> bool:
    """Whether a replica has what is told to the master."""
    client = master.client()
    client.publish("hello", "")
    return bool(client.execute_command("WAIT", 1, 1000))


class Sentinel(Server):
    """Knows its fellows and the replica from the beginning, so that nobody has to wait for their greetings."""

    flags = ("--sentinel",)

    def __init__(self, number: int, password: str = "", **options: str) -> None:
        self.id = f"{number:040x}"
        self.password = password
        self.own = options
        self.about: list[str] = []
        super().__init__()

    def start(self) -> None:
        if self.about:
            self._config()
            super().start()

    def _config(self) -> None:
        # in place of what a server has: `Server.start` writes a line for each
        password = {"requirepass": self.password} if self.password else {}
        self.options = {**self.own, "sentinel myid": self.id, **password}
        for n, line in enumerate(self.about):
            word, rest = line.split(" ", 1)
            self.options[f"{word}{' ' * n}"] = rest  # one key each

    def client(self) -> Any:
        import redis

        return redis.Redis(unix_socket_path=str(self.socket), password=self.password or None)


class Watched:
    """A master, its replica, and sentinels that promote it."""

    def __init__(
        self, sentinels: int = 1, *, password: str = "", tls: dict[str, str] | None = None, **options: str
    ) -> None:
        """`tls`: options of all of them, by which they speak it alone."""
        self.tls = tls or {}
        options = {**self.tls, **options}
        options = {"repl_diskless_sync_delay": "0", **options}
        self.master, self.replica = Server(**options), Server(**options)
        self.servers = [self.master, self.replica]
        self.replica.client().replicaof("127.0.0.1", self.master.port)
        self.sentinels = [Sentinel(n + 1, password, **self.tls) for n in range(sentinels)]
        for one in self.sentinels:
            one.about = [
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.master.port} {sentinels // 2 + 1}",
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
                f"sentinel failover-timeout {SERVICE} 4000",
                f"sentinel known-replica {SERVICE} 127.0.0.1 {self.replica.port}",
                *(
                    f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other.port} {other.id}"
                    for other in self.sentinels
                    if other is not one
                ),
            ]
        until(lambda: follows(self.master), "no replication")
        for one in self.sentinels:
            one.start()

    def url(self, queue: str = "", more: str = "") -> str:
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        asked = "&".join(part for part in (f"queue={queue}" if queue else "", more) if part)
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}+sentinel://{hosts}/{SERVICE}" + (f"?{asked}" if asked else "")

    def flush(self) -> None:
        self.master.flush()

    def caught_up(self) -> None:
        """Wait until the replica has all that the master has."""
        until(
            lambda: (
                self.master.client().info("replication")["master_repl_offset"]
                == self.replica.client().info("replication")["slave_repl_offset"]
            ),
            "the replica is behind",
        )

    def promoted(self) -> None:
        """Wait until the replica is the master, and all sentinels know: before that they may go back to the old one."""
        until(lambda: self.replica.client().info("replication")["role"] == "master", "nobody is promoted")
        ask = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        new = str(self.replica.port).encode()
        until(
            lambda: all(one.client().execute_command(*ask)[1] == new for one in self.sentinels),
            "they do not know of it",
        )

    def demoted(self) -> None:
        """Have the old master be a replica, as the sentinels do after some ten seconds."""
        self.master.client().replicaof("127.0.0.1", self.replica.port)

    def remove(self) -> None:
        for one in (*self.sentinels, *self.servers):
            one.remove()


class Node(Server):
    def choose_port(self) -> int:
        while True:
            port = free_port()
            if port < 55000:
                with contextlib.suppress(OSError), contextlib.closing(socket.socket()) as bus:
                    bus.bind(("127.0.0.1", port + 10000))
                    return port


class Cluster:
    """Three masters, and a replica of the one that has a queue."""

    def __init__(self, queue: str = "default", *, replica: bool = False, **options: str) -> None:
        self.slot = binascii.crc_hqx(queue.encode(), 0) % 16384
        options = {
            "cluster_enabled": "yes",
            "repl_diskless_sync_delay": "0",
            "cluster_node_timeout": str(NODE_TIMEOUT),
            **options,
        }
        self.nodes = [Node(**options) for _ in range(4 if replica else 3)]
        bounds = [0, 5461, 10923, 16384]
        for n, node in enumerate(self.nodes[:3]):
            client = node.client()
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[n], bounds[n + 1]))
        for other in self.nodes[1:]:
            self.nodes[0].client().execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
        self.owner = self.nodes[next(n for n in range(3) if self.slot < bounds[n + 1])]
        self.others = [node for node in self.nodes[:3] if node is not self.owner]
        self.replica = self.nodes[3] if replica else None
        until(lambda: all(self._sees_all(node) for node in self.nodes), "they do not know each other")
        if self.replica is not None:
            client, owner = self.replica.client(), self.id(self.owner)
            until(lambda: client.execute_command("CLUSTER", "REPLICATE", owner), "no replica")
            until(lambda: follows(self.owner), "no replication")
        until(lambda: all(self._is_ok(node) for node in self.nodes), "the cluster is not well")

    def _sees_all(self, node: Server) -> bool:
        lines = node.client().execute_command("CLUSTER", "NODES").splitlines()
        return len(lines) == len(self.nodes) and not any(b"handshake" in line for line in lines)

    def _is_ok(self, node: Server) -> bool:
        return b"cluster_state:ok" in node.client().execute_command("CLUSTER", "INFO")

    def id(self, node: Server) -> str:
        return str(node.client().execute_command("CLUSTER", "MYID").decode())

    def url(self, queue: str = "", more: str = "", seeds: Iterator[Server] | None = None) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in seeds or self.nodes[:3])
        asked = "&".join(part for part in (f"queue={queue}" if queue else "", more) if part)
        return f"redis+cluster://{hosts}" + (f"?{asked}" if asked else "")

    def flush(self) -> None:
        for node in self.nodes[:3]:
            node.flush()

    def caught_up(self) -> None:
        assert self.replica is not None
        until(
            lambda: (
                self.owner.client().info("replication")["master_repl_offset"]
                == self.replica.client().info("replication")["slave_repl_offset"]
            ),
            "the replica is behind",
        )

    def migrate(self, to: Server, *, batch: int = 20, pause: float = 0.0) -> None:
        """Move the slot, as `redis-cli --cluster reshard` does."""
        source, target = self.owner.client(), to.client()
        target.execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.id(self.owner))
        source.execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.id(to))
        while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, batch):
            source.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            time.sleep(pause)
        new = self.id(to)
        for node in (to, self.owner, *(one for one in self.nodes[:3] if one not in (to, self.owner))):
            node.client().execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", new)
        self.owner = to

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()


@functools.cache
def shared_watched() -> Watched:
    """Those that the tests of this process share, who empty them first."""
    return Watched()


@functools.cache
def shared_cluster() -> Cluster:
    return Cluster()
