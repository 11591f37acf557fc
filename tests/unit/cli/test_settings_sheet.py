"""Settings as text: no secret in it, and TOML that reads back."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.cli.settings_sheet import MASK, effective, masked, toml
from hashmill.settings import read_settings

CANARY = "canary-4b1d-in-no-output"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        (f"redis://:{CANARY}@h:6379/0", "redis://***@h:6379/0"),
        (f"redis://:pa/{CANARY}@h:6379/0", MASK),
        (f"postgresql+psycopg://u:{CANARY}@h/db", "postgresql+psycopg://***@h/db"),
        (f"postgresql+psycopg://h/db?password={CANARY}", "postgresql+psycopg://h/db?***"),
        (f"sentinel://:{CANARY}@a:1;sentinel://b:2", MASK),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("sqlite:////var/lib/ledger.sqlite3", "sqlite:////var/lib/ledger.sqlite3"),
        (CANARY, MASK),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_user_password_and_query(address: str, shown: str) -> None:
    assert masked(address) == shown


@given(password=st.text(alphabet=st.characters(codec="utf-8"), min_size=1).map(lambda text: CANARY + text))
def test_no_password_of_an_address_is_ever_shown(password: str) -> None:
    for shape in ("redis://:{}@h:6379/0", "amqp://user:{}@h//", "postgresql+psycopg://u:{}@h/db?password={}"):
        assert CANARY not in masked(shape.format(password, password))


def test_the_settings_in_force_hold_no_secret_and_read_back_as_toml() -> None:
    settings = read_settings(
        secrets={"seal_key": CANARY},
        s3={"secret_access_key": CANARY, "storages": {"7": {"session_token": CANARY, "bucket": "b"}}},
        intake={"bearer_token": CANARY},
        tenants={"a.b": {"api_origins": ["https://x.example"]}},
    )

    values = effective(settings)

    assert CANARY not in toml(values)
    assert values["secrets"]["seal_key"] == MASK
    assert tomllib.loads(toml(values)) == values


scalars = st.one_of(st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**63 - 1), st.booleans())
names = st.text(st.characters(codec="utf-8"), min_size=1)


@given(st.recursive(st.dictionaries(names, scalars), lambda inner: st.dictionaries(names, st.one_of(scalars, inner))))
def test_nested_values_written_as_toml_read_back_the_same(values: dict[str, Any]) -> None:
    assert tomllib.loads(toml(values)) == values
