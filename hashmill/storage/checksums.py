"""
The checksums that an S3 server states of an object, and how long the parts are over which one was taken.

known: S3 user guide, "Checking object integrity", and the API reference: asked for by `x-amz-checksum-mode: ENABLED`, a
GET or HEAD answers with `x-amz-checksum-NAME` in base64 and with `x-amz-checksum-type`; a checksum over those of the
parts ends in `-N`, their number. What a server writes there is only taken if it can be right.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

from hashmill.domain.checksums import PARTS_MAX, PartSizes, StoredChecksum
from hashmill.storage.config import ObjectHead, ObjectPlace, printable
from hashmill.storage.faults import LIBRARY_ERRORS, NO_XML_OF_S3, translate
from hashmill.storage.link import Link

_KNOWN: Final = (
    ("x-amz-checksum-crc32", "crc32", 4),
    ("x-amz-checksum-crc32c", "crc32c", 4),
    ("x-amz-checksum-crc64nvme", "crc64nvme", 8),
    ("x-amz-checksum-sha1", "sha1", 20),
    ("x-amz-checksum-sha256", "sha256", 32),
    ("x-amz-checksum-sha512", "sha512", 64),
    ("x-amz-checksum-md5", "md5", 16),
)
"""Header, our name, bytes. known: the API reference; those of xxHash, newer than the rest, are left alone."""
_VALUE_MAX_CHARS: Final = 128
_OF_PARTS: Final = re.compile(r'-([1-9]\d{0,5})"?\Z', re.ASCII)
_PAGE: Final = 250
"""Parts in one answer: so many are below what is read of an answer that is no object."""
_PAGES_MAX: Final = PARTS_MAX // _PAGE + 1


def stored_in(headers: Mapping[str, str], etag: str) -> tuple[StoredChecksum, ...]:
    """Return what an answer states; its header names are in lower case, or any case is the same to `headers`."""
    return tuple(
        _stored(algorithm, size_bytes, text, headers.get("x-amz-checksum-type", ""), etag)
        for header, algorithm, size_bytes in _KNOWN
        if (text := headers.get(header))
    )


def _stored(algorithm: str, size_bytes: int, text: str, kind: str, etag: str) -> StoredChecksum:
    if len(text) > _VALUE_MAX_CHARS:
        return StoredChecksum(algorithm=algorithm, fault=f"the S3 server states {len(text)} characters")
    value, dash, count = text.partition("-")
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters outside ASCII
        digest = b""
    if len(digest) != size_bytes:
        return StoredChecksum(algorithm=algorithm, fault=f"the S3 server states {printable(text)!r}")
    etag_parts = _OF_PARTS.search(etag)
    if kind == "FULL_OBJECT" and not dash:
        return StoredChecksum(algorithm=algorithm, digest=digest.hex())
    if kind not in ("", "COMPOSITE"):
        return StoredChecksum(algorithm=algorithm, fault=f"the S3 server states {printable(text)!r} of type {kind!r}")
    if not kind and not dash:
        # An object in one piece has but one kind of checksum. One of parts was not always labelled.
        if etag_parts is None or algorithm == "crc64nvme":  # known: CRC64NVME is always of the whole object
            return StoredChecksum(algorithm=algorithm, digest=digest.hex())
        return StoredChecksum(algorithm=algorithm, fault="the S3 server does not say whether it is of object or parts")
    if not dash and etag_parts is not None:
        count = etag_parts[1]
    if not re.fullmatch(r"[1-9]\d{0,5}", count, re.ASCII) or int(count) > PARTS_MAX:
        return StoredChecksum(algorithm=algorithm, fault=f"the S3 server states {printable(count)!r} parts")
    return StoredChecksum(algorithm=algorithm, digest=digest.hex(), parts=int(count))


async def part_sizes(link: Link, place: ObjectPlace, head: ObjectHead, parts: int) -> PartSizes:
    """Return how long each of the `parts` of this very object is, or why that is not known.

    Another right is needed for it (known: s3:GetObjectAttributes), and few other servers know the question.
    """
    sizes: list[int] = []
    marker = 0
    for _ in range(_PAGES_MAX):
        try:
            answer: Mapping[str, Any] = await link.client.get_object_attributes(
                Bucket=place.bucket,
                Key=place.key,
                ObjectAttributes=["ETag", "ObjectParts"],
                MaxParts=_PAGE,
                PartNumberMarker=marker,
            )
        except NO_XML_OF_S3:
            return PartSizes(reason="the sizes of the parts are not told: the answer is not S3's")
        except LIBRARY_ERRORS as error:
            return PartSizes(reason=f"the sizes of the parts are not told: {printable(translate(error, place), 300)}")
        if str(answer.get("ETag", "")).strip('"') != head.etag.strip('"'):
            return PartSizes(reason="the sizes of the parts are not told: another object has its place by now")
        page = (answer.get("ObjectParts") or {}).get("Parts") or []
        for part in page:
            if part.get("PartNumber", 0) <= marker or not isinstance(part.get("Size"), int) or part["Size"] < 0:
                return PartSizes(reason="the sizes of the parts are told in a way that makes no sense")
            marker = part["PartNumber"]
            sizes.append(part["Size"])
        if not page or not answer["ObjectParts"].get("IsTruncated"):
            break
    if len(sizes) != parts or sum(sizes) != head.size_bytes:
        return PartSizes(
            reason=f"the sizes of {len(sizes)} parts are told, together {sum(sizes)} bytes; the object has {parts} "
            f"parts and {head.size_bytes} bytes"
        )
    return PartSizes(sizes_bytes=tuple(sizes))
