"""What the environment says is read, or refused by its name and never by its value."""

import os
import traceback
from pathlib import Path

import pytest

from hashmill.domain.errors import ConfigFault
from hashmill.queue import make_app
from hashmill.settings import read_settings
from tests.helpers.cli import run_cli


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("HASHMILL_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("http://x", ["http://x"]),
        ("http://x, https://y.example", ["http://x", "https://y.example"]),
        ('["http://x", "https://y.example"]', ["http://x", "https://y.example"]),
        ("[]", []),
        ("", []),
        (" , ", []),
    ],
)
def test_a_list_is_read_as_json_or_as_words_between_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, origins: list[str]
) -> None:
    monkeypatch.setenv("HASHMILL_LABDRIVE__ALLOWED_ORIGINS", text)
    monkeypatch.setenv("HASHMILL_TENANTS__a__API_ORIGINS", text)
    monkeypatch.setenv("HASHMILL_WORKER__QUEUES", "files,big")

    settings = read_settings()

    assert settings.labdrive.allowed_origins == origins
    assert settings.tenants["a"].api_origins == origins
    assert settings.worker.queues == ["files", "big"]


@pytest.mark.parametrize("text", ['["http://sesame"', '["http://sesame",]', "[1, 2]", "[sesame]"])
def test_a_broken_list_is_refused_with_its_knob_and_what_to_write(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HASHMILL_LABDRIVE__ALLOWED_ORIGINS", text)

    with pytest.raises(ConfigFault, match=r"labdrive\.allowed_origins") as caught:
        read_settings()

    assert "sesame" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["HASHMILL_S3", "HASHMILL_S3__TENANTS", "HASHMILL_TENANTS"])
def test_a_table_that_is_no_json_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "sesame")
    monkeypatch.setenv("HASHMILL_S3__BUCKET", "not json and right")
    monkeypatch.setenv("HASHMILL_LABDRIVE", "{}")

    with pytest.raises(ConfigFault, match=rf"settings: {name} must be a JSON object") as caught:
        read_settings()

    said = "".join(traceback.format_exception(caught.value))
    assert "sesame" not in said
    assert "HASHMILL_S3__BUCKET" not in said
    assert "HASHMILL_LABDRIVE" not in said


@pytest.mark.parametrize("url", ["nosuch://sesame@x", "redis://:sesame@x:port/0", "sesame.sesame://x"])
def test_an_address_of_no_broker_is_refused_by_its_knob(url: str) -> None:
    with pytest.raises(ConfigFault, match=r"broker\.url") as caught:
        make_app(url, cell="test")

    assert "sesame" not in "".join(traceback.format_exception(caught.value)).replace("test_settings", "")


@pytest.mark.parametrize(
    ("command", "code"), [(("doctor",), 1), (("settings",), 3), (("runs", "list"), 3), (("worker",), 3)]
)
@pytest.mark.parametrize(
    ("variable", "named"), [("HASHMILL_S3", "HASHMILL_S3"), ("HASHMILL_WORKER__QUEUES", "worker.queues")]
)
def test_every_command_names_a_knob_it_cannot_read(
    command: tuple[str, ...], code: int, variable: str, named: str
) -> None:
    said = run_cli(*command, env={variable: "[sesame"})

    assert said.code == code
    assert named in said.out + said.err
    assert "sesame" not in said.out + said.err


def test_the_doctor_finds_a_broker_that_cannot_be(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"

    said = run_cli("doctor", "--json", env={"HASHMILL_BROKER__URL": "nosuch://sesame@x", "HASHMILL_LEDGER__URL": url})

    assert said.code == 1
    assert "broker.url" in said.out
    assert "sesame" not in said.out + said.err
