import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.errors import ConfigFault
from hashmill.domain.job import JobStatus, MessageType
from hashmill.home import app_home
from hashmill.labdrive.wire import CALLS, MAY_BE_ABSENT, Source, WireTable, object_address, read_wire

SHEET = app_home() / "config" / "labdrive.toml"
TABLE: dict[str, Any] = tomllib.loads(SHEET.read_text(encoding="utf-8"))


def to_toml(value: object) -> str:
    """Write a table of strings, lists and tables as TOML: JSON strings are TOML strings."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {to_toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


def problems_of(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    table = copy.deepcopy(TABLE)
    change(table)
    file = tmp_path / "labdrive.toml"
    file.write_text("".join(f"{name} = {to_toml(value)}\n" for name, value in table.items()), encoding="utf-8")
    with pytest.raises(ConfigFault) as caught:
        read_wire(file)
    return str(caught.value)


def test_the_sheet_that_ships_is_whole() -> None:
    wire = read_wire(SHEET)

    assert set(wire.calls) == {*CALLS, *MAY_BE_ABSENT}
    assert {status: marked.value for status, marked in wire.status.items()} == {s: s.value for s in JobStatus}
    assert {marked.source for marked in wire.status.values()} == {Source.KNOWN}


def test_an_error_message_falls_back_to_the_one_type_that_is_known() -> None:
    wire = read_wire(SHEET)

    assert wire.message_types[MessageType.ERROR].value == wire.message_types[MessageType.INFO].value == "INFO"
    assert wire.message_types[MessageType.ERROR].source is Source.ASSUMED


@pytest.mark.parametrize("call", CALLS)
def test_every_call_must_be_there(call: str, tmp_path: Path) -> None:
    assert f"calls: Value error, {call} is missing" in problems_of(tmp_path, lambda table: table["calls"].pop(call))


@pytest.mark.parametrize("section", ["base", "auth", "envelope", "calls", "status", "file", "container", "objects"])
def test_every_section_must_be_there(section: str, tmp_path: Path) -> None:
    assert f"{section}: Field required" in problems_of(tmp_path, lambda table: table.pop(section))


@pytest.mark.parametrize(
    ("call", "change", "problem"),
    [
        ("get_file", {"path": "/file"}, "get_file does not use {file_id}"),
        ("get_file", {"path": "/file/{file_id}/{job_id}"}, "get_file uses {job_id}; offered are file_id"),
        ("get_file", {"path": "/file/{file_id"}, "must begin with a slash and hold only"),
        ("get_file", {"query": {"id": "{file_id"}}, "brace"),
        ("get_file", {"path": "file/{file_id}"}, "must begin with a slash"),
        ("get_file", {"path": "/file?id={file_id}"}, "must begin with a slash and hold only"),
        ("get_file", {"path": "//file x/{file_id}"}, "must begin with a slash and hold only"),
        ("get_file", {"method": "FETCH"}, "calls.get_file.method"),
        ("get_file", {"source": "guessed"}, "calls.get_file.source"),
        ("get_file", {"retries": 3}, "calls.get_file.retries"),
        ("get_file", {"headers": {"X Y": "1"}}, "'X Y' is no header"),
        ("probe", {"path": "/{file_id}"}, "probe uses {file_id}; offered are none"),
        ("set_hash", {"body": {"hash": "{hexdigest}"}}, "set_hash does not use {algorithm}"),
        (
            "set_hash",
            {"encoding": "form", "body": {"a": ["{algorithm}", "{hexdigest}"]}},
            "a form has no nested fields",
        ),
        ("create_message", {"path": "/job/{job_id}/{file_id}"}, "not every message has a file"),
    ],
)
def test_a_wrong_line_is_named(call: str, change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    assert problem in problems_of(tmp_path, lambda table: table["calls"][call].update(change))


@pytest.mark.parametrize(
    ("section", "change", "problem"),
    [
        ("calls", {"delete_all": TABLE["calls"]["probe"]}, "delete_all is unknown"),
        ("base", {"path": {"value": "api/", "source": "known"}}, "base.path"),
        ("status", {"PAUSED": {"value": "PAUSED", "source": "known"}}, "status.PAUSED"),
        ("status", {"FAILED": {"value": "", "source": "known"}}, "FAILED must not be empty"),
        ("message_types", {"ERROR": "INFO"}, "message_types.ERROR"),
        ("file", {"id": {"value": "id"}}, "file.id.source"),
        ("objects", {"key": {"value": "{user}/{path}", "source": "known"}}, "{user} is unknown; offered are bucket"),
        ("objects", {"bucket": {"value": "", "source": "known"}}, "must not be empty"),
        ("objects", {"bucket": {"value": "{", "source": "known"}}, "brace"),
    ],
)
def test_a_wrong_entry_is_named(section: str, change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    assert problem in problems_of(tmp_path, lambda table: table[section].update(change))


def test_a_missing_name_is_named(tmp_path: Path) -> None:
    assert "COMPLETED is missing" in problems_of(tmp_path, lambda table: table["status"].pop("COMPLETED"))
    assert "FOLDER is missing" in problems_of(tmp_path, lambda table: table["item_types"].pop("FOLDER"))


def test_every_wrong_line_is_named_at_once(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, lambda table: (table.pop("auth"), table["file"].pop("size")))

    assert "auth: Field required" in problems
    assert "file.size: Field required" in problems


def test_a_file_that_is_not_there_or_no_toml_is_a_fault_of_the_house(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"none\.toml: cannot be read.*labdrive\.wire"):
        read_wire(tmp_path / "none.toml")
    (tmp_path / "odd.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigFault, match=r"odd\.toml: is not TOML"):
        read_wire(tmp_path / "odd.toml")


def with_objects(bucket: str, key: str) -> WireTable:
    objects = {"bucket": {"value": bucket, "source": "known"}, "key": {"value": key, "source": "known"}}
    return WireTable.model_validate({**TABLE, "objects": objects})


@given(st.text(), st.text())
def test_the_path_stands_in_the_key_as_it_is(container_id: str, path: str) -> None:
    address = object_address(read_wire(SHEET), container_id=container_id, path=path, bucket="b")

    assert address == ("b", f"{container_id}/{path}")


@pytest.mark.parametrize("path", ["{bucket}", "{container_id}/{path}", "%41", "a//b", "../x", "{", "}{"])
def test_braces_in_a_path_are_text(path: str) -> None:
    assert object_address(read_wire(SHEET), container_id="7", path=path, bucket="b") == ("b", f"7/{path}")


def test_a_layout_may_use_storage_tenant_and_file() -> None:
    wire = with_objects("{tenant_id}-{storage_id}", "{file_id}/data")

    address = object_address(
        wire, container_id="7", path="x", bucket="b", storage_id="3", tenant_id="acme", file_id="9"
    )

    assert address == ("acme-3", "9/data")


def test_a_layout_that_needs_what_is_not_known_is_a_fault_of_the_house() -> None:
    wire = with_objects("{bucket}-{storage_id}", "{path}")

    with pytest.raises(ConfigFault, match="storage_id"):
        object_address(wire, container_id="7", path="x", bucket="b")
