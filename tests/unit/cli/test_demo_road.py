"""The demo's verdict: good only when LABDRIVE holds everything that was owed."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from hashmill.cli.demo_road import _judge, _last_word

DIGESTS = {"md5": "a", "sha1": "b", "sha256": "c"}
TOLD = [{"file_id": "7", "message": name} for name in DIGESTS] + [{"file_id": None, "message": "1 file: 1 hashed"}]


class Platform:
    """A sandbox and a ledger that know one file."""

    def __init__(self, told: list[dict[str, Any]]) -> None:
        self._told = told

    def ask_sandbox(self, method: str, path: str) -> Any:
        if "/file/list" in path:
            return [{"type": "FILE", "fullpath": "/a", "id": "7", "size": 1}]
        if path.endswith("/hash"):
            return DIGESTS
        return self._told if "/message" in path else {"status": "COMPLETED"}

    def read_now(self, *_: Any, **__: Any) -> list[Any]:
        return []


def judged(told: list[dict[str, Any]]) -> dict[str, Any]:
    platform: Any = Platform(told)
    run: Any = SimpleNamespace(run_id="r", state="completed")
    return _judge(platform, platform, run, {"a": DIGESTS}, "1")


def test_a_job_with_every_message_is_good() -> None:
    assert judged(TOLD)["good"] is True


@pytest.mark.parametrize("missing", range(len(TOLD)))
def test_a_job_that_lacks_a_message_is_not_good(missing: int) -> None:
    assert judged(TOLD[:missing] + TOLD[missing + 1 :])["good"] is False


def test_a_message_told_twice_stands_for_no_other() -> None:
    assert judged([*TOLD, TOLD[0]])["good"] is True
    assert judged([*TOLD[:-1], TOLD[0]])["good"] is False


def test_ctrl_c_says_that_everything_stops() -> None:
    out = Console(file=io.StringIO())

    with pytest.raises(KeyboardInterrupt), _last_word(out):
        raise KeyboardInterrupt

    assert isinstance(out.file, io.StringIO)
    assert "Stopping everything" in out.file.getvalue()
