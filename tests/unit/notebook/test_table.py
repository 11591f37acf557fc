"""The library's table of the API says what the service's says, wherever both say something."""

import tomllib
from pathlib import Path

import libnova
import pytest
from libnova import _table
from libnova.errors import TableInvalid

ROOT = Path(__file__).parents[3]
OURS = tomllib.loads((Path(libnova.__file__).parent / "labdrive.toml").read_text(encoding="utf-8"))
SERVICE = tomllib.loads((ROOT / "config" / "labdrive.toml").read_text(encoding="utf-8"))


def test_what_stands_in_both_tables_is_the_same() -> None:
    for section, lines in OURS.items():
        both = SERVICE[section].keys() & lines.keys()
        assert both, section
        assert {name: lines[name] for name in both} == {name: SERVICE[section][name] for name in both}


def test_every_line_says_how_it_is_known() -> None:
    lines = [line for section, named in OURS.items() if section != "calls" for line in named.values()]
    assert {line["source"] for line in lines + list(OURS["calls"].values())} == {"known", "inferred", "assumed"}


def test_a_call_is_filled_in_and_leaves_out_what_is_not_given() -> None:
    call = _table.table().call(
        "create_message",
        {"job_id": "a/b c", "text": "{job_id}", "type": "INFO", "file_id": None, "idempotency_key": "k"},
    )

    assert (call.method, call.path) == ("POST", "/job/a%2Fb%20c/message")
    assert call.body == {"message": "{job_id}", "type": "INFO"}
    assert call.headers == {"Idempotency-Key": "k"}


def test_a_path_keeps_its_slashes() -> None:
    call = _table.table().call("get_file_by_path", {"container_id": "1", "path": "/a b/ü?#.txt"})

    assert call.path == "/container/1/file/path/a%20b/%C3%BC%3F%23.txt"


@pytest.mark.parametrize("name", ["calls.nothing", "envelope", "nothing.at.all"])
def test_a_line_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(TableInvalid, match=name):
        _table.table().value(name)
    with pytest.raises(TableInvalid, match=r"calls\.nothing"):
        _table.table().call("nothing", {})
