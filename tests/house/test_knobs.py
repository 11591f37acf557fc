"""The sheet of knobs an operator reads is the settings the program uses."""

import ast
import os
import tomllib
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from hashmill.knobs import S3Override, Section
from hashmill.settings import Settings, read_settings, sheet_path

OF_ONE_INSTALLATION = {"tenants", "storages"}
"""Tables whose rows an operator names; the sheet has none, so it shows neither."""


class Bare(Settings):
    """The settings with no source at all: what is left are the defaults."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **more: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return ()


@pytest.fixture
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("HASHMILL_"):
            monkeypatch.delenv(name)


def plain(value: Any) -> Any:
    """Return settings as the plain values a TOML file holds, secrets revealed (they are empty by default)."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    return value


def without_rows(sheet: dict[str, Any]) -> dict[str, Any]:
    return {
        name: without_rows(value) if isinstance(value, dict) else value
        for name, value in sheet.items()
        if name not in OF_ONE_INSTALLATION
    }


def knobs(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, str | None]]:
    """Yield every knob's place and description."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from knobs(kind, f"{place}{name}.")
            continue
        yield f"{place}{name}", field.description
        for inner in get_args(kind):
            if isinstance(inner, type) and issubclass(inner, Section) and inner is not S3Override:
                yield from knobs(inner, f"{place}{name}.NAME.")


def test_the_sheet_shows_every_knob_at_its_default() -> None:
    sheet = tomllib.loads(sheet_path().read_text())

    assert sheet == without_rows(plain(Bare()))


@pytest.mark.usefixtures("_no_environment")
def test_settings_with_nothing_set_are_the_defaults() -> None:
    assert read_settings() == Settings.model_validate(Bare().model_dump())


def test_every_knob_has_a_sentence_for_the_operator() -> None:
    found = dict(knobs(Settings))

    assert len(found) > 50
    assert {place for place, text in found.items() if not (text or "").rstrip().endswith(".")} == set()


def read_somewhere() -> set[str]:
    """Return every attribute, and every name given to `getattr` or a helper of it, outside the settings themselves."""
    found: set[str] = set()
    root = sheet_path().parents[1]
    for path in [path for room in ("hashmill", "worker", "tasks") for path in (root / room).rglob("*.py")]:
        if path in (root / "hashmill" / "settings.py", root / "hashmill" / "knobs.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Call):
                found |= {
                    part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
    return found


def test_every_knob_turns_something() -> None:
    """A knob nobody reads is worse than none: somebody will turn it."""
    names = {place: place.rpartition(".")[2] for place, _ in knobs(Settings)}

    used = read_somewhere()
    assert {place for place, name in names.items() if name not in used} == set()


def test_every_section_of_the_sheet_says_what_it_is() -> None:
    lines = sheet_path().read_text().splitlines()
    heads = [at for at, line in enumerate(lines) if line.startswith("[")]

    assert len(heads) == len(tomllib.loads("\n".join(lines)))
    assert [lines[at] for at in heads if not lines[at - 1].startswith("# ")] == []


def test_every_knob_of_the_sheet_has_the_settings_own_sentence() -> None:
    said = set(sheet_path().read_text().splitlines())

    missing = {
        place: text
        for place, text in knobs(Settings)
        if f"# {text}" not in said and not OF_ONE_INSTALLATION & set(place.split("."))
    }
    assert missing == {}
