"""A server as a child process: started under a guard, waited for, stopped, and its log quoted when it fails."""

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, cast

GUARD: Final = Path(__file__).with_name("guard.py")
LOG_LINES_SHOWN: Final = 20

# Below the ports that Linux hands out to outgoing connections (from 32768, known: ip(7)), so that no client of any
# process takes the port between our look and the server's bind, nor while the server is being restarted.
PORTS: Final = range(12_000, 32_000)


class PartFailed(Exception):
    """A server could not be found, did not start, or ended by itself; the message says what to do."""


class Part:
    """A running server; `with` stops it at the end."""

    def stop(self) -> None:
        """Stop the server."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Child:
    """One running server.

    `pid` is the server's own process id (not the guard's). Standard output and error are appended to `log_path`.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str,
        folder: Path,
        environ: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 5.0,
    ) -> None:
        """Start `argv` in `folder`, as `user` where one is named (root only).

        Stopping sends `stop_signal`, and SIGKILL after `grace_s`.
        """
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._stop_signal = stop_signal
        self._grace_s = grace_s
        order = {"argv": [str(part) for part in argv], "user": user, "stop_signal": stop_signal, "grace_s": grace_s}
        with self.log_path.open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - our own file
                [sys.executable, "-I", "-S", GUARD, json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environ,
                bufsize=0,
                start_new_session=True,
            )
        self._line = cast("IO[bytes]", self._guard.stdin)
        with cast("IO[bytes]", self._guard.stdout) as said:
            line = said.readline()
        if not line:
            self._close()
            raise self.failure("could not be started")
        self.pid = int(line)

    @property
    def running(self) -> bool:
        """Whether the server has not ended."""
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The server's exit status, 128 + n if signal n ended it, None while it runs."""
        return self._guard.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that cannot be caught (and SIGCONT) goes to the whole process group."""
        try:
            self._line.write(bytes([number]))
        except (BrokenPipeError, ValueError):
            return  # It has ended, which is what a signal to the dead comes to.

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
        """Return when `condition` holds; raise `PartFailed` when the server ends first or time is up."""
        ends_at = time.monotonic() + timeout_s
        while not condition():
            if not self.running:
                raise self.failure(f"ended by itself with status {self.exit_code}")
            if time.monotonic() > ends_at:
                raise self.failure(f"did not answer within {timeout_s:g} s")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ask the server to end, and make it end."""
        self.send(signal.SIGCONT)
        self.send(self._stop_signal)
        try:
            self._guard.wait(self._grace_s)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
        self._close()

    def kill(self) -> None:
        """End the server as a power cut would: SIGKILL to its process group."""
        self.send(signal.SIGKILL)
        self._close()

    def failure(self, problem: str) -> PartFailed:
        """Return the error that names this server, the problem, and the end of the log."""
        with self.log_path.open(errors="replace") as log:
            end = "".join(f"    {line}" for line in deque(log, LOG_LINES_SHOWN))
        return PartFailed(f"{self.name} {problem}. The end of its log, {self.log_path}:\n{end or '    (empty)'}")

    def _close(self) -> None:
        self._guard.wait()
        self._line.close()


def free_ports(count: int, *, in_a_row: bool = False) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on; `in_a_row` for a server that wants a span of them."""
    found: list[int] = []
    while len(found) < count:
        span = count if in_a_row else 1
        start = random.randrange(PORTS.start, PORTS.stop - span)  # noqa: S311 - only to stay apart from others
        ports = range(start, start + span)
        if not set(ports) & set(found) and all(map(_is_free, ports)):
            found.extend(ports)
    return found


def answers(port: int) -> bool:
    """Return whether something accepts connections on this port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
