"""
What the S3 server stores of an object, computed beside the digests that were asked for, in the same read, and compared.

A stored checksum is another witness, and no baseline of ours. Where it differs the object is read again before anybody
says so: see docs/decisions/0011-provider-checksums.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache, partial
from itertools import groupby
from typing import Any, Final

from hashmill.domain.checksums import Compared, Evidence, StoredChecksum, differing
from hashmill.domain.digest import HashedObject
from hashmill.domain.errors import AlgorithmFailed, ObjectChanged
from hashmill.domain.text import one_line
from hashmill.flow.tools import Mill, ObjectPlace
from hashmill.hashing import parts as of_parts
from hashmill.hashing import saved as states
from hashmill.hashing.parts import PartsHasher
from hashmill.hashing.registry import Hasher, open_hasher, open_hashers
from hashmill.ledger.presence import storage_address
from hashmill.storage.config import ObjectHead, StorageConfig

RUNS_MAX: Final = 1000
"""So often the sizes of an object's parts may change for them to be kept between slices; of most all but one are
equal."""
_address = lru_cache(256)(storage_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What one read computes beside what was asked for: `whole` are algorithms, `parts` sizes by name of the checksum.

    `reasons` say by name why a checksum in `stored` cannot be compared. `first` is what the first of two reads found,
    by name, when this is the second.
    """

    stored: tuple[StoredChecksum, ...] = ()
    whole: tuple[str, ...] = ()
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    first: Mapping[str, str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is computed, by the names its digests have."""
        return (*self.whole, *self.parts)

    def hashers(self, algorithms: Sequence[str]) -> list[Hasher]:
        """Return fresh hashers for `algorithms` and all of this. Raises what `open_hashers` raises."""
        return [
            *open_hashers([*algorithms, *self.whole]),
            *(PartsHasher(name, self._algorithm(name), sizes) for name, sizes in self.parts.items()),
        ]

    def begin(self, algorithms: Sequence[str]) -> list[states.SavedHasher]:
        """Return the same, of hashers whose state can be saved."""
        return [
            *states.begin([*algorithms, *self.whole]),
            *(PartsHasher(name, self._algorithm(name), sizes) for name, sizes in self.parts.items()),
        ]

    def go_on(self, algorithms: Sequence[str], state: str) -> list[states.SavedHasher]:
        """Return those that go on from `state`. Raises `ValueError` where that is of others."""
        beside = {
            name: partial(PartsHasher.restore, name, self._algorithm(name), sizes) for name, sizes in self.parts.items()
        }
        return states.go_on([*algorithms, *self.whole], state, beside=beside)

    def compared(self, found: HashedObject) -> list[Compared]:
        """Return each stored checksum beside the digest of the same name in `found`."""
        return [
            Compared(stored=one, reason=reason)
            if (reason := self.reasons.get(one.name, ""))
            else Compared(stored=one, computed=found.digests[one.name], backend=found.backends[one.name])
            for one in self.stored
        ]

    def text(self) -> str:
        """Return it as text, for `of_text`."""
        sizes = {name: [(size, len(list(same))) for size, same in groupby(run)] for name, run in self.parts.items()}
        return json.dumps({**asdict(self), "parts": sizes})

    def _algorithm(self, name: str) -> str:
        return next(one.algorithm for one in self.stored if one.name == name)


NOTHING: Final = Beside()


def of_text(text: str | None) -> Beside:
    """Return what `text` was made of; nothing for None. Raises `ValueError` for what no `text` is."""
    if text is None:
        return NOTHING
    try:
        told = json.loads(text)
        return Beside(
            stored=tuple(StoredChecksum(**one) for one in told["stored"]),
            whole=tuple(told["whole"]),
            parts={
                name: tuple(size for size, count in sizes for _ in range(count))
                for name, sizes in told["parts"].items()
            },
            reasons=told["reasons"],
            first=told["first"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"saved by another version: {error!r}") from error


async def beside(
    mill: Mill, place: ObjectPlace, head: ObjectHead, algorithms: Sequence[str], *, saved: bool = False
) -> Beside:
    """Return what is to be computed in the read of `head` for what its server stores; asks where the parts end.

    `saved` says that the state of everything must be saved on the way. Raises nothing of its own: what cannot be
    compared has its reason.
    """
    if not head.checksums:
        return NOTHING
    whole: list[str] = []
    sizes: dict[str, tuple[int, ...]] = {}
    reasons: dict[str, str] = {}
    for one in head.checksums:
        reason = _why_not(one, head, algorithms, saved=saved)
        if not reason and one.parts is None:
            whole.append(one.algorithm)
        elif not reason and one.parts is not None:
            told = await mill.storage.parts(place.config, place.bucket, place.key, head, one.parts)
            reason = told.reason
            if not reason and saved and sum(1 for _ in groupby(told.sizes_bytes)) > RUNS_MAX:
                reason = "the sizes of its parts are too many different ones to be kept between slices"
            if not reason:
                sizes[one.name] = told.sizes_bytes
        if reason:
            reasons[one.name] = one_line(reason, max_chars=400)
    return Beside(stored=head.checksums, whole=tuple(whole), parts=sizes, reasons=reasons)


def _why_not(one: StoredChecksum, head: ObjectHead, algorithms: Sequence[str], *, saved: bool) -> str:
    if one.fault:
        return one.fault
    if not head.resumable:
        return "the server's ETag is weak: nothing says that a second read would be of the same bytes"
    if saved and not (
        states.can_be_saved([one.algorithm]) if one.parts is None else of_parts.can_be_saved(one.algorithm)
    ):
        return f"the state of {one.algorithm} cannot be kept between slices here"
    return "" if one.algorithm in algorithms else _uncomputable(one.algorithm)


@cache
def _uncomputable(algorithm: str) -> str:
    """Return why the algorithm cannot be had in this process, such as an OpenSSL that forbids it; empty if it can."""
    try:
        open_hasher(algorithm)
    except AlgorithmFailed as error:
        return f"cannot be computed here: {error}"
    return ""


def confirmed(place: ObjectPlace, first: Mapping[str, str], found: HashedObject, compared: Sequence[Compared]) -> bool:
    """Return whether a difference of the first read is one of the second as well, both having read the same bytes.

    False when the second read has what the server stores: then the first was damaged on its way. Raises
    `ObjectChanged` when the second differs from both.
    """
    if not differing(compared):
        return False
    if {name: found.digests.get(name) for name in first} != dict(first):
        raise ObjectChanged(
            f"s3://{place.bucket}/{place.key}: two reads of one version gave different bytes, and neither has the "
            "checksum that the S3 server stores"
        )
    return True


def told(config: StorageConfig, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what an entry says of the comparisons in `documents`: who states what, and what it is worth."""
    return {
        "evidence": Evidence.PROVIDER_STORED.value,
        "address": _address(config.endpoint_url or config.region),
        "checksums": list(documents),
    }


def difference(compared: Sequence[Compared]) -> str:
    """Return in words what differs; empty when nothing does."""
    return "; ".join(
        f"{one.stored.name}: the S3 server stores {one.stored.digest}, and the bytes it sent twice have {one.computed}"
        for one in differing(compared)
    )
