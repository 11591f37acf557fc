"""The command line as a test uses it: in this process, or as a process of its own."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hashmill.cli.main import app
from tests.helpers.wait import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_cli(*args: str, env: Mapping[str, str | None] | None = None, input: str | None = None) -> Said:
    """Run one command in this process; an error that is none of ours is raised here.

    A name whose value in `env` is None is not set.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        result = CliRunner(env=dict(env or {})).invoke(app, list(args), input=input)
    finally:
        # A serving command sends the log to its own standard error, which is gone by now.
        root.handlers[:] = handlers
        root.setLevel(level)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(code=result.exit_code, out=result.stdout, err=result.stderr)


def _hear_ctrl_c() -> None:
    """A shell lets what it runs in the background ignore SIGINT, and every child of it inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Command:
    """One command as a process of its own; its output goes to a file, and `with` ends it."""

    def __init__(self, *args: str, folder: Path, env: Mapping[str, str]) -> None:
        self.log = folder / f"{args[0]}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "hashmill", *args],
                cwd=folder,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, *, times: int = 1, timeout_s: float = 60.0) -> None:
        """Return once the command has said `text` so many times; fail with all it said when it does not."""

        def heard() -> bool:
            if self.said.count(text) >= times:
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.said}"
            return False

        wait_until(heard, timeout_s, what=f"{text!r} {times} times in {self.log}")

    def end(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 60.0) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)
