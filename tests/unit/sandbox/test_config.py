"""The sandbox's values: what the sheet says, and how a wrong one is answered."""

from pathlib import Path

import pytest

from hashmill.sandbox import (
    ContainerConfig,
    IntakeConfig,
    SandboxConfig,
    SandboxConfigInvalid,
    UserConfig,
    load_config,
)


def test_the_project_s_own_sheet_holds_a_root_a_writer_a_reader_and_a_stranger() -> None:
    config = load_config()

    assert [user.root for user in config.users] == [True, False, False, False]
    assert [user.rights for user in config.users] == ["write", "write", "read", "write"]
    assert [user.s3_key_pair for user in config.users] == [True, True, False, False]
    assert config.users[3].containers == ()
    assert config.containers[0].id == "1"


def test_an_override_replaces_a_value_and_none_leaves_it() -> None:
    config = load_config(None, port=0, host=None, intake=IntakeConfig(url="http://127.0.0.1:1/"))

    assert (config.port, config.host) == (0, "127.0.0.1")
    assert config.intake.url == "http://127.0.0.1:1/"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown prot; known are"),
        ("port = '1'", "port: int is needed"),
        ("port = true", "port: int is needed"),
        ("users = 1", "users: a list is needed"),
        ("users = [1]", r"users\[0\]: a table is needed"),
        ("[[users]]\nid = '1'\nname = 'a'\nkey = 'k'\nrights = 'all'", "rights: one of read, write is needed"),
        ("[[users]]\nid = '1'\nname = 'a'", "key"),
        ("[[users]]\nid = 'x'\nname = 'a'\nkey = 'k'", "must be digits"),
        ("[intake]\nurl = 5", "intake: url: str is needed"),
        ("[[functions]]\nid = '1'\nkey = 'k'\nparams = []", "params: a table is needed"),
        ("[[containers]]\nid = '1'\nname = 'a'\nstorage_id = '9'", "there is no storage '9'"),
        ("[[containers]]\nid = '1'\nname = 'a'\non_upload = 'f'", "there is no function 'f'"),
        ("port = ", "Invalid"),
    ],
)
def test_a_wrong_value_is_answered_with_its_place_and_what_may_stand_there(
    text: str, said: str, tmp_path: Path
) -> None:
    sheet = tmp_path / "sandbox.toml"
    sheet.write_text(text)

    with pytest.raises(SandboxConfigInvalid, match=said):
        load_config(sheet)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxConfigInvalid, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")


def test_no_key_is_shown_when_a_config_is_printed() -> None:
    config = SandboxConfig(
        users=(UserConfig(id="1", name="a", key="canary"),),
        intake=IntakeConfig(bearer_token="canary"),
        containers=(ContainerConfig(id="1", name="a"),),
    )

    assert "canary" not in repr(config)
