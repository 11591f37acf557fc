"""What a command's exit status means; docs/cli.md has the same list."""

from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from hashmill.domain.errors import ConfigFault, HashmillError, Transient
from hashmill.domain.text import one_line

MESSAGE_MAX_CHARS = 4000


class ExitCode(IntEnum):
    """The exit statuses of every command."""

    OK = 0
    BAD = 1
    """What was asked about is bad: a failed run, faults in the ledger, a failed check."""
    USAGE = 2
    CONFIG = 3
    """A setting is missing or makes no sense."""
    UNAVAILABLE = 4
    """The ledger, or the intake, cannot be reached now."""
    REFUSED = 5
    """What was asked for was understood and refused."""
    INTERRUPTED = 130


def exit_code_of(error: HashmillError) -> ExitCode:
    """Return the exit status an error of ours ends a command with."""
    match error:
        case ConfigFault():
            return ExitCode.CONFIG
        case Transient():
            return ExitCode.UNAVAILABLE
        case _:
            return ExitCode.REFUSED


class Doors(TyperGroup):
    """The root of all commands: an error of ours becomes one line on standard error and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HashmillError as error:
            typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
            typer.echo(one_line(str(error), max_chars=MESSAGE_MAX_CHARS), err=True)
            raise typer.Exit(exit_code_of(error)) from error
