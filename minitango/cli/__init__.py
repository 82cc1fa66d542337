"""The command line. One module a command; data on stdout, progress and errors on stderr.

Exit codes: 0 all graded, 1 an expectation was missed, 2 usage or configuration, 3 sandbox or store unavailable,
4 some jobs could not be graded, 5 nothing to grade, 70 a mistake of minitango's own, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import signal
import sys
import traceback
from typing import Any

import click

from minitango import __version__
from minitango.cli import streams
from minitango.cli.backup import backup, restore
from minitango.cli.check import check
from minitango.cli.config import config
from minitango.cli.doctor import doctor
from minitango.cli.export import export
from minitango.cli.init import init
from minitango.cli.interrupts import INTERRUPTED, ignore
from minitango.cli.jobs import jobs
from minitango.cli.journal import form_of, journal
from minitango.cli.migrate import migrate
from minitango.cli.nodes import nodes
from minitango.cli.prune import prune
from minitango.cli.run import run
from minitango.cli.submit import submit
from minitango.cli.worker import worker
from minitango.errors import ConfigError, MinitangoError

_NO_NAMES = (errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a path that was typed, whatever it was to be."""


class _Interrupted(Exception):
    """A KeyboardInterrupt that click does not hear of, as it would write an empty line."""


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(str(error)) from error

    def get_help(self, ctx: click.Context) -> str:
        return streams.as_called(super().get_help(ctx))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda context, option, asked: _print(context, f"minitango, version {__version__}") if asked else None,
    help="Show the version and exit.",
)
def cli() -> None:
    """Grade programming submissions, each in a sandbox of its own; nothing that was taken is lost.

    \b
    minitango init hw1               make a working assignment to begin with
    minitango run hw1 handins/       grade every hand-in in a folder now
    minitango check hw1              grade the assignment's own samples
    minitango jobs                   what is queued, running and done
    minitango export                 the grades as CSV
    minitango doctor                 is all here that grading needs?
    """


for command in (
    init, run, check, submit, worker, jobs, nodes, export, prune, backup, restore, migrate, config, doctor,
):  # fmt: skip
    cli.add_command(command)


def _print(context: click.Context, text: str) -> None:
    """Print this in place of what the command does: as all else that is printed, which click's own words are not."""
    if not context.resilient_parsing:
        streams.out(text)
        context.exit()


def _have_help(command: click.Command) -> None:
    """Give a command, and each of its verbs, an option that prints its help."""
    command.add_help_option = False
    command.params.append(
        click.Option(
            ["-h", "--help"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=lambda context, option, asked: _print(context, context.get_help()) if asked else None,
            help="Show this message and exit.",
        )
    )
    for verb in command.commands.values() if isinstance(command, click.Group) else ():
        _have_help(verb)


_have_help(cli)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # bin/minitango has its own while all this is loaded
            signal.signal(signal.SIGINT, signal.default_int_handler)
        streams.prepare()
        code = _main(argv)
    except KeyboardInterrupt:  # while we said how it ended, or before it began
        code = INTERRUPTED
    ignore()  # it has ended as it has
    if code == INTERRUPTED:
        # All is closed. Python's own way out may take the Ctrl-C that was handled for one that was not, and die by
        # SIGINT instead of telling its code.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _main(argv: list[str] | None) -> int:
    said = journal(form_of(sys.argv[1:] if argv is None else argv))
    try:
        code = cli.main(argv, prog_name=streams.program(), standalone_mode=False)
    except MinitangoError as error:
        return said.failed(error)
    except click.exceptions.NoArgsIsHelpError as error:
        streams.tell(error.format_message())
        return ConfigError.exit_code
    except click.ClickException as error:
        return said.failed(_usage(error))
    except _Interrupted as error:
        if sys.stderr.isatty():
            streams.tell("")  # the terminal has written ^C
        said.say("stopping", "info", str(error) or "interrupted")
        return INTERRUPTED
    except (KeyboardInterrupt, click.Abort):
        said.say("stopping", "info", "interrupted")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_NAMES and error.filename is not None:
            text = f"{os.fsdecode(error.filename)} cannot be the name of anything: {error.strerror}"
            return said.failed(ConfigError(text, hint="name another place", id="path"))
        return said.died(traceback.format_exc())
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> ConfigError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else streams.program()
    text = error.format_message().rstrip(".")
    return ConfigError(
        text[:1].lower() + text[1:], hint=_of_a_verb(error) or _near(error) or f"{path} --help", id="usage"
    )


def _near(error: click.ClickException) -> str:
    """What may have been meant where a word is none of those that there are; empty: nothing is like it."""
    param = error.param if isinstance(error, click.BadParameter) else None
    if param is None or not isinstance(param.type, click.Choice):
        return ""
    said = re.match("'(.*)' is not one of", error.message)
    near = difflib.get_close_matches(said[1], list(map(str, param.type.choices)), 1) if said else []
    return f"did you mean {param.opts[0]} {near[0]}?" if near else ""


def _of_a_verb(error: click.ClickException) -> str:
    """Where an option that stands before the verb belongs; empty: nowhere that is known."""
    context = error.ctx if isinstance(error, click.NoSuchOption) else None
    if context is None or not isinstance(context.command, click.Group) or not isinstance(error, click.NoSuchOption):
        return ""
    for name, verb in context.command.commands.items():
        if any(error.option_name in parameter.opts for parameter in verb.params):
            return f"{context.command_path} {name} {error.option_name} ..."
    return ""
