"""What holds for every test."""

from __future__ import annotations

import gc
import os
import sys

# The tests start hundreds of Pythons. Where none may write what it compiled, each would compile all of the tree again.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Some tests collect garbage, which goes through all there is: some thousand tests, were they not left out."""
    gc.collect()
    gc.freeze()
