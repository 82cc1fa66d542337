"""Ctrl-C is heard, also where Python swallows what a signal's handler raises."""

from __future__ import annotations

import signal
import types
import weakref
from pathlib import Path
from typing import Any

import pytest

from minitango.cli import grading
from tests.support import Gate, open_engine, submission


class Thing:
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_that_falls_into_a_callback_of_python_ends_the_wait(
    tmp_path: Path, number: signal.Signals
) -> None:
    gate = Gate()
    with open_engine(tmp_path, gate) as engine:
        handle = engine.submit(submission())
        batch: Any = grading.Batch.__new__(grading.Batch)
        batch.engine, batch.joined, batch._running, batch._shown = engine, False, {}, None
        shown: Any = types.SimpleNamespace(running=lambda jobs: None)
        before = signal.getsignal(number)
        with grading.terminated_like_ctrl_c():
            thing = Thing()
            told = weakref.ref(thing, lambda gone: signal.raise_signal(number))  # as those of the import system
            del thing
            assert told() is None
            with pytest.raises(KeyboardInterrupt):
                batch.wait([handle], shown)
        assert signal.getsignal(number) == before
        with grading.terminated_like_ctrl_c():
            assert not grading._Interrupt.asked
        gate.open.set()
