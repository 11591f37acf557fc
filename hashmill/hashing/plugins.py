"""
Algorithms that other people's packages bring: entry points of the group `hashmill.algorithms`.

Their code is not ours: it runs in a thread of its own for each object, on its own copy of the bytes, and whatever it
raises, or however long it takes, is the end of that algorithm for that object and of nothing else. It runs in the
worker's process all the same: it is the operator's code, not a stranger's. See docs/algorithms.md.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Final, Literal

from hashmill.domain.digest import KNOWN_ALGORITHMS
from hashmill.domain.text import one_line

GROUP: Final = "hashmill.algorithms"
CALL_MAX_S: Final = 60.0
"""One call of a plug-in may take so long: a block is a mebibyte or two, which the slowest digests do in a second."""
STUCK_MAX: Final = 3
"""So many threads of one plug-in may hang in a process; nothing can end them, so no more are begun."""
REASON_MAX_CHARS: Final = 300

log = logging.getLogger(__name__)

_stuck: Counter[str] = Counter()
"""How often a plug-in hung in this process."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"(?:[0-9a-f]{2}){1,512}")
_Job = tuple["Future[Any]", Callable[[], Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One algorithm of another package. `refused` says why its name is not taken; empty when it is."""

    name: str
    package: str
    point: EntryPoint
    refused: str = ""


@cache
def found() -> Mapping[str, Plugin]:
    """Return what is installed here, by name; none of it was loaded."""
    plugins: dict[str, Plugin] = {}
    for point in entry_points(group=GROUP):
        package = f"{point.dist.name}/{point.dist.version}" if point.dist else "unknown"
        refused = ""
        if not _NAME.fullmatch(point.name):
            refused = "a name is at most 64 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit"
        elif point.name in KNOWN_ALGORITHMS:
            refused = "Hashmill has an algorithm of that name"
        elif point.name in plugins:
            refused = f"{plugins[point.name].package} brings one of that name as well"
        plugins[point.name] = Plugin(name=point.name, package=package, point=point, refused=refused)
    return plugins


def names() -> tuple[str, ...]:
    """Return the names that an event may ask for."""
    return tuple(plugin.name for plugin in found().values() if not plugin.refused)


class PluginHasher:
    """One digest of one object by a plug-in. Nothing here raises: `failure` says what went wrong; empty, nothing did.

    `feed` and `finish` give futures, which whoever waits for them may give up on after `CALL_MAX_S`.
    """

    def __init__(self, plugin: Plugin) -> None:
        self.algorithms = (plugin.name,)
        self.backend = plugin.package
        self.failure = ""
        self.patience_s = CALL_MAX_S
        """A call that takes longer is given up."""
        self._made: list[Any] = []
        self._digest = ""
        if _stuck[self.backend] >= STUCK_MAX:
            self._fail(f"hung {STUCK_MAX} times in this process, and is not tried again before it is started anew")
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._point = plugin.point

    def __del__(self) -> None:
        """Let the thread end."""
        self._jobs.put(None)

    def feed(self, block: bytes | bytearray | memoryview) -> "Future[Any]":
        """Have the plug-in take a copy of `block`."""
        own = bytes(block)
        return self._asked(lambda: self._hash().update(own))

    def finish(self) -> "Future[Any]":
        """Have the plug-in tell its digest."""
        return self._asked(lambda: _digest_in(self._hash().hexdigest()))

    def take(self, ended: "Future[Any]", *, digest: bool = False) -> None:
        """Look at a future that ended, or that nobody waits for any more."""
        if not ended.done():
            _stuck[self.backend] += 1
            log.error("plugin_stuck", extra={"algorithm": self.algorithms[0], "backend": self.backend})
            self._fail(f"took more than {self.patience_s:g} s")
        elif (error := ended.exception()) is not None:
            self._fail(str(error))
        elif digest and not self.failure:
            self._digest = ended.result()

    def hexdigest(self, algorithm: str = "", /) -> str:
        """Return the digest; only after `finish` was taken, and while there is no `failure`."""
        return self._digest

    def update(self, block: bytes | bytearray | memoryview, /) -> None:
        """Feed and wait, for whoever has no loop."""
        fed = self.feed(block)
        wait([fed], self.patience_s)
        self.take(fed)

    def close(self) -> None:
        """Finish and wait, for whoever has no loop."""
        finished = self.finish()
        wait([finished], self.patience_s)
        self.take(finished, digest=True)

    def _hash(self) -> Any:
        if not self._made:
            self._made.append(self._point.load()())
        return self._made[0]

    def _asked(self, call: Callable[[], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        if self.failure:
            future.set_result(None)
            return future
        if self._thread is None:
            self._thread = Thread(target=_serve, args=(self._jobs,), name=f"plugin-{self.algorithms[0]}", daemon=True)
            self._thread.start()
        self._jobs.put((future, call))
        return future

    def _fail(self, why: str) -> None:
        self.failure = self.failure or one_line(
            f"{self.algorithms[0]} ({self.backend}) {why}", max_chars=REASON_MAX_CHARS
        )


class _Refusal(Exception):
    """What a plug-in did wrong, in words that are ours: nobody but its own thread asks its objects for theirs."""


class _Quiet:
    """Whatever is raised within ends there: the code within is not ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> Literal[True]:
        return True


def _digest_in(told: Any) -> str:
    if type(told) is str and _DIGEST.fullmatch(told):
        return told
    raise _Refusal(f"told {told!r:.60} as its digest, which is no lower-case hex of whole bytes")


def _in_words(error: BaseException) -> str:
    if type(error) is _Refusal:
        return str(error)
    said = "what cannot be shown"
    with _Quiet():
        said = f"{error}"
    # Past whatever its class may have put in the place of its name.
    name: str = type.__dict__["__name__"].__get__(type(error))
    return f"raised {name}: {said}"


class _Into:
    """What is raised within goes into a future, in our words: the code within is not ours."""

    def __init__(self, future: "Future[Any]") -> None:
        self._future = future

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self._future.set_exception(_Refusal(_in_words(error)))
        return True


def _serve(jobs: "SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        future, call = job
        with _Into(future):
            future.set_result(call())
        del job, future, call  # nothing of the last block while waiting for the next
