"""Commands with verbs, such as `jobs`: without one they are the first of them, with all of its options."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

import click

from minitango.cli.settings import Settings, settled
from minitango.errors import ConfigError
from minitango.text import one_line

DEFAULT: Final = "list"
"""The verb that is meant where none is typed."""
_PLACE: Final = ("store", "state", "blobs")


class Verbs(click.Group):
    """A command whose options of `state_options` may stand before the verb, too."""

    def __init__(self, name: str | None = None, *, of_other: str = "", **more: Any) -> None:
        """`of_other`: the verb for which a word that is none may be meant, such as an id; empty: there is none."""
        super().__init__(name, invoke_without_command=True, **more)
        self._of_other = of_other

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = self._takes_value(self, self.commands[DEFAULT])
        verb = _first_word(args, known)
        if verb is None and all(known.get(name) is not None for name in _options(args, known)):
            return super().parse_args(ctx, [DEFAULT, *args])
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if (
                verb is not None
                and verb in self.commands
                and error.option_name in self._takes_value(self.commands[verb])
            ):
                raise ConfigError(
                    f"{error.option_name} stands after the verb",
                    hint=f"{ctx.command_path} {verb} {error.option_name} ...",
                    id="usage",
                ) from error
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            word = one_line(args[0], 60)
            near = difflib.get_close_matches(word, self.commands, 1)
            if not near and not self._of_other:
                raise
            meant = near[0] if near else f"{self._of_other} {word}"
            raise ConfigError(
                f"{ctx.command_path} has no verb {word!r}", hint=f"did you mean {ctx.command_path} {meant}?", id="usage"
            ) from error

    @staticmethod
    def _takes_value(*commands: click.Command) -> dict[str, bool]:
        """The options of these commands, and whether each takes a value."""
        return {
            name: not option.is_flag
            for command in commands
            for option in command.params
            if isinstance(option, click.Option)
            for name in (*option.opts, *option.secondary_opts)
        }


def _options(args: Sequence[str], known: dict[str, bool]) -> list[str]:
    """The options among these words, by their names."""
    found, words = [], iter(args)
    for word in words:
        name = _name(word)
        if name:
            found.append(name)
            if known.get(name) and name == word:
                next(words, None)
    return found


def _first_word(args: Sequence[str], known: dict[str, bool]) -> str | None:
    """The first word that is neither an option nor the value of one."""
    words = iter(args)
    for word in words:
        name = _name(word)
        if not name:
            return word
        if known.get(name) and name == word:
            next(words, None)
    return None


def _name(word: str) -> str:
    """The option that a word is, or begins with: `--limit=3`, `-n3`; empty: it is none."""
    if word.startswith("--"):
        return word.partition("=")[0]
    return word[:2] if word.startswith("-") and word != "-" else ""


def queue_of(where: dict[str, object]) -> Settings:
    """The settings of a verb: --store, --state and --blobs may stand before it or after it."""
    before: dict[str, object] = click.get_current_context().obj or {}
    return settled(**{key: before.get(key) if where.get(key) is None else where[key] for key in _PLACE})
