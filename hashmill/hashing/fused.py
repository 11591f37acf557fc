"""
MD5, SHA-1 and SHA-256 of the same bytes in one pass, of up to sixteen streams side by side; their states can be saved.

The work is done by an optional extension in C (`native/`). Whoever uses it asks `available()` first, and hashlib where
that says no.
"""

import logging
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib import import_module
from threading import Lock
from typing import Final, Self, cast

from hashmill.hashing.fused_check import BITS, Buffer, NativeHasher, NativeKernel, fault_of

log = logging.getLogger(__name__)

ALGORITHMS: Final = tuple(BITS)
"""What a `Fused` can compute, in any combination."""

SIDE_BY_SIDE_MAX: Final = 16
"""The most streams the extension takes in one call."""


class Trust:
    """Whether this process may use the extension. Decided once, by its self-test, at the first question."""

    def __init__(self, native: NativeKernel | None, why_missing: str, *, broken: bool = False) -> None:
        """`broken`: it was built and is not there all the same."""
        self.native = native
        self.broken = broken
        self._why_not = why_missing
        self._tested = False
        self._groups: Mapping[int, Sequence[int]] = {}
        self._lock = Lock()

    def why_not(self) -> str:
        """Return why the extension must not be used, or an empty string."""
        with self._lock:
            if self.native is not None and not self._tested:
                self._why_not = _tried(self.native)
                self._tested = True
                if self._why_not:
                    log.error("kernel_off", extra={"reason": self._why_not})
                else:
                    self._groups = self.native.calibrate()
            return self._why_not

    def group(self, mask: int, streams: int) -> int:
        """Return how many of `streams` (1 to `SIDE_BY_SIDE_MAX`) cost least together, as measured in this process."""
        if self.why_not():
            return 1
        return min(streams, self._groups[mask][streams - 1])


def _tried(native: NativeKernel) -> str:
    try:
        fault = fault_of(native)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    return fault and f"the self-test failed: {fault}"


def _loaded() -> Trust:
    try:
        return Trust(cast(NativeKernel, import_module("hashmill.hashing._kernel")), "")
    except ModuleNotFoundError:
        return Trust(None, "it was not built: there was no C compiler, or it was left out")
    except ImportError as error:  # built for another system
        return Trust(None, f"it cannot be loaded: {error}", broken=True)


_trust = _loaded()

KERNEL_VERSION: Final[int] = getattr(_trust.native, "VERSION", 0)
"""Raised when a state saved by the version before must not be taken up again; 0 where there is no kernel."""


def available() -> bool:
    """Return whether `Fused` can be used here: built, and passed its self-test. The first call makes the test."""
    return not _trust.why_not()


def accelerated() -> bool:
    """Return whether `Fused` is quicker than hashlib here; else it serves those who need its saved states."""
    return available() and not _why_slow()


def why_not() -> str:
    """Return why this process does not hash with the fast kernel, for people; empty when it does."""
    return _trust.why_not() or _why_slow()


class Serving(StrEnum):
    """What the kernel does in a process."""

    ON = "on"
    SLOW = "slow"
    """The CPU lacks the instructions: hashlib hashes, as it is quicker."""
    ABSENT = "absent"
    """It was not built."""
    OFF = "off"
    """It was built and is not to be trusted here: it failed its self-test, or cannot be loaded."""


def serving() -> Serving:
    """Return what the kernel does in this process."""
    if _trust.why_not():
        return Serving.OFF if _trust.native is not None or _trust.broken else Serving.ABSENT
    return Serving.SLOW if _why_slow() else Serving.ON


def self_test() -> str:
    """Test the kernel anew and return what is wrong with it, or an empty string. Switches nothing on or off."""
    return _tried(_trust.native) if _trust.native is not None else ""


def kernels() -> tuple[str, ...]:
    """Return the kernels this CPU can run, the best first; `portable` is always the last. Empty when not available."""
    return getattr(_trust.native, "kernels", tuple)() if available() else ()


def group(algorithms: Sequence[str], streams: int) -> int:
    """Return how many of `streams` streams that are ready should be given to `update_many` together.

    Measured on this CPU when the process first asked for the kernel (2 ms): a few streams that share the SHA
    instructions, or up to sixteen in the lanes of vectors. More gains nothing, and takes work from idle threads.
    """
    return _trust.group(sum(BITS[name] for name in algorithms), min(streams, SIDE_BY_SIDE_MAX))


def _why_slow() -> str:
    return str(getattr(_trust.native, "why_slow", str)())


class Fused:
    """Some of MD5, SHA-1 and SHA-256 of one stream; fed by one thread at a time, or it raises RuntimeError."""

    __slots__ = ("_native", "algorithms", "backend")

    def __init__(self, algorithms: Sequence[str], *, kernel: str | None = None) -> None:
        """`kernel` is one of `kernels()`, for the tests; the best one otherwise.

        Raises `ValueError` for no algorithm, or one that is not in `ALGORITHMS`; `RuntimeError` when not `available`.
        """
        if unknown := [name for name in algorithms if name not in BITS]:
            raise ValueError(f"not for the kernel: {', '.join(unknown)}")
        self._take(_native().Fused(sum(BITS[name] for name in set(algorithms)), kernel))

    def _take(self, native: NativeHasher) -> None:
        self._native = native
        self.algorithms = tuple(name for name, bit in BITS.items() if native.mask & bit)
        """What is computed, in the order of `ALGORITHMS`."""
        self.backend = f"fused/{KERNEL_VERSION} {native.kernel}"
        """The kernel that computes, e.g. `fused/1 sha-ni`."""

    @property
    def size_bytes(self) -> int:
        """How many bytes were fed so far."""
        return self._native.length

    def update(self, block: Buffer, /) -> None:
        """Feed `block`, without a copy; other threads run meanwhile if it is above 2 KiB."""
        self._native.update(block)

    def digest(self, algorithm: str) -> bytes:
        """Return the digest of all that was fed so far; more may be fed after it."""
        return self._native.digest(BITS[algorithm] if algorithm in self.algorithms else 0)

    def hexdigest(self, algorithm: str) -> str:
        """Return the digest in lower-case hex."""
        return self.digest(algorithm).hex()

    def export(self) -> bytes:
        """Return the state, from which `restore` goes on: at most 149 bytes, the same whichever kernel computed."""
        return self._native.export()

    @classmethod
    def restore(cls, state: Buffer, *, kernel: str | None = None) -> Self:
        """Take up what `export` gave. Raises `ValueError` for anything else: damaged, cut, of another version."""
        restored = cls.__new__(cls)
        restored._take(_native().Fused.restore(state, kernel=kernel))
        return restored


def update_many(pairs: Sequence[tuple[Fused, Buffer]]) -> None:
    """Feed each hasher its block; as many as `group` says take far less time side by side than one after the other.

    All must be for the same algorithms, and no hasher may stand there twice. Blocks of equal length gain the most: what
    is longer than the others goes alone. Raises `ValueError` for different algorithms and `RuntimeError` for a hasher
    that is being fed; then none of its sixteen was fed.
    """
    native = _native()
    for start in range(0, len(pairs), SIDE_BY_SIDE_MAX):
        native.update_many(tuple((fused._native, block) for fused, block in pairs[start : start + SIDE_BY_SIDE_MAX]))


def _native() -> NativeKernel:
    why_not = _trust.why_not()
    if why_not or _trust.native is None:
        raise RuntimeError(f"the native kernel is off: {why_not}")
    return _trust.native
