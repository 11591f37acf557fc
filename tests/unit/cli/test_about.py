"""The small commands: version, algorithms, a new key, settings."""

import base64
import json
import tomllib

from hashmill import __version__
from hashmill.cli.advice import advice, advice_for
from hashmill.domain.digest import DEFAULT_ALGORITHMS, KNOWN_ALGORITHMS
from hashmill.domain.errors import ErrorClass
from hashmill.hashing.registry import open_hashers
from tests.helpers.cli import run_cli

CANARY = "canary-51c0-in-no-output"


def test_the_version_is_said_in_words_and_in_json() -> None:
    assert run_cli("version").out == f"hashmill {__version__}\n"
    assert run_cli("version", "--json").json["version"] == __version__


def test_every_algorithm_an_event_may_name_is_listed_with_its_library() -> None:
    found = run_cli("algorithms", "--json").json

    assert {one["name"] for one in found} == set(KNOWN_ALGORITHMS)
    assert [one["name"] for one in found if one["default"]] == list(DEFAULT_ALGORITHMS)
    assert all(one["library"] for one in found)
    # As a ledger entry would name it: by the native kernel where that serves.
    assert [one["library"] for one in found if one["default"]] == [
        open_hashers([name])[0].backend for name in DEFAULT_ALGORITHMS
    ]
    assert "hashlib/OpenSSL" in run_cli("algorithms").out


def test_a_new_key_is_32_bytes_and_never_the_same() -> None:
    one, two = run_cli("secrets", "new-key").out, run_cli("secrets", "new-key", "--json").json["seal_key"]

    assert one.strip() != two
    assert [len(base64.b64decode(key)) for key in (one, two)] == [32, 32]


def test_settings_are_printed_as_toml_and_as_json_and_no_secret_in_them() -> None:
    env = {"HASHMILL_INTAKE__BEARER_TOKEN": CANARY, "HASHMILL_INTAKE__PORT": "8601"}

    as_toml, as_json = run_cli("settings", env=env), run_cli("settings", "--json", env=env)

    assert tomllib.loads(as_toml.out) == json.loads(as_json.out)
    assert as_json.json["intake"]["port"] == 8601
    assert CANARY not in as_toml.out + as_json.out


def test_a_wrong_setting_is_named_and_its_value_is_not_shown() -> None:
    said = run_cli("settings", env={"HASHMILL_INTAKE__PORT": CANARY})

    assert said.code == 3
    assert "intake.port" in said.err
    assert CANARY not in said.err


def test_there_is_advice_for_every_error_class_and_none_for_a_stranger() -> None:
    assert all(advice(error_class) == advice_for(error_class.value) != "" for error_class in ErrorClass)
    assert advice_for("s3.of_another_version") == ""


def test_no_token_of_the_environment_stands_in_a_help_text() -> None:
    env = {"HASHMILL_INTAKE__BEARER_TOKEN": CANARY}

    for command in ("post", "sandbox"):
        assert CANARY not in run_cli(command, "--help", env=env).out
