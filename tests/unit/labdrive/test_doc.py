"""docs/labdrive-api.md says what config/labdrive.toml says, line by line."""

import re

from hashmill.home import app_home
from hashmill.labdrive.wire import CALLS, MAY_BE_ABSENT, OBJECT_PLACES, Marked, Sheet, Source, read_wire

WIRE = read_wire(app_home() / "config" / "labdrive.toml")
DOC = (app_home() / "docs" / "labdrive-api.md").read_text(encoding="utf-8")


def rows(cells: int) -> list[tuple[str, ...]]:
    """Every row of a table whose first cell is code, without the back quotes around whole cells."""
    found = []
    for line in DOC.splitlines():
        parts = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if line.startswith("| `") and len(parts) == cells:
            found.append(tuple(re.sub(r"^`([^`]*)`$", r"\1", part) for part in parts))
    return found


def marked_lines() -> list[tuple[str, str, str]]:
    """Every marked value of the table as (line, value, mark)."""
    lines = []
    for section in type(WIRE).model_fields:
        part = getattr(WIRE, section)
        if section == "calls":
            continue
        entries = {n: getattr(part, n) for n in type(part).model_fields} if isinstance(part, Sheet) else part
        for name, marked in entries.items():
            assert isinstance(marked, Marked)
            lines.append((f"{section}.{name}", marked.value, marked.source.value))
    return lines


def test_every_call_stands_in_the_document_as_it_is_made() -> None:
    def listed(names: frozenset[str]) -> str:
        return " ".join(f"`{name}`" for name in sorted(names))

    told = [tuple(cell.replace("`", "") for cell in row) for row in rows(5)]

    assert told == [
        (
            name,
            f"{WIRE.calls[name].method} {WIRE.calls[name].path}",
            WIRE.calls[name].source.value,
            listed(needed).replace("`", ""),
            listed(offered).replace("`", ""),
        )
        for name, (needed, offered) in [*CALLS.items(), *MAY_BE_ABSENT.items()]
    ]


def test_every_name_stands_in_the_document_with_its_mark() -> None:
    assert sorted(rows(3)) == sorted(marked_lines())


def test_every_placeholder_of_the_object_layout_is_explained() -> None:
    explained = DOC.split("## Objects in S3")[1].split("## ")[0]

    assert all(f"`{name}`" in explained for name in OBJECT_PLACES)


def test_the_three_marks_are_explained() -> None:
    assert all(f"| {source.value} |" in DOC for source in Source)
