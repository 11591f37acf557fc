"""
Running digests as text, so that another process can go on where this one stopped.

MD5, SHA-1 and SHA-256 by the native kernel where it is fast; these and the other SHA-2 by libcrypto's own calls; the
CRCs. A state that one of the first two saved goes on in the other: workers with and without the kernel may take turns.
What cannot be saved (blake3, xxh3, SHA-3 and BLAKE2 show their state to nobody) is hashed from zero instead.
"""

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from hashmill.hashing import fused, libcrypto
from hashmill.hashing.fused_check import BITS
from hashmill.hashing.registry import CRCS, Hasher, open_crc

VERSION: Final = 1


class SavedHasher(Hasher, Protocol):
    """A hasher whose state can be told."""

    def export(self) -> bytes: ...


def can_be_saved(algorithms: Sequence[str]) -> bool:
    """Return whether the state of all of them can be saved here, at no loss of speed."""
    return not without_state(algorithms)


def without_state(algorithms: Sequence[str]) -> list[str]:
    """Return those whose state cannot be saved here."""
    return [name for name in algorithms if not (name in CRCS or _by_kernel(name) or libcrypto.available(name))]


def _by_kernel(name: str) -> bool:
    return name in fused.ALGORITHMS and fused.accelerated()


def begin(algorithms: Sequence[str]) -> list[SavedHasher]:
    """Return fresh hashers for `algorithms`, for which `can_be_saved`."""
    together = [name for name in _together(algorithms) if _by_kernel(name)]
    alone = [name for name in dict.fromkeys(algorithms) if name not in together]
    hashers: list[SavedHasher] = [fused.Fused(together)] if together else []
    return hashers + [open_crc(name) if name in CRCS else libcrypto.Classic(name) for name in alone]


def open_one(name: str, state: bytes | None = None) -> SavedHasher:
    """Return a fresh hasher of one digest, or one that goes on from what its `export` gave, here or elsewhere.

    Raises `ValueError` for a state that cannot be taken up here, and for a name for which not `can_be_saved`.
    """
    if without_state([name]):
        raise ValueError(f"{name}: its state cannot be taken up here")
    if state is None:
        return begin([name])[0]
    return _together_restored({name: state})[0] if name in fused.ALGORITHMS else _restored(name, state)


def save(hashers: Sequence[SavedHasher]) -> str:
    """Return the state of `hashers` as text, below 1 KiB for each."""
    parts = {"+".join(hasher.algorithms): base64.b64encode(hasher.export()).decode() for hasher in hashers}
    return json.dumps({"v": VERSION, "kernel": fused.KERNEL_VERSION, "parts": parts})


def go_on(
    algorithms: Sequence[str], text: str, *, beside: Mapping[str, Callable[[bytes], SavedHasher]] | None = None
) -> list[SavedHasher]:
    """Return hashers that go on where `save` was called. `beside` restores those that are of no algorithm, by name.

    Raises `ValueError` when the text was saved by another version or another kernel, for other algorithms, or is
    damaged: then only the beginning is left.
    """
    told = json.loads(text)
    if not isinstance(told, dict) or told.get("v") != VERSION or not isinstance(told.get("parts"), dict):
        raise ValueError("saved by another version")
    parts = {str(key): _bytes(value) for key, value in told["parts"].items()}
    # One of no kernel is 0: it has saved no state of a kernel's, and cannot judge one. So whoever raises the kernel's
    # version for states that are wrong raises VERSION as well.
    kernel = told.get("kernel")
    if not isinstance(kernel, int) or (kernel and fused.KERNEL_VERSION and kernel != fused.KERNEL_VERSION):
        raise ValueError("saved by another version of the kernel")
    restore = dict(beside or {})
    wanted = [*dict.fromkeys(algorithms), *restore]
    found = [name for key in parts for name in ([key] if key in restore else key.split("+"))]
    if sorted(found) != sorted(wanted):
        raise ValueError("saved for other algorithms")
    hashers = _together_restored({key: state for key, state in parts.items() if key.split("+")[0] in fused.ALGORITHMS})
    for name in wanted:
        if name not in fused.ALGORITHMS:
            hashers.append(restore.get(name, partial(_restored, name))(parts[name]))
    return hashers


def _together(algorithms: Sequence[str]) -> list[str]:
    return [name for name in fused.ALGORITHMS if name in algorithms]


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise ValueError(f"damaged: {error}") from error


def _restored(name: str, state: bytes) -> SavedHasher:
    if name in CRCS:
        return open_crc(name, state)
    restored = libcrypto.Classic.restore(state) if libcrypto.available(name) else None
    if restored is None or restored.algorithms != (name,):
        raise ValueError("saved for other algorithms")
    return restored


def _together_restored(parts: Mapping[str, bytes]) -> list[SavedHasher]:
    """Restore what the kernel can compute: by it where it is fast, else by libcrypto, whichever of them saved it."""
    if not parts:
        return []
    names = [name for key in parts for name in key.split("+")]
    states = {name: state for key, saved in parts.items() for name, state in _split(key.split("+"), saved).items()}
    if fused.accelerated():
        return [fused.Fused.restore(_joined(states))]
    if all(libcrypto.available(name) for name in names):
        return [_restored(name, states[name]) for name in names]
    if fused.available():
        return [fused.Fused.restore(_joined(states))]
    raise ValueError("saved by what is not here")


_KERNELS_HEAD: Final = struct.Struct("<3sBBBQ")
_KERNELS_MARK: Final = b"HMK"
_KERNELS_STATE: Final = 1
_WORDS: Final = {"md5": 4, "sha1": 5, "sha256": 8}
_KERNELS_BLOCK_BYTES: Final = 64


def _split(names: Sequence[str], state: bytes) -> dict[str, bytes]:
    """Return a state for each algorithm, as libcrypto's are, out of one of either kind."""
    if state[:3] != _KERNELS_MARK:
        if [libcrypto.opened(state)[0]] != list(names):
            raise ValueError("saved for other algorithms")
        return {names[0]: state}
    mask = sum(BITS[name] for name in names)
    head_bytes = _KERNELS_HEAD.size
    if len(state) < head_bytes + 4:
        raise ValueError("cut")
    _, version, saved_mask, _, size_bytes = _KERNELS_HEAD.unpack_from(state)
    count = sum(_WORDS[name] for name in names)
    tail = state[head_bytes + 4 * count : -4]
    if version != _KERNELS_STATE or saved_mask != mask or len(tail) != size_bytes % _KERNELS_BLOCK_BYTES:
        raise ValueError("saved for other algorithms, or by another version of the kernel")
    if zlib.crc32(state[:-4]).to_bytes(4, "little") != state[-4:]:
        raise ValueError("a damaged saved state: its checksum does not fit")
    words = list(struct.unpack_from(f"<{count}I", state, head_bytes))
    return {
        name: libcrypto.sealed(name, size_bytes, [words.pop(0) for _ in range(_WORDS[name])], tail) for name in names
    }


def _joined(states: Mapping[str, bytes]) -> bytes:
    """Return the kernel's state of these algorithms, out of libcrypto's; `native/stream.c` tells its shape."""
    names = _together(list(states))
    told = [libcrypto.opened(states[name]) for name in names]
    size_bytes, tail = told[0][1], told[0][3]
    if any(one[1] != size_bytes or one[3] != tail for one in told):
        raise ValueError("saved at different places")
    words = [word for one in told for word in one[2]]
    mask = sum(BITS[name] for name in names)
    body = _KERNELS_HEAD.pack(_KERNELS_MARK, _KERNELS_STATE, mask, 0, size_bytes)
    body += struct.pack(f"<{len(words)}I", *words) + tail
    return body + zlib.crc32(body).to_bytes(4, "little")
