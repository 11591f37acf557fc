"""How commands end: one line, one exit status, nothing that should not be seen."""

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from hashmill.cli.exits import Doors, ExitCode, exit_code_of
from hashmill.domain.errors import (
    ConfigFault,
    HashmillError,
    LedgerUnavailable,
    OriginRefused,
    ReplayRefused,
    StorageTimeout,
)


def classes(root: type[HashmillError] = HashmillError) -> Iterator[type[HashmillError]]:
    yield root
    for inner in root.__subclasses__():
        yield from classes(inner)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigFault("x"), 3),
        (LedgerUnavailable("x"), 4),
        (StorageTimeout("x"), 4),
        (ReplayRefused("x"), 5),
        (OriginRefused("x"), 5),
    ],
)
def test_each_family_of_errors_has_its_exit_status(error: HashmillError, code: int) -> None:
    assert exit_code_of(error) == code


def test_no_error_of_ours_ends_a_command_as_if_all_were_well() -> None:
    codes = {exit_code_of(kind.__new__(kind)) for kind in classes()}

    assert codes <= {ExitCode.CONFIG, ExitCode.UNAVAILABLE, ExitCode.REFUSED}


def test_an_error_of_ours_is_one_line_on_standard_error() -> None:
    app = typer.Typer(cls=Doors)

    @app.command()
    def fail() -> None:
        raise ConfigFault("a knob is wrong\n\x1b[2Jand says\x07 too much")

    @app.command()
    def other() -> None:
        """Only makes this a group."""

    result = CliRunner().invoke(app, ["fail"])

    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr == "error: a knob is wrong [2Jand says too much\n"
