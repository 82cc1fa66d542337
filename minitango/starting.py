"""A Ctrl-C while the command line is loaded ends it without a word: nothing is begun yet, a traceback helps nobody, and
compiled modules that are interrupted as they are imported may crash. Imported before all else; where minitango is a
library, it changes nothing.
"""

import _signal  # type: ignore[import-not-found]  # as `signal` takes time to load
import os
import sys

_PROGRAM = "minitango"


def is_command_line(words: list[str], called: str) -> bool:
    """Whether this process is ours: by `python -m minitango`, where `words` are what Python was started with, or by the
    program that was installed, `called` so."""
    if called == "-m":  # as long as the module is looked for
        at = words.index("-m") + 1 if "-m" in words[:-1] else 0
        return bool(at) and words[at].partition(".")[0] == _PROGRAM
    return os.path.basename(called).partition(".")[0] == _PROGRAM  # noqa: PTH119 - pathlib takes time to load


if (
    is_command_line(sys.orig_argv, sys.argv[0] if sys.argv else "")
    and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
):
    _signal.signal(_signal.SIGINT, lambda number, frame: os._exit(130))  # until `cli.main` heeds it
