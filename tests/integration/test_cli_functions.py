"""`hashmill function`: what is added is what runs, and what is no function is refused with a reason."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from hashmill.ledger import entries, runs
from hashmill.ledger.engine import Ledger
from tests.helpers.cli import Command, Said, run_cli
from tests.helpers.ledger import fresh_ledger
from tests.helpers.wait import wait_until

GOOD = """
from libnova.Labdrive.Nuclio.Request import Request
from libnova.Labdrive.Api import File

def handler(context, event):
    request = Request(context, event)
    for file in request.Files:
        request.log("seen", file_id=file.id)
        File.set_hash(file.id, "mine", "00ff")
    print("printed")
    request.job_end(not request.function_params)
"""
EVENT = {
    "api": {"url": "http://labdrive.invalid", "key_user": "canary-key-81", "key_root": ""},
    "labdrive": {"container": {"id": "1"}, "files": {"ids": ["7"], "paths": []}, "job": {"id": "299"}},
    "function_params": {},
}
Cli = Callable[..., Said]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}") as opened:
        yield opened


@pytest.fixture
def cli(ledger: Ledger, tmp_path: Path) -> Cli:
    def run(*args: str) -> Said:
        return run_cli(*args, env={"HASHMILL_LEDGER__URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"})

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "handler.py"
    path.write_text(GOOD)
    return path


@pytest.fixture
def event(tmp_path: Path) -> Path:
    path = tmp_path / "event.json"
    path.write_text(json.dumps(EVENT))
    return path


def test_a_function_is_added_listed_shown_and_taken_away(cli: Cli, source: Path, ledger: Ledger) -> None:
    added = cli("function", "add", "mine", str(source), "--who", "op", "--json").json
    source.write_text(GOOD + "# a second version\n")
    assert "mine is handler" in cli("function", "add", "mine", str(source)).out

    versions = cli("function", "list", "--json").json
    assert [one["name"] for one in versions] == ["mine", "mine"]
    assert {one["sha256"]: one["current"] for one in versions}[added["sha256"]] is False
    assert "a second version" in cli("function", "show", "mine").out
    assert "current" in cli("function", "list").out

    assert cli("function", "remove", "mine").code == 0
    assert cli("function", "remove", "mine").code == 2
    assert cli("function", "show", "mine").code == 2
    kinds = [entry.kind for entry in ledger.read_now(entries.of_run, "00000000-0000-0000-0000-000000000000")]
    assert kinds == ["function_added", "function_added", "function_removed"]
    assert ledger.read_now(entries.verify).faults == ()


def test_a_name_by_which_files_are_hashed_is_taken_only_when_that_is_said(
    cli: Cli, source: Path, ledger: Ledger
) -> None:
    public = {"api_url": "http://labdrive.invalid", "user_id": "1", "algorithms": ["md5"], "function_key": "hashmill"}
    ids: dict[str, Any] = {
        "tenant_id": "default",
        "idempotency_key": "k",
        "event_digest": "d",
        "job_id": "1",
        "container_id": "1",
    }
    run, _ = ledger.write_now(runs.accept, event=public, priority=5, entry={}, **ids)

    refused = cli("function", "add", "hashmill", str(source))
    assert refused.code == 2
    assert run.run_id in refused.err
    assert cli("function", "list", "--json").json == []

    assert cli("function", "add", "hashmill", str(source), "--instead-of-hashing").code == 0


def test_a_function_is_tried_here_and_tells_nobody(cli: Cli, source: Path, event: Path) -> None:
    cli("function", "add", "mine", str(source))

    tried = cli("function", "test", "mine", str(event), "--json")
    assert (tried.code, tried.json["fault"]) == (0, "")
    assert tried.json["messages"] == [{"text": "seen", "level": "INFO", "file_id": "7"}]
    assert tried.json["hashes"] == {"7": {"mine": "00ff"}}
    assert tried.json["output"] == "printed\n"

    shown = cli("function", "test", "mine", str(event)).out
    assert "INFO: seen (file 7)" in shown
    assert "hash of file 7: mine 00ff" in shown
    assert "canary-key-81" not in shown

    event.write_text(json.dumps({**EVENT, "function_params": {"fail": True}}))
    failed = cli("function", "test", "mine", str(event))
    assert failed.code == 1
    assert "failed: it ended its job as failed" in failed.out


ASKS = """
from libnova.Labdrive.Nuclio.Request import Request
from libnova.Labdrive.Api import File

def handler(context, event):
    for file in Request(context, event).Files:
        print(File.get_metadata(file.id))
"""


class Deaf(BaseHTTPRequestHandler):
    """Knows nothing; what it was asked is in `asked`."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_the_address_of_the_environment_wins_over_the_one_in_the_event(
    ledger: Ledger, tmp_path: Path, source: Path, event: Path
) -> None:
    source.write_text(ASKS)
    event.write_text(json.dumps({**EVENT, "api": {"url": "http://127.0.0.9:1", "key_user": "KEY", "key_root": ""}}))
    Deaf.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Deaf) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        environ = {
            "HASHMILL_LEDGER__URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
            "LIBNOVA_API_URL": f"http://127.0.0.1:{server.server_port}",
        }
        try:
            run_cli("function", "add", "mine", str(source), env=environ)
            said = run_cli("function", "test", "mine", str(event), env=environ)
        finally:
            server.shutdown()
            serving.join()

    assert Deaf.asked, said
    assert "127.0.0.9" not in said.out


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("handler.py", "def other(): pass", "it has no function handler"),
        ("handler.py", "def handler(", "was never closed"),
        ("notebook.ipynb", "{}", "no notebook of nbformat 4"),
        ("notebook.ipynb", "{", "Expecting"),
        ("handler.py", "async def handler(context, event): pass", "its handler is async, which is not supported"),
        ("handler.py", "def other():\n    def handler(context, event): pass", "it has no function handler"),
        ("notebook.ipynb", '{"nbformat": 4, "metadata": {}}', "a notebook without cells"),
        (
            "notebook.ipynb",
            '{"nbformat": 4, "cells": [], "metadata": {"language_info": {"name": "R"}}}',
            "a notebook in R; only Python is run",
        ),
        (
            "notebook.ipynb",
            '{"nbformat": 4, "cells": [], "metadata": {"kernelspec": {"language": "julia", "name": "julia-1.9"}}}',
            "a notebook in julia; only Python is run",
        ),
        ("handler.txt", "", "neither .py nor .ipynb"),
    ],
)
def test_what_is_no_function_is_refused(cli: Cli, tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text)

    said = cli("function", "add", "mine", str(tmp_path / name))

    assert said.code == 2
    assert why in " ".join(said.err.split())
    assert cli("function", "list", "--json").json == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("handler.py", "try:\n    import numpy\nexcept ImportError:\n    def handler(context, event): pass"),
        ("handler.py", "if True:\n    def handler(context, event): pass"),
        ("handler.py", "from elsewhere import *"),
        ("handler.py", "from elsewhere import work as handler"),
        ("handler.py", "handler: object = print"),
        ("notebook.ipynb", '{"nbformat": 4, "cells": [], "metadata": {}}'),
        ("notebook.ipynb", '{"nbformat": 4, "cells": [], "metadata": {"kernelspec": {"language": "python"}}}'),
    ],
)
def test_a_handler_may_come_from_anywhere_at_the_top_of_its_file(
    cli: Cli, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)

    assert cli("function", "add", "mine", str(tmp_path / name)).code == 0


def test_the_line_to_try_it_can_be_pasted_into_a_shell(cli: Cli, source: Path) -> None:
    assert "hashmill function test 'a b' event.json" in cli("function", "add", "a b", str(source)).out


def test_one_that_is_being_tried_leaves_nothing_when_it_is_ended(
    ledger: Ledger, source: Path, event: Path, tmp_path: Path
) -> None:
    source.write_text("import time\ndef handler(context, event):\n    time.sleep(600)\n")
    (tmp_path / "temporary").mkdir()
    environ = {
        "HASHMILL_LEDGER__URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
        "TMPDIR": str(tmp_path / "temporary"),
    }
    assert run_cli("function", "add", "mine", str(source), env=environ).code == 0

    with Command("function", "test", "mine", str(event), folder=tmp_path, env=environ) as command:
        wait_until(lambda: any((tmp_path / "temporary").glob("hm-function-*/home")), timeout_s=30)
        code = command.end()

    assert (code, command.said) == (130, "")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_files_and_names_that_are_none_are_refused(cli: Cli, source: Path, tmp_path: Path) -> None:
    for words in (
        ("add", "mine", str(tmp_path / "nowhere.py")),
        ("add", "", str(source)),
        ("add", "x" * 65, str(source)),
        ("add", " space", str(source)),
        ("add", "--", "--help", str(source)),
        ("test", "nobody", str(source)),
    ):
        assert cli("function", *words).code == 2, words
    cli("function", "add", "mine", str(source))
    (tmp_path / "wrong.json").write_text("[]")
    for path in ("wrong.json", "handler.py", "nowhere.json"):
        assert cli("function", "test", "mine", str(tmp_path / path)).code == 2
