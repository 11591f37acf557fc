"""Starts again what exits, as any installation's supervisor does, and tells ordered exits from those nobody ordered."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from hashmill.parts.process import Child

LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """One exit nobody ordered. Status 70 is a worker that noticed it was deaf."""

    name: str
    status: int | None
    log_tail: str


@dataclass(slots=True)
class _Place:
    """One process that has to be there, whichever child fills it at the moment."""

    start: Callable[[], Child]
    child: Child
    ordered: bool = False


class Supervisor:
    """Watches places. `kill` and `order` are orders; every other exit is told in `unordered`. All are started again."""

    def __init__(self) -> None:
        self.unordered: list[Exit] = []
        self.restarts = 0
        self._places: dict[str, _Place] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def add(self, name: str, start: Callable[[], Child]) -> Child:
        """Start a process and keep it there."""
        child = start()
        with self._lock:
            self._places[name] = _Place(start=start, child=child)
        return child

    def names(self, prefix: str = "") -> list[str]:
        with self._lock:
            return [name for name in self._places if name.startswith(prefix)]

    def child(self, name: str) -> Child:
        """Return who fills the place now."""
        with self._lock:
            return self._places[name].child

    def pids(self, prefix: str = "") -> dict[int, str]:
        """Return process id -> name of what runs now."""
        with self._lock:
            return {
                place.child.pid: name
                for name, place in self._places.items()
                if name.startswith(prefix) and place.child.running
            }

    def kill(self, name: str) -> None:
        """SIGKILL, by order."""
        with self._lock:
            place = self._places[name]
            place.ordered = True
            place.child.kill()

    def order(self, name: str) -> Child:
        """Say that the next exit of this process is wanted, and return it: the caller sends the signal."""
        with self._lock:
            self._places[name].ordered = True
            return self._places[name].child

    def _watch(self) -> None:
        try:
            while not self._stopping.wait(LOOK_EVERY_S):
                for name in self.names():
                    self._look_after(name)
        except BaseException as error:
            self.error = error
            raise

    def _look_after(self, name: str) -> None:
        with self._lock:
            place = self._places[name]
            if place.child.running or self._stopping.is_set():
                return
            if not place.ordered:
                tail = place.child.log_path.read_text(errors="replace")[-2000:]
                self.unordered.append(Exit(name=name, status=place.child.exit_code, log_tail=tail))
            place.ordered = False
        child = place.start()
        with self._lock:
            place.child = child
            self.restarts += 1
