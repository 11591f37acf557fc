"""The quick way to canonical JSON writes what the library writes, byte for byte."""

from enum import StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from hashmill.ledger import canonical

TEXTS = st.text() | st.text(alphabet='\x00\x1f\x7f\x80"\\/\b\f\n\r\t\u2028\ud800\udfffé\uffff\U0001f600a', max_size=6)
KEYS = TEXTS | st.sampled_from(["a", "b", "A", "_", "€", "\ufb33", "\U0001f600", ""])
NUMBERS = st.integers() | st.integers(2**53 - 2, 2**53 + 2) | st.integers(-(2**53) - 2, -(2**53) + 2)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS | st.floats()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS | st.integers(), inner),
    max_leaves=30,
)


def told(dumps: Any, value: object) -> bytes | type[Exception]:
    """Return the bytes, or what kind of complaint came instead."""
    try:
        return bytes(dumps(value))
    except ValueError as error:
        return type(error)


@given(VALUES)
def test_it_writes_and_refuses_what_the_library_writes_and_refuses(value: object) -> None:
    assert told(canonical.dumps, value) == told(rfc8785.dumps, value)


@given(st.dictionaries(st.text(alphabet="abcXYZ_01"), st.none() | st.booleans() | st.integers(0, 2**53 - 1) | TEXTS))
def test_it_writes_the_same_for_what_entries_look_like(value: object) -> None:
    assert told(canonical.dumps, value) == told(rfc8785.dumps, value)


def test_names_of_ours_are_written_as_their_text() -> None:
    class Named(StrEnum):
        ONE = 'on"e'

    assert canonical.dumps({"kind": Named.ONE}) == rfc8785.dumps({"kind": Named.ONE}) == b'{"kind":"on\\"e"}'


@pytest.mark.parametrize("value", [2**53, 1.5, {"k": 0.1}, {1: "a"}, {"\U0001f600": 1, "\ufb33": 2}])
def test_what_the_quick_way_cannot_write_goes_the_other(value: object) -> None:
    assert told(canonical.dumps, value) == told(rfc8785.dumps, value)
