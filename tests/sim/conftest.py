"""The many worlds live beside the other tests, which wait for servers half the time; their processes yield to all."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO

import pytest

from hashmill.home import app_home

SEEDS = 2000
HUGE_SEEDS = 2
ASKS_FOR_THEM = "lived"
NICE = 19
_BEGUN = pytest.StashKey[tuple["subprocess.Popen[bytes]", IO[bytes]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin with the first test, if a test that is going to run asks for the worlds."""
    if any(ASKS_FOR_THEM in getattr(item, "fixturenames", ()) for item in session.items):
        said = tempfile.TemporaryFile()  # noqa: SIM115 - open until the tests end
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sim.run", "--seeds", str(SEEDS), "--huge", str(HUGE_SEEDS)],
            cwd=app_home(),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_yield_to_all,
        )
        session.config.stash[_BEGUN] = process, said


def _yield_to_all() -> None:
    os.nice(NICE)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Whatever ended the tests, the worlds end with them."""
    if begun := config.stash.get(_BEGUN, None):
        process, said = begun
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        said.close()


@pytest.fixture
def lived(request: pytest.FixtureRequest) -> Callable[[], tuple[int, str]]:
    """Wait for the worlds; return the exit status and what was said of the broken ones."""

    def wait() -> tuple[int, str]:
        process, said = request.config.stash[_BEGUN]
        process.wait()
        said.seek(0)
        return process.returncode, said.read().decode()

    return wait
