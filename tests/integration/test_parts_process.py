"""A server never outlives the process that started it, and says why it did not start."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashmill.parts.process import Child, PartFailed
from tests.helpers.wait import wait_until

STARTER = """
import sys, threading
from pathlib import Path
from hashmill.parts.process import Child

def start():
    child = Child([sys.executable, "-c", CODE], name="part", folder=Path(sys.argv[1]))
    print(child.pid, child._guard.pid, flush=True)
    children.append(child)

CODE = sys.argv[2]
children = []
thread = threading.Thread(target=start)  # the thread ends, the child goes on
thread.start()
thread.join()
sys.stdin.read()
"""
PATIENT = "import time\nwhile True: time.sleep(1)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PATIENT
WITH_OFFSPRING = (
    f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {PATIENT!r}]).pid, flush=True)\n" + PATIENT
)


def state(pid: int) -> str:
    """Return the letter of proc(5): S sleeping, T stopped, Z zombie; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def gone(pid: int) -> bool:
    return state(pid) in {"", "Z"}


class Family:
    """A parent, the guard, and the server that the parent started in a thread which has ended."""

    def __init__(self, folder: Path, code: str) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(folder), code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.parent.stdout is not None
        self.server_pid, self.guard_pid = map(int, self.parent.stdout.readline().split())

    def close(self) -> None:
        self.parent.kill()
        self.parent.communicate()


@pytest.fixture
def family(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Family]:
    family = Family(tmp_path, getattr(request, "param", PATIENT))
    yield family
    family.close()


def test_when_the_parent_is_killed_the_server_is_gone(family: Family) -> None:
    family.parent.send_signal(signal.SIGKILL)

    wait_until(lambda: gone(family.server_pid) and gone(family.guard_pid))


@pytest.mark.parametrize("family", [WITH_OFFSPRING], indirect=True)
def test_when_the_parent_is_killed_the_servers_offspring_is_gone_too(family: Family, tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    wait_until(lambda: log.read_text().endswith("\n"))
    offspring_pid = int(log.read_text())
    family.parent.send_signal(signal.SIGKILL)

    wait_until(lambda: gone(family.server_pid) and gone(offspring_pid))


def test_when_the_guard_is_killed_the_server_is_gone(family: Family) -> None:
    os.kill(family.guard_pid, signal.SIGKILL)

    wait_until(lambda: gone(family.server_pid))


def test_a_server_lives_on_when_the_thread_that_started_it_ends(tmp_path: Path) -> None:
    children: list[Child] = []
    argv = [sys.executable, "-c", PATIENT]
    thread = threading.Thread(target=lambda: children.append(Child(argv, name="part", folder=tmp_path)))
    thread.start()
    thread.join()

    assert children[0].running
    children[0].stop()
    assert gone(children[0].pid)


def test_what_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", STUBBORN], name="part", folder=tmp_path, grace_s=0.2)
    wait_until(lambda: signal.SIGTERM in ignored_by(child.pid))
    child.stop()

    assert child.exit_code == 128 + signal.SIGKILL


def test_a_server_that_was_stopped_with_sigstop_still_ends(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", PATIENT], name="part", folder=tmp_path)
    child.send(signal.SIGSTOP)
    wait_until(lambda: state(child.pid) == "T")
    child.stop()

    assert child.exit_code == 128 + signal.SIGTERM


def test_stopping_twice_is_stopping_once(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", PATIENT], name="part", folder=tmp_path)
    child.kill()
    child.stop()

    assert child.exit_code == 128 + signal.SIGKILL


def test_a_server_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path) -> None:
    code = "import sys; print(*range(100), sep='\\n'); sys.exit('no room left')"
    child = Child([sys.executable, "-c", code], name="part", folder=tmp_path)

    with pytest.raises(PartFailed, match=r"(?s)part ended by itself with status 1.*\n    99\n.*no room left") as caught:
        child.wait_until(lambda: False)
    assert "\n    10\n" not in str(caught.value)
    child.stop()


def test_a_server_that_never_answers_is_reported(tmp_path: Path) -> None:
    child = Child([sys.executable, "-c", PATIENT], name="part", folder=tmp_path)

    with pytest.raises(PartFailed, match=r"part did not answer within 0\.05 s"):
        child.wait_until(lambda: False, timeout_s=0.05)
    child.stop()


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    child = Child(["/no/such/server"], name="part", folder=tmp_path)

    with pytest.raises(PartFailed, match=r"(?s)status 127.*/no/such/server: .*No such file"):
        child.wait_until(lambda: False)
    child.stop()


def ignored_by(pid: int) -> set[int]:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
