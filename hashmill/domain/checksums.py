"""The checksums an S3 server stores with its objects, and what was found when one was compared with bytes of ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

PARTS_MAX: Final = 10_000
"""known: S3 user guide, multipart upload limits."""


class Evidence(StrEnum):
    """On what a statement about an object rests. A stored value is no check: nobody read the bytes for it."""

    PROVIDER_STORED = "provider_stored"


class Comparison(StrEnum):
    """What came of one comparison; what could not be compared is neither equal nor different."""

    EQUAL = "equal"
    DIFFERENT = "different"
    NOT_COMPARABLE = "not_comparable"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChecksum:
    """One checksum as the S3 server states it.

    `algorithm` is our name for it, `digest` lower-case hex. `parts` is None for a checksum of the whole object; else it
    is one over the checksums of so many parts. With a `fault` it cannot be used, and `digest` is empty.
    """

    algorithm: str
    digest: str = ""
    parts: int | None = None
    fault: str = ""

    @property
    def name(self) -> str:
        """What it is called among digests: two of one name are comparable."""
        return self.algorithm if self.parts is None else f"{self.algorithm} of {self.parts} parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSizes:
    """Of how many bytes each part of an object is, in order; none and a `reason` where that is not known."""

    sizes_bytes: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A stored checksum beside ours, computed over the same bytes; `reason` says why it was not comparable."""

    stored: StoredChecksum
    computed: str | None = None
    backend: str | None = None
    reason: str = ""

    @property
    def comparison(self) -> Comparison:
        if self.reason or self.computed is None:
            return Comparison.NOT_COMPARABLE
        return Comparison.EQUAL if self.computed == self.stored.digest else Comparison.DIFFERENT

    def document(self, *, ours: str = "computed") -> dict[str, Any]:
        """Return it as an entry holds it; `ours` names our digest where it is not of this very read."""
        told: dict[str, Any] = {
            "algorithm": self.stored.algorithm,
            "of": "object" if self.stored.parts is None else "parts",
            "stored": self.stored.digest or None,
            ours: self.computed,
            "comparison": self.comparison.value,
        }
        if self.stored.parts is not None:
            told["parts"] = self.stored.parts
        if self.backend is not None:
            told["backend"] = self.backend
        if self.reason:
            told["reason"] = self.reason
        return told


def differing(compared: Sequence[Compared]) -> list[Compared]:
    """Return those whose stored checksum is not the one of the bytes."""
    return [one for one in compared if one.comparison is Comparison.DIFFERENT]


def computed_in(documents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what we computed, by `StoredChecksum.name`, out of comparisons as an entry holds them."""
    return {
        StoredChecksum(algorithm=one["algorithm"], parts=one.get("parts")).name: one["computed"]
        for one in documents
        if one.get("computed")
    }
