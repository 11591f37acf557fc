"""
Every digest algorithm by its wire name, and the library that computes it here.

All of them let other threads run while they are fed (known: measured for each with a second thread ticking beside
a 64 MiB `update`, the longest pause was 8 ms of 77; hashlib, blake3, xxhash and awscrt let go of the GIL above about
2 KiB).
"""

import hashlib
import platform
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import awscrt
import blake3
import xxhash
from awscrt import checksums

from hashmill.domain.errors import AlgorithmFailed
from hashmill.hashing import fused, plugins

Block = bytes | bytearray | memoryview
"""A piece of an object, in order; anything a digest library takes without copying."""


class OneHasher(Protocol):
    """One digest of one object while it is being computed; fed by one thread at a time."""

    @property
    def backend(self) -> str:
        """The library and version that compute, e.g. `hashlib/OpenSSL 3.0.17`."""

    def update(self, block: Block, /) -> None: ...

    def hexdigest(self) -> str:
        """Return the digest of everything fed so far, in lower-case hex."""


class Hasher(Protocol):
    """The same for several digests that are computed together."""

    @property
    def algorithms(self) -> tuple[str, ...]: ...

    @property
    def backend(self) -> str: ...

    def update(self, block: Block, /) -> None: ...

    def hexdigest(self, algorithm: str, /) -> str: ...


class _Alone:
    """A hasher of one digest, asked like one of several."""

    __slots__ = ("_one", "algorithms", "backend", "update")

    def __init__(self, algorithm: str, one: OneHasher) -> None:
        self._one = one
        self.algorithms = (algorithm,)
        self.backend = one.backend
        self.update = one.update

    def hexdigest(self, algorithm: str, /) -> str:
        return self._one.hexdigest()


class _LibraryHash(Protocol):
    def update(self, data: Block, /) -> object: ...

    def hexdigest(self) -> str: ...


class _LibraryHasher:
    """A hash object of a library, with its origin."""

    __slots__ = ("_hash", "backend", "hexdigest")

    def __init__(self, library_hash: _LibraryHash, backend: str) -> None:
        self._hash = library_hash
        self.backend = backend
        self.hexdigest = library_hash.hexdigest

    def update(self, block: Block, /) -> None:
        self._hash.update(block)


class _RunningCrc:
    """A checksum whose library keeps no object: each call takes the value before it.

    The hex is big-endian and of fixed width, as `sha256sum`'s cousins print it; S3 shows the same bytes in base64.
    """

    __slots__ = ("_advance", "_hex_digits", "_value", "algorithms", "backend")

    def __init__(self, name: str, advance: Callable[[Block, int], int], *, bits: int, state: bytes = b"") -> None:
        self.algorithms = (name,)
        self._advance = advance
        self._value = int.from_bytes(state)
        self._hex_digits = bits // 4
        self.backend = _AWSCRT

    def update(self, block: Block, /) -> None:
        self._value = self._advance(block, self._value)

    def hexdigest(self, algorithm: str = "", /) -> str:
        return f"{self._value:0{self._hex_digits}x}"

    def export(self) -> bytes:
        """Return the state; it is the value itself."""
        return self._value.to_bytes(self._hex_digits // 2)


_CRCS: Final = {
    "crc32": (checksums.crc32, 32),
    "crc32c": (checksums.crc32c, 32),
    "crc64nvme": (checksums.crc64nvme, 64),
}
CRCS: Final = tuple(_CRCS)
"""The checksums whose state is their value."""


def open_crc(name: str, state: bytes | None = None) -> _RunningCrc:
    """Return a fresh CRC, or one that goes on from what `export` gave. Raises `ValueError` for any other bytes."""
    advance, bits = _CRCS[name]
    if state is not None and len(state) != bits // 8:
        raise ValueError(f"{name}: a state has {bits // 8} bytes, and this one {len(state)}")
    return _RunningCrc(name, advance, bits=bits, state=state or b"")


_AWSCRT: Final = f"awscrt/{awscrt.__version__}"
_OPENSSL: Final = f"hashlib/{' '.join(ssl.OPENSSL_VERSION.split()[:2])}"
_CPYTHON: Final = f"hashlib/CPython {platform.python_version()}"


def _from_hashlib(name: str) -> Callable[[], OneHasher]:
    def open_one() -> OneHasher:
        library_hash = hashlib.new(name, usedforsecurity=False)
        # hashlib.new prefers its own code for some algorithms (blake2b) and falls back to it for the rest.
        in_openssl = type(library_hash).__module__ == "_hashlib"
        return _LibraryHasher(library_hash, _OPENSSL if in_openssl else _CPYTHON)

    return open_one


_OPENERS: Final[dict[str, Callable[[], OneHasher]]] = {
    "md5": _from_hashlib("md5"),
    "sha1": _from_hashlib("sha1"),
    "sha224": _from_hashlib("sha224"),
    "sha256": _from_hashlib("sha256"),
    "sha384": _from_hashlib("sha384"),
    "sha512": _from_hashlib("sha512"),
    "sha3-224": _from_hashlib("sha3_224"),
    "sha3-256": _from_hashlib("sha3_256"),
    "sha3-384": _from_hashlib("sha3_384"),
    "sha3-512": _from_hashlib("sha3_512"),
    "blake2b": _from_hashlib("blake2b"),
    "blake3": lambda: _LibraryHasher(blake3.blake3(), f"blake3/{blake3.__version__}"),
    "xxh3-128": lambda: _LibraryHasher(xxhash.xxh3_128(), f"xxhash/{xxhash.VERSION}"),
    "crc32": lambda: open_crc("crc32"),
    "crc32c": lambda: open_crc("crc32c"),
    "crc64nvme": lambda: open_crc("crc64nvme"),
}


_BY_HASHLIB: Final = {name: _OPENERS[name] for name in fused.ALGORITHMS}
"""The openers that the native kernel may stand in for."""


def algorithm_names() -> tuple[str, ...]:
    """Return every name `open_hasher` takes: ours, then those of plug-ins."""
    return (*_OPENERS, *plugins.names())


def open_hasher(name: str) -> OneHasher:
    """Return a fresh hasher for `name`, or raise `AlgorithmFailed` when there is none or its library refuses."""
    opener = _OPENERS.get(name)
    if opener is None and name in plugins.names():
        return plugins.PluginHasher(plugins.found()[name])
    if opener is None:
        raise AlgorithmFailed(
            f"{name}: no such algorithm; known are {', '.join(algorithm_names())}. One that a package brings must be "
            "installed wherever an intake or a worker runs."
        )
    try:
        return opener()
    except ValueError as error:  # OpenSSL in a mode that forbids the algorithm
        raise AlgorithmFailed(f"{name}: {error}") from error


def open_alone(name: str) -> Hasher:
    """Return a fresh hasher of one digest, asked like one of several. Raises what `open_hasher` raises."""
    one = open_hasher(name)
    return one if isinstance(one, plugins.PluginHasher) else _Alone(name, one)


def open_hashers(names: Sequence[str]) -> list[Hasher]:
    """Return fresh hashers that together compute each of `names` once: by the native kernel what it does quicker than
    hashlib, one by one what is left. Raises what `open_hasher` raises.
    """
    wanted = list(dict.fromkeys(names))
    together = [name for name in wanted if name in fused.ALGORITHMS and _OPENERS[name] is _BY_HASHLIB[name]]
    if not together or not fused.accelerated():
        return [open_alone(name) for name in wanted]
    return [
        fused.Fused(together),
        *(open_alone(name) for name in wanted if name not in together),
    ]
