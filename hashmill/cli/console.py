"""How things are shown: tables for people, JSON for programs, sizes and times in words."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hashmill.domain.text import one_line

PIPE_WIDTH = 240
"""Columns when nobody's terminal says how many there are: a table in a file should not be folded."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def console() -> Console:
    """Return the console of standard output."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, emoji=False)


def print_json(document: object) -> None:
    """Print one JSON document; in ASCII, so that no name in it can move a terminal's cursor."""
    typer.echo(json.dumps(document, indent=2))


def print_json_line(document: object) -> None:
    """Print one JSON document on one line, at once."""
    typer.echo(json.dumps(document))
    sys.stdout.flush()


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns in `right` hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def facts(pairs: Mapping[str, Any]) -> Table:
    """Return a list of names and values."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        made.add_row(name, value if isinstance(value, Text) else plain(value))
    return made


def plain(value: object, *, max_chars: int = 1000) -> Text:
    """Return `value` as text that cannot style, move or ring anything, whatever a file's name holds."""
    return Text(one_line("" if value is None else str(value), max_chars=max_chars))


def coloured(state: str) -> Text:
    """Return a state, or a check's outcome, in its colour."""
    colours = {
        "completed": "green",
        "done": "green",
        "ok": "green",
        "failed": "red",
        "dead": "red",
        "cancelled": "yellow",
        "warning": "yellow",
        "skipped": "dim",
    }
    return Text(state, style=colours.get(state, "cyan"))


def size(size_bytes: float) -> str:
    """Return a number of bytes in words: 1536 is `1.5 KiB`."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size_bytes /= 1024
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} PiB"


def duration(seconds: float) -> str:
    """Return a time in words: 75 is `1 min 15 s`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def local_time(at_ms: int | None) -> str:
    """Return a moment as this machine's people read it, or a dash."""
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().isoformat(sep=" ", timespec="seconds")
