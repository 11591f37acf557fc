"""What is asked of one object: what it is (HEAD), and for its bytes, which say what it is at the same time (GET)."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import aiohttp
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

from hashmill.domain.errors import (
    ConfigFault,
    ObjectChanged,
    ObjectForbidden,
    ObjectOffline,
    SigningRefused,
    StorageThrottled,
    StorageTimeout,
)
from hashmill.storage.checksums import stored_in
from hashmill.storage.config import ObjectHead, ObjectPlace
from hashmill.storage.direct import DirectStream
from hashmill.storage.faults import LIBRARY_ERRORS, NO_XML_OF_S3, is_about_the_signature, is_wordless, translate
from hashmill.storage.link import Link
from hashmill.storage.sign import signed_get
from hashmill.storage.stream import Body, ByteStream
from hashmill.storage.wire import first_bytes, plain_headers

T = TypeVar("T")

DIRECT_FROM_BYTES: Final = 524_288
"""From this length on a body is received straight into the blocks; see docs/performance.md."""

_OFFLINE_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""known: S3 API reference, x-amz-storage-class; GLACIER_IR is on-line."""

_ERRORS: Final = create_parser("rest-xml")


async def head_object(link: Link, place: ObjectPlace, *, even_offline: bool = False) -> ObjectHead:
    """Return what HEAD says, `even_offline` of an object that cannot be read now.

    Raises `ObjectOffline` and `ConfigFault`; lets the errors of the libraries through.
    """
    asked = {"ChecksumMode": "ENABLED"} if link.checksums else {}
    answer = await link.client.head_object(Bucket=place.bucket, Key=place.key, **asked)
    if not even_offline:
        _refuse_offline(answer, place)
    if not answer.get("ETag") or "ContentLength" not in answer:
        raise ConfigFault(f"{place}: HEAD was answered without ETag or length; is s3.endpoint_url an S3 server?")
    version_id = answer.get("VersionId")
    return ObjectHead(
        size_bytes=answer["ContentLength"],
        etag=answer["ETag"],
        version_id=None if version_id == "null" else version_id,
        checksums=stored_in(answer["ResponseMetadata"]["HTTPHeaders"], answer["ETag"]),
    )


async def get_object(
    link: Link,
    place: ObjectPlace,
    *,
    start_byte: int = 0,
    end_byte: int | None = None,
    pin: ObjectHead | None = None,
    expected_bytes: int | None = None,
) -> tuple[ObjectHead, Body]:
    """GET an object, from `start_byte` to before `end_byte` or to its end; return what the answer says it is, and its
    bytes.

    With `pin` it is that very object. An answer that does not tell its length, or another than `expected_bytes`, is not
    believed by itself: HEAD is asked for it, and the object again, pinned to that. Raises `ObjectChanged` when the
    answer is of any other object, or is not the range asked for, `ConfigFault` when it is not S3's; lets the errors of
    the libraries through.
    """
    if pin is not None and pin.version_id is not None and not pin.etag.startswith("W/"):
        # By ETag first: to name a version is another right (known: s3:GetObjectVersion), which a reader may lack.
        try:
            return await _get_object(link, place, start_byte=start_byte, end_byte=end_byte, pin=pin, by_version=False)
        except ClientError as refusal:
            if refusal.response.get("ResponseMetadata", {}).get("HTTPStatusCode") not in (404, 412):
                raise
        except ObjectChanged:
            pass  # the key has a newer version; ours may still be there
    return await _get_object(
        link,
        place,
        start_byte=start_byte,
        end_byte=end_byte,
        pin=pin,
        by_version=True,
        expected_bytes=expected_bytes,
    )


async def _get_object(
    link: Link,
    place: ObjectPlace,
    *,
    start_byte: int,
    end_byte: int | None,
    pin: ObjectHead | None,
    by_version: bool,
    expected_bytes: int | None = None,
) -> tuple[ObjectHead, Body]:
    version_id = pin.version_id if pin and by_version else None
    request = signed_get(
        await link.address(place.bucket),
        place.key,
        await link.keys(),
        at_s=time.time(),
        version_id=version_id,
        if_match=pin.etag if pin and version_id is None and pin.resumable else None,
        start_byte=start_byte,
        end_byte=end_byte,
        checksums=link.checksums and pin is None,
    )
    response = await link.wire.get(request.url, request.headers)
    if response.status >= 300:
        raise await _refusal(response)
    try:
        if pin is not None:
            end_byte = pin.size_bytes if end_byte is None else end_byte
            if difference := _difference(response, pin, start_byte, end_byte):
                raise ObjectChanged(f"{place}: {difference}")
            return pin, _body(link, response, end_byte - start_byte, resumable=pin.resumable)
        if (head := _described(response, place)) is not None and expected_bytes in (None, head.size_bytes):
            return head, _body(link, response, head.size_bytes, resumable=head.resumable)
    except BaseException:  # raised again: a connection that is not given back would be missed by all later reads
        response.close()
        raise
    response.close()
    return await get_object(link, place, pin=await head_object(link, place))


async def in_words(link: Link, place: ObjectPlace, ask: Callable[[], Awaitable[T]]) -> T:
    """Return what `ask` returns. Where it is refused and our keys may be the reason, the bucket is asked to be sure.

    A HEAD is refused without words. A GET says that the signature is wrong, and where some proxy rewrites the path of
    one object, the keys are right all the same: the bucket has no such path.
    """
    try:
        return await ask()
    except ClientError as refusal:
        wordless = is_wordless(refusal) and not isinstance(translate(refusal, place), SigningRefused)
        if wordless or is_about_the_signature(refusal):
            try:
                await link.client.get_bucket_versioning(Bucket=place.bucket)
            except LIBRARY_ERRORS as reason:
                if isinstance(translate(reason, place), SigningRefused | StorageThrottled | StorageTimeout):
                    raise reason from refusal
        if is_about_the_signature(refusal):
            raise ObjectForbidden(
                f"{place}: the S3 server answered SignatureDoesNotMatch, and takes our keys for the bucket; does a "
                "proxy rewrite the paths of objects?"
            ) from refusal
        raise


def _body(link: Link, response: aiohttp.ClientResponse, left_bytes: int, *, resumable: bool) -> Body:
    """Return what reads the answer's body: the way that costs least, for its length and what is here already.

    Over TLS not directly what cannot be resumed: when the server hangs up behind a body while nobody reads, asyncio
    hands a `BufferedProtocol` but one more room full of what it holds, at most 0.5 MiB (known: CPython's `sslproto`).
    """
    framed = response.headers.get("Content-Length") == str(left_bytes)
    whole_tail = resumable or not link.tls
    if framed and whole_tail and left_bytes >= DIRECT_FROM_BYTES and response.connection is not None:
        return DirectStream(response, left_bytes, idle_timeout_s=link.wire.idle_timeout_s)
    return ByteStream(response)


def _described(response: aiohttp.ClientResponse, place: ObjectPlace) -> ObjectHead | None:
    """Return what an answer to an unpinned GET says of the object, or None when it says no length."""
    headers = response.headers
    etag = _fact(headers, "ETag")
    if response.status != 200 or etag is None:
        raise ConfigFault(f"{place}: GET was answered {response.status}, ETag {etag}; is s3.endpoint_url an S3 server?")
    length = headers.get("Content-Length", "")
    if not length.isdecimal():
        return None
    version_id = _fact(headers, "x-amz-version-id")
    return ObjectHead(
        size_bytes=int(length),
        etag=etag,
        version_id=None if version_id == "null" else version_id,
        checksums=stored_in(headers, etag),
    )


def _difference(response: aiohttp.ClientResponse, head: ObjectHead, start_byte: int, end_byte: int) -> str | None:
    """Return how the answer differs from what was asked for, or None."""
    headers = response.headers
    left_bytes = end_byte - start_byte
    facts: list[tuple[str, object, object]] = [
        ("ETag", head.etag, headers.get("ETag")),
        ("status", 200 if left_bytes == head.size_bytes else 206, response.status),
        ("length", str(left_bytes), headers.get("Content-Length", str(left_bytes))),
    ]
    if head.version_id is not None:
        facts.append(("version", head.version_id, headers.get("x-amz-version-id", head.version_id)))
    if left_bytes != head.size_bytes:
        asked = f"bytes {start_byte}-{end_byte - 1}/{head.size_bytes}"
        facts.append(("range", asked, headers.get("Content-Range")))
    for name, expected, found in facts:
        if found != expected:
            return f"not the object that was described: {name} is {found!r}, not {expected!r}"
    return None


async def _refusal(response: aiohttp.ClientResponse) -> ClientError:
    """Return what botocore would raise for this answer."""
    headers = plain_headers(response)
    body = await first_bytes(response)
    parsed: dict[str, Any] = {}
    with contextlib.suppress(*NO_XML_OF_S3):
        parsed = _ERRORS.parse({"status_code": response.status, "headers": headers, "body": body}, None)
    told = parsed.get("Error")
    if not (isinstance(told, dict) and isinstance(told.get("Code"), str)):
        parsed = {"Error": {"Code": str(response.status)}}
    parsed["ResponseMetadata"] = {"HTTPStatusCode": response.status, "HTTPHeaders": headers}
    return ClientError(parsed, "GetObject")


def _fact(headers: Mapping[str, str], name: str) -> str | None:
    """Return what a header says, None also for what could not be said back to the server or kept."""
    value = headers.get(name)
    return value if value and value.isascii() and value.isprintable() else None


def _refuse_offline(answer: dict[str, Any], place: ObjectPlace) -> None:
    state = (
        answer.get("StorageClass") if answer.get("StorageClass") in _OFFLINE_CLASSES else answer.get("ArchiveStatus")
    )
    restore = answer.get("Restore", "")
    if state and 'ongoing-request="false"' not in restore:
        problem = "a restore is under way" if 'ongoing-request="true"' in restore else "restore it first"
        raise ObjectOffline(f"{place}: the object is off-line in {state}; {problem}")
