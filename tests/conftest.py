"""What holds for every test."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

# The tests start hundreds of Pythons. Where none may write what it compiled, each would compile all of the tree again.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "also(*places): of a sandbox's contract, see tests/contract/conftest.py")


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Some tests collect garbage, some of them again and again, which goes through all there is: some thousand tests,
    their reports and all modules, were they not left out."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_typed() -> Iterator[None]:
    """What a test's command line named is not what is suggested in the next test."""
    yield
    streams = sys.modules.get("minitango.cli.streams")
    if streams is not None:
        streams.name_queue("")
