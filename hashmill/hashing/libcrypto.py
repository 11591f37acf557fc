"""
MD5, SHA-1 and SHA-2 at hashlib's speed, with states that can be saved: OpenSSL's classic calls, by ctypes.

hashlib and OpenSSL 3 show nobody the state of a digest; `MD5_Init`, `SHA256_Update` and their kin keep it in a struct
of the caller. known: they are deprecated since 3.0 and still exported; man page SHA256_Init(3). They are looked up in
the very library that hashlib has loaded, and are not used where one is missing or differs from hashlib (`why_not`).

What is saved is no image of the struct, but what the standards call the intermediate value: the same for every version,
build and machine.
"""

import _hashlib
import ctypes
import hashlib
import logging
import ssl
import struct
import sys
import zlib
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_size_t, c_ssize_t, c_void_p
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Self

from hashmill.hashing.registry import Block

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """The calls of one name, and their struct: `words` values, the length in bits, a block, how full that is.

    known: openssl/md5.h and sha.h, the same since 0.9.8. The SHA-2 structs end with the length of the digest besides.
    """

    prefix: str
    calls: str
    digest_bytes: int
    words: int
    word: str = "I"

    @property
    def block_bytes(self) -> int:
        return 16 * struct.calcsize(f"={self.word}")

    @property
    def layout(self) -> struct.Struct:
        ending = "II" if self.words == 8 else "I"
        return struct.Struct(f"={self.words}{self.word}2{self.word}{self.block_bytes}s{ending}")


_KINDS: Final = {
    "md5": _Kind(prefix="MD5", calls="MD5", digest_bytes=16, words=4),
    "sha1": _Kind(prefix="SHA1", calls="SHA1", digest_bytes=20, words=5),
    "sha224": _Kind(prefix="SHA224", calls="SHA256", digest_bytes=28, words=8),
    "sha256": _Kind(prefix="SHA256", calls="SHA256", digest_bytes=32, words=8),
    "sha384": _Kind(prefix="SHA384", calls="SHA512", digest_bytes=48, words=8, word="Q"),
    "sha512": _Kind(prefix="SHA512", calls="SHA512", digest_bytes=64, words=8, word="Q"),
}
ALGORITHMS: Final = tuple(_KINDS)
"""What can be computed, where `available`. Their order is that of the numbers in saved states: only ever append."""

_STRUCT_BYTES: Final = 512
"""The largest struct has 216."""
_LENGTH_MAX: Final = 1 << 61
"""An object of so many bytes has more bits than the standards count."""
_HEAD: Final = struct.Struct("<3sBBQ")
_MARK: Final = b"HMO"
_VERSION: Final = 1


class _View(ctypes.Structure):
    """`Py_buffer`. known: in the stable ABI since Python 3.11."""

    _fields_ = (
        ("buf", c_void_p),
        ("obj", c_void_p),
        ("len", c_ssize_t),
        ("itemsize", c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    )


_SIMPLE: Final = 0
"""One contiguous run of bytes, or `BufferError`."""
# Own prototypes: those of `ctypes.pythonapi` are everybody's. They keep the GIL and raise what Python raises.
_take_view: Final = ctypes.PYFUNCTYPE(c_int, ctypes.py_object, ctypes.POINTER(_View), c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_give_view: Final = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_View))(("PyBuffer_Release", ctypes.pythonapi))


class _Library:
    """The libcrypto of this process, and which of the algorithms it is trusted with; asked once each."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._why_not: dict[str, str] = {}
        self._library: Any = None
        self.version = ""

    def why_not(self, name: str) -> str:
        if name not in _KINDS:
            return "no algorithm of OpenSSL's classic calls"
        with self._lock:
            if name not in self._why_not:
                self._why_not[name] = self._tried(name)
                if self._why_not[name]:
                    log.warning("no_saved_states", extra={"algorithm": name, "reason": self._why_not[name]})
            return self._why_not[name]

    def call(self, name: str, *arguments: Any) -> Any:
        """Return the function of this name; its arguments are of these types."""
        function = getattr(self._library, name)
        function.argtypes = arguments
        return function

    def _tried(self, name: str) -> str:
        if sys.implementation.name != "cpython":
            return "not in this kind of Python"
        try:
            self._open()
            if self.version != ssl.OPENSSL_VERSION:
                return f"hashlib uses {ssl.OPENSSL_VERSION}, and {self.version} was found"
            return _fault_of(name)
        except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"

    def _open(self) -> None:
        if self._library is None:
            # A symbol is looked up in a library and in those it was linked with: in hashlib's own libcrypto.
            library = ctypes.CDLL(getattr(_hashlib, "__file__", None))
            library.OpenSSL_version.restype = c_char_p
            library.OpenSSL_version.argtypes = [c_int]
            self.version = library.OpenSSL_version(0).decode()
            self._library = library


_library: Final = _Library()


def why_not(name: str) -> str:
    """Return why `Classic` cannot be used for an algorithm here, or an empty string. The first call makes a test."""
    return _library.why_not(name)


def available(name: str) -> bool:
    """Return whether `Classic` can be used for an algorithm here: the calls are there, and right by hashlib's word."""
    return not why_not(name)


class Classic:
    """One digest of one stream; fed by one thread at a time, or it raises RuntimeError."""

    __slots__ = ("_busy", "_context", "_kind", "_update", "algorithms", "backend", "size_bytes")

    def __init__(self, name: str) -> None:
        """Raises `RuntimeError` where it is not `available`."""
        if reason := why_not(name):
            raise RuntimeError(f"{name}: {reason}")
        self._begin(name)

    def _begin(self, name: str) -> None:
        kind = _KINDS[name]
        self._kind = kind
        self.algorithms = (name,)
        self.backend = f"libcrypto/{' '.join(_library.version.split()[:2])}"
        self.size_bytes = 0
        self._busy = Lock()
        self._context = (ctypes.c_uint64 * (_STRUCT_BYTES // 8))()
        self._update = _library.call(f"{kind.calls}_Update", c_void_p, c_void_p, c_size_t)
        if _library.call(f"{kind.prefix}_Init", c_void_p)(self._context) != 1:
            raise RuntimeError(f"{name}: {kind.prefix}_Init refuses")

    def update(self, block: Block, /) -> None:
        """Feed `block`, without a copy; other threads run meanwhile."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(f"{self.algorithms[0]}: two threads feed one hasher")
        try:
            view = _View()
            _take_view(block, view, _SIMPLE)  # from now on nobody can resize or free it
            try:
                if view.len and self._update(self._context, view.buf, view.len) != 1:
                    raise RuntimeError(f"{self.algorithms[0]}: OpenSSL refuses {view.len} bytes")
                self.size_bytes += view.len
            finally:
                _give_view(view)
        finally:
            self._busy.release()

    def digest(self) -> bytes:
        """Return the digest of all that was fed so far; more may be fed after it."""
        copy = type(self._context).from_buffer_copy(self._context)
        out = (ctypes.c_uint8 * 64)()
        if _library.call(f"{self._kind.calls}_Final", c_void_p, c_void_p)(out, copy) != 1:
            raise RuntimeError(f"{self.algorithms[0]}: OpenSSL gives no digest")
        return bytes(out)[: self._kind.digest_bytes]

    def hexdigest(self, algorithm: str = "", /) -> str:
        return self.digest().hex()

    def export(self) -> bytes:
        """Return the state, from which `restore` goes on: at most 208 bytes, the same on every machine.

        Little-endian: "HMO", version (1), the algorithm's number (1), length in bytes (8), the intermediate hash value,
        what is left of the last block, CRC-32 of all that. Raises `RuntimeError` for a struct that is not as expected.
        """
        kind = self._kind
        *words, low, high, block, left = kind.layout.unpack_from(self._context)[: kind.words + 4]
        bits = high << (8 * struct.calcsize(f"={kind.word}")) | low
        if bits != 8 * self.size_bytes or left != self.size_bytes % kind.block_bytes:
            raise RuntimeError(f"{self.algorithms[0]}: the struct of {self.backend} is another")
        return sealed(self.algorithms[0], self.size_bytes, words, block[:left])

    @classmethod
    def restore(cls, state: bytes) -> Self:
        """Take up what `export` gave. Raises `ValueError` for anything else, `RuntimeError` where not `available`."""
        name, size_bytes, words, tail = opened(state)
        restored = cls(name)
        restored._go_on(size_bytes, words, tail)
        return restored

    def _go_on(self, size_bytes: int, words: Sequence[int], tail: bytes) -> None:
        kind, word_bits = self._kind, 8 * struct.calcsize(f"={self._kind.word}")
        high, low = divmod(8 * size_bytes, 1 << word_bits)
        ending = (kind.digest_bytes,) if kind.words == 8 else ()
        kind.layout.pack_into(self._context, 0, *words, low, high, tail, len(tail), *ending)
        self.size_bytes = size_bytes


def sealed(name: str, size_bytes: int, words: Sequence[int], tail: bytes) -> bytes:
    """Return a state as `Classic.export` does."""
    kind = _KINDS[name]
    body = (
        _HEAD.pack(_MARK, _VERSION, ALGORITHMS.index(name), size_bytes)
        + struct.pack(f"<{kind.words}{kind.word}", *words)
        + tail
    )
    return body + zlib.crc32(body).to_bytes(4, "little")


def opened(state: bytes) -> tuple[str, int, tuple[int, ...], bytes]:
    """Return the algorithm, the bytes fed, the intermediate value and the rest of the last block of a state.

    Raises `ValueError` for one that is damaged, cut, or of another version.
    """
    body, checksum = bytes(state[:-4]), bytes(state[-4:])
    if len(body) < _HEAD.size or zlib.crc32(body).to_bytes(4, "little") != checksum:
        raise ValueError("not a saved state, or a damaged one")
    mark, version, number, size_bytes = _HEAD.unpack_from(body)
    if mark != _MARK or version != _VERSION or number >= len(ALGORITHMS) or size_bytes >= _LENGTH_MAX:
        raise ValueError("a saved state of another version")
    name = ALGORITHMS[number]
    kind = _KINDS[name]
    values = struct.Struct(f"<{kind.words}{kind.word}")
    tail = body[_HEAD.size + values.size :]
    if len(body) < _HEAD.size + values.size or len(tail) != size_bytes % kind.block_bytes:
        raise ValueError(f"{name}: a saved state of the wrong length")
    return name, size_bytes, values.unpack_from(body, _HEAD.size), tail


_EDGES: Final = (0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 1000)


def _fault_of(name: str) -> str:
    """Return what is wrong with an algorithm here, or an empty string: hashlib is the judge. Takes a millisecond."""
    data = memoryview(bytes(range(256)) * 8)
    for length in _EDGES:
        first, hasher = (Classic.__new__(Classic) for _ in range(2))  # not yet trusted: not by the front door
        first._begin(name)
        hasher._begin(name)
        cut = length * 2 // 3
        first.update(data[1 : 1 + cut])
        _, size_bytes, words, tail = opened(first.export())
        hasher._go_on(size_bytes, words, tail)
        hasher.update(data[1 + cut : 1 + length])
        if hasher.digest() != hashlib.new(name, data[1 : 1 + length], usedforsecurity=False).digest():
            return f"{name} of {length} bytes through a saved state differs from hashlib"
    return ""
