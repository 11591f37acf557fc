"""Every command has an example, in its own help and in the page of commands, and it is the same one."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hashmill.cli.main import app
from tests.helpers.cli import run_cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def commands(command: Any, path: tuple[str, ...] = ("hashmill",)) -> dict[str, Any]:
    """Return every command by its full name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return {" ".join(path): command}
    return {name: found for word in inner for name, found in commands(inner[word], (*path, word)).items()}


COMMANDS = commands(get_command(app))


def example_of(name: str) -> str:
    return (COMMANDS[name].epilog or "").removeprefix("Example: ")


def test_every_command_has_an_example_that_uses_it() -> None:
    wrong = [name for name in COMMANDS if not re.search(rf"\b{name}\b", example_of(name))]

    assert wrong == []


def test_the_page_of_commands_shows_the_examples_that_the_help_shows() -> None:
    rows = re.findall(r"^\| `(hashmill [^`]+)` \| .+ \| `([^`]+)` \|$", PAGE.read_text(), flags=re.MULTILINE)

    assert dict(rows) == {name: example_of(name) for name in COMMANDS}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_what_the_command_does_and_its_example(name: str) -> None:
    said = run_cli(*name.split()[1:], "--help")

    shown = " ".join(said.out.split())
    assert said.code == 0
    assert (COMMANDS[name].help or "nothing").split("\n")[0].strip()[:40] in shown
    assert example_of(name) in shown
