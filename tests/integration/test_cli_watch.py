"""`hashmill runs watch` as a process: live on a terminal, and gone at Ctrl-C."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from tests.helpers.cli import Command
from tests.helpers.ledger import fresh_ledger
from tests.helpers.stocked_ledger import end_run, open_run, read_files
from tests.helpers.wait import wait_until


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with fresh_ledger(url(tmp_path)) as ledger:
        yield ledger


@pytest.fixture
def run(ledger: Ledger) -> Run:
    run = open_run(ledger, ["one", "two", "three"])
    read_files(ledger, run, 1)
    return run


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'l.sqlite3'}"


def test_without_a_terminal_each_change_is_a_line(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    with Command("runs", "watch", run.run_id, folder=tmp_path, env={"HASHMILL_LEDGER__URL": url(tmp_path)}) as watch:
        watch.wait_for("running: 1 of 3 files")
        read_files(ledger, run, 2)
        end_run(ledger, run)

        assert watch.process.wait(30) == 0
        assert watch.said.splitlines()[-1] == f"run {run.run_id} completed"


def test_ctrl_c_ends_a_watch_with_130_and_without_a_traceback(run: Run, tmp_path: Path) -> None:
    with Command("runs", "watch", run.run_id, folder=tmp_path, env={"HASHMILL_LEDGER__URL": url(tmp_path)}) as watch:
        watch.wait_for("running")

        assert watch.end(signal.SIGINT) == 130
        assert "Traceback" not in watch.said


def test_a_terminal_shows_a_bar_that_moves_in_place(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    said = bytearray()
    os.set_blocking(ours, False)

    def hear() -> str:
        with contextlib.suppress(OSError):  # nothing said yet, or nobody there any more
            said.extend(os.read(ours, 65_536))
        return said.decode(errors="replace")

    watch = subprocess.Popen(
        [sys.executable, "-m", "hashmill", "runs", "watch", run.run_id],
        env={**os.environ, "HASHMILL_LEDGER__URL": url(tmp_path), "TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        wait_until(lambda: "1 of 3 files" in hear(), 60)
        read_files(ledger, run, 2)
        end_run(ledger, run)
        wait_until(lambda: hear() is not None and watch.poll() is not None, 60)
    finally:
        watch.kill()
        watch.wait()
    hear()
    os.close(ours)

    assert watch.returncode == 0
    assert "3 of 3 files" in said.decode()
    assert "\x1b[2K" in said.decode()
    assert f"run {run.run_id} completed" in said.decode()
