"""A large file, read slice by slice: the running digests are saved after each, so that a kill costs one slice."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from hashmill.domain.checksums import Compared, differing
from hashmill.domain.digest import HashedObject
from hashmill.domain.errors import ObjectChanged
from hashmill.domain.work import ClaimedFile, SavedHash
from hashmill.flow.stored import NOTHING, beside, difference, of_text
from hashmill.flow.tools import Mill, ObjectPlace
from hashmill.hashing import saved as states
from hashmill.hashing.engine import hashed
from hashmill.ledger.runs import Run
from hashmill.storage.config import ObjectHead

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """How a slice ended: with the whole object `hashed`, or with what to `save` for the next one.

    `compared` is what the S3 server stores beside that, `first` what the read before found, if this one repeats it.
    """

    head: ObjectHead
    hashed: HashedObject | None = None
    compared: Sequence[Compared] = ()
    first: Mapping[str, str] | None = None
    save: SavedHash | None = None
    resumed_from_bytes: int = 0
    slices: int = 1


def is_sliced(mill: Mill, run: Run, file: ClaimedFile) -> bool:
    """Return whether the file is read in slices: it is large, and what computes its digests can be saved here."""
    return _is_large(mill, file) and states.can_be_saved(run.algorithms)


def why_in_one_go(mill: Mill, run: Run, file: ClaimedFile) -> dict[str, Any]:
    """Return what the entry of a large file says that is read in one go, and from zero after a kill; log it."""
    if not _is_large(mill, file):
        return {}
    without_state = states.without_state(run.algorithms)
    extra = {"run_id": run.run_id, "file_no": file.file_no, "without_state": without_state}
    log.warning("file_not_sliced", extra=extra)
    return {"sliced": False, "without_state": without_state}


def _is_large(mill: Mill, file: ClaimedFile) -> bool:
    return (file.size_bytes or 0) >= mill.rules.slice_from_bytes


async def read_slice(mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace) -> Slice:
    """Read the next slice of a file, from where it was saved; raises what prevents it.

    From the beginning, where nothing was saved, where that was for another object, or where it cannot be taken up.
    """
    saved = file.saved
    if saved is not None:
        try:
            return await _read(mill, run, file, place, saved)
        except ValueError as fault:
            reason = str(fault)
        except ObjectChanged as fault:
            reason = str(fault)
        log.warning("slices_begin_anew", extra={"run_id": run.run_id, "file_no": file.file_no, "reason": reason})
    return await _read(mill, run, file, place, None)


async def _read(mill: Mill, run: Run, file: ClaimedFile, place: ObjectPlace, saved: SavedHash | None) -> Slice:
    start_byte = saved.offset_bytes if saved else 0
    extra = of_text(saved.provider) if saved else NOTHING
    hashers = extra.go_on(run.algorithms, saved.state) if saved else []
    pin = ObjectHead(size_bytes=saved.size_bytes, etag=saved.etag, version_id=saved.version_id) if saved else None
    opening = mill.storage.open(
        place.config, place.bucket, place.key, expected_bytes=file.size_bytes, start_byte=start_byte, pin=pin
    )
    async with opening as opened:
        head = opened.head
        if saved is None:
            extra = await beside(mill, place, head, run.algorithms, saved=True)
            hashers = extra.begin(run.algorithms)
        enough = _enough(mill, left_bytes=head.size_bytes - start_byte) if head.resumable else None
        async with aclosing(opened.blocks()) as blocks:  # which are left in the middle
            fed_bytes = await mill.engine.feed(hashers, blocks, enough=enough)
    offset_bytes = start_byte + fed_bytes
    part = Slice(head=head, first=extra.first, resumed_from_bytes=start_byte, slices=(saved.slices if saved else 0) + 1)
    if offset_bytes >= head.size_bytes:
        found = hashed(hashers, [*run.algorithms, *extra.names], size_bytes=offset_bytes)
        compared = extra.compared(found)
        if not differing(compared) or extra.first is not None:
            return replace(part, hashed=found, compared=compared)
        log.warning("read_again", extra={"run_id": run.run_id, "file_no": file.file_no, "why": difference(compared)})
        extra, offset_bytes = replace(extra, first=found.digests), 0
        hashers = extra.begin(run.algorithms)
    save = SavedHash(
        offset_bytes=offset_bytes,
        size_bytes=head.size_bytes,
        etag=head.etag,
        version_id=head.version_id,
        state=states.save(hashers),
        slices=part.slices,
        provider=extra.text() if extra.stored else None,
    )
    return replace(part, save=save)


def _enough(mill: Mill, *, left_bytes: int) -> Callable[[int], bool]:
    """Return what ends a slice: so many bytes, so long, or that the process is told to stop; never the last block."""
    ends_s = mill.clock_s() + mill.rules.slice_max_s

    def enough(fed_bytes: int) -> bool:
        if fed_bytes >= left_bytes:
            return False
        return fed_bytes >= mill.rules.slice_max_bytes or mill.draining.is_set() or mill.clock_s() >= ends_s

    return enough
