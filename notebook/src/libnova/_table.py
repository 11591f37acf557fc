"""
Reads `labdrive.toml`: every path, verb, field and name of the API, each with how it is known.

The form is that of the service's table. A file that LIBNOVA_TABLE names replaces single lines of it.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from libnova.errors import TableInvalid

_PLACE: Final = re.compile(r"\{(\w+)\}")
_KEEPS_SLASHES: Final = "path"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API, filled in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class Table:
    """The lines of the table, by dotted name."""

    def __init__(self, lines: Mapping[str, Any], origin: str) -> None:
        self._lines = lines
        self._origin = origin

    def value(self, name: str) -> str:
        """Return the value of a line such as `envelope.result`. Raises `TableInvalid` when there is none."""
        found = self._at(name)
        value = found.get("value") if isinstance(found, Mapping) else None
        if not isinstance(value, str):
            raise TableInvalid(f'{self._origin}: {name} needs a line {{ value = "…", source = "…" }}')
        return value

    def call(self, name: str, values: Mapping[str, Any]) -> Call:
        """Return the call `name` with `values` put in; a field whose value is None is left out."""
        found = self._at(f"calls.{name}")
        if not isinstance(found, Mapping) or not {"method", "path"} <= found.keys():
            raise TableInvalid(f"{self._origin}: there is no [calls.{name}] with method and path")
        path = _PLACE.sub(lambda place: self._in_path(name, place[1], values), found["path"])
        parts = {part: self._filled(name, found.get(part, {}), values) for part in ("query", "headers", "body")}
        return Call(
            method=found["method"],
            path=path,
            query={field: str(value) for field, value in parts["query"].items()},
            headers={field: str(value) for field, value in parts["headers"].items()},
            body=parts["body"],
        )

    def filled(self, name: str, values: Mapping[str, str]) -> str:
        """Return a line's value with `values` put in as they are."""
        return _PLACE.sub(lambda place: str(self._given(name, place[1], values)), self.value(name))

    def places(self, name: str) -> set[str]:
        """Return what a line's value leaves open."""
        return set(_PLACE.findall(self.value(name)))

    def _at(self, name: str) -> Any:
        found: Any = self._lines
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def _given(self, name: str, place: str, values: Mapping[str, Any]) -> Any:
        if place not in values:
            raise TableInvalid(f"{self._origin}: {name} asks for {{{place}}}; known there: {', '.join(values)}")
        return values[place]

    def _in_path(self, name: str, place: str, values: Mapping[str, Any]) -> str:
        value = self._given(f"calls.{name}.path", place, values)
        return quote(str(value).removeprefix("/"), safe="/") if place == _KEEPS_SLASHES else quote(str(value), safe="")

    def _filled(self, name: str, fields: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(fields, Mapping):
            raise TableInvalid(f"{self._origin}: the fields of [calls.{name}] are no table")
        filled = {}
        for field, text in fields.items():
            whole = _PLACE.fullmatch(text)
            value = (
                self._given(f"calls.{name}", whole[1], values)
                if whole
                else _PLACE.sub(lambda place: str(self._given(f"calls.{name}", place[1], values)), text)
            )
            if value is not None:
                filled[field] = value
        return filled


def only_asks(name: str) -> bool:
    """Return whether the call changes nothing in LABDRIVE: then its name begins with `get_` or `list_`."""
    return name.startswith(("get_", "list_"))


def table() -> Table:
    """Return the table, with the lines of the file that LIBNOVA_TABLE names in place of ours."""
    return _read(os.environ.get("LIBNOVA_TABLE", ""))


@cache
def _read(other: str) -> Table:
    lines = tomllib.loads((Path(__file__).parent / "labdrive.toml").read_text(encoding="utf-8"))
    if not other:
        return Table(lines, "labdrive.toml")
    try:
        theirs = tomllib.loads(Path(other).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableInvalid(f"LIBNOVA_TABLE names {other}, which cannot be read: {error}") from error
    return Table(_merged(lines, theirs), other)


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return our lines with theirs in place; a call that they name is wholly theirs."""
    merged = dict(ours)
    for name, value in theirs.items():
        both = isinstance(value, Mapping) and isinstance(ours.get(name), Mapping)
        whole = both and ("method" in value or "value" in value)
        merged[name] = _merged(ours[name], value) if both and not whole else value
    return merged
