"""What holds for every test."""

from __future__ import annotations

import os
import sys

# The tests start hundreds of Pythons. Where none may write what it compiled, each would compile all of the tree again.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False
