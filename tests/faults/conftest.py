"""Queues to be hurt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import redis_server
from tests.faults.harness import Place, make_place
from tests.redis_server import Server


@pytest.fixture(params=["sqlite", "redis"])
def place(request: Any, tmp_path: Path) -> Iterator[Place]:
    """A queue on either store."""
    made = make_place(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Place]:
    """A queue that several nodes may share, on a server that nobody hurts."""
    made = make_place("redis", tmp_path)
    yield made
    made.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Place]:
    """A queue on a server that is this test's to hurt. With `everysec` it may lose what it accepted (docs/nodes.md)."""
    redis_server.need_redis()
    server = Server(appendfsync="always")
    made = make_place("redis", tmp_path, server)
    yield made
    made.close()
    server.remove()
