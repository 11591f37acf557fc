"""Triggers that go on through a fault: small events, one after the other, every answer written down."""

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from tests.fault.load import Load, Store

FILES_EACH: Final = 5
PAUSE_S: Final = 0.3
COME_AGAIN_S: Final = 0.5
LAST_WITHIN_S: Final = 60.0


class Poster:
    """Posts an event of a few files; one that was refused is posted again, as a trigger does, before the next one."""

    def __init__(self, load: Load, store: Store) -> None:
        self._load, self._store = load, store
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poster", daemon=True)
        self.answers: list[tuple[float, int | None]] = []
        """When each answer came (monotonic seconds), and its status, None where the connection broke."""
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the last event be accepted, and end; raises what went wrong meanwhile."""
        self._over.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def accepted_since(self, at_s: float) -> bool:
        """Whether an event was accepted after `at_s` (monotonic)."""
        return any(came_s > at_s and status == 202 for came_s, status in list(self.answers))

    def refused_since(self, at_s: float) -> int:
        """Return how many answers after `at_s` (monotonic) were 503."""
        return sum(came_s > at_s and status == 503 for came_s, status in list(self.answers))

    def odd(self, allowed: Collection[int | None] = (202, 503)) -> list[str]:
        """Return answers the intake should not have given, as words."""
        counted = Counter(status for _, status in self.answers)
        return [f"intake answered {status} {n} times" for status, n in counted.items() if status not in allowed]

    def told(self) -> dict[str, int]:
        """Return how often each status came, for the figures."""
        return dict(Counter(str(status) for _, status in self.answers))

    def _run(self) -> None:
        try:
            for number in range(1_000_000):
                if self._over.wait(PAUSE_S):
                    return
                self._post(number)
        except BaseException as error:
            self.error = error

    def _post(self, number: int) -> None:
        container = str(number % len(self._store.content.files) + 1)
        paths = self._store.content.paths(container)
        first = number * FILES_EACH % max(1, len(paths) - FILES_EACH)
        job_id = self._load.new_job(container)
        ends_s = None
        while True:
            post = self._load.post(container, job_id=job_id, paths=paths[first : first + FILES_EACH])
            self.answers.append((time.monotonic(), post.status))
            if post.accepted:
                return
            if self._over.is_set():
                ends_s = ends_s or time.monotonic() + LAST_WITHIN_S
                if time.monotonic() > ends_s:
                    raise AssertionError(f"not accepted {LAST_WITHIN_S:g} s after the fault: {post.status}")
            time.sleep(COME_AGAIN_S)  # as a trigger that was told to come again


@contextmanager
def posting(load: Load, store: Store) -> Iterator[Poster]:
    """Meanwhile post."""
    poster = Poster(load, store)
    poster.start()
    try:
        yield poster
    except BaseException:
        poster._over.set()
        raise
    poster.stop()
