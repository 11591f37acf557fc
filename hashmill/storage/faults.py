"""The wall: what botocore and aiohttp raise becomes one of our errors here, once."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
)
from botocore.parsers import ResponseParserError

from hashmill.domain.errors import (
    ConfigFault,
    HashmillError,
    ObjectChanged,
    ObjectForbidden,
    ObjectMissing,
    ObjectOffline,
    SigningRefused,
    StorageThrottled,
    StorageTimeout,
)
from hashmill.storage.config import ObjectPlace, printable

LIBRARY_ERRORS: Final = (BotoCoreError, ClientError, aiohttp.ClientError, HttpProcessingError, OSError, ValueError)
"""What a request can raise. OSError holds time-outs, refused connections and unknown host names; ValueError is what
aiohttp says of a header it cannot write."""

NO_XML_OF_S3: Final = (AttributeError, LookupError, TypeError, ValueError, ResponseParserError)
"""What botocore's parser raises over a body that is XML and not S3's, or none at all."""

# known: the S3 API reference, "Error responses"; a HEAD has no body, so botocore gives its status as the code.
_MISSING: Final = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion"})
_REDIRECTED: Final = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_THROTTLED: Final = frozenset(
    {
        "SlowDown",
        "ServiceUnavailable",
        "RequestLimitExceeded",
        "TooManyRequests",
        "TooManyRequestsException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "BandwidthLimitExceeded",
    }
)
_KEYS_REFUSED: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "InvalidSecurity",
    }
)
_WORDLESS: Final = frozenset({"400", "401", "403"})
_CLOCK_SKEW_MAX_S: Final = 900.0  # known: S3 refuses a signature whose time is off by more than 15 minutes


def translate(error: BaseException, place: ObjectPlace) -> HashmillError:
    """Return our error for `error`, one of `LIBRARY_ERRORS`; its message names the object and never a key."""
    said = printable(error, 500)
    match error:
        case ClientError():
            return _answered(error.response, place)
        case aiohttp.ClientConnectorCertificateError():
            return ConfigFault(f"{place}: the certificate of {error.host}:{error.port} is not trusted: {said}")
        case CredentialRetrievalError() | MetadataRetrievalError() | HTTPClientError():
            return StorageTimeout(f"{place}: {said}")
        case BotoCoreError() | ValueError():  # also aiohttp.InvalidURL
            return ConfigFault(f"{place}: {said}. Check the settings under [s3]")
        case _:
            return StorageTimeout(f"{place}: no answer from the S3 server: {type(error).__name__}: {said}")


def is_wordless(error: ClientError) -> bool:
    """Return whether `error` is a refusal that may be of the keys, and whose answer had no body to say so."""
    return error.response.get("Error", {}).get("Code") in _WORDLESS


def is_about_the_signature(error: ClientError) -> bool:
    """Return whether the server found another signature: of wrong keys, or of a path that was rewritten on the way."""
    return bool(error.response.get("Error", {}).get("Code") == "SignatureDoesNotMatch")


def _answered(answer: dict[str, Any], place: ObjectPlace) -> HashmillError:
    metadata = answer.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    headers: dict[str, str] = metadata.get("HTTPHeaders", {})
    details: dict[str, Any] = answer.get("Error", {})
    code = _word(details.get("Code"))
    said = f"{place}: the S3 server answered {status} {code}".removesuffix(f" {status}")

    if code == "InvalidObjectState":
        return ObjectOffline(f"{said}: the object is in an off-line storage class; restore it first")
    if code in _REDIRECTED or 300 <= status < 400:
        return ConfigFault(f"{said}; redirects are not followed. {_right_place(details, headers)}")
    if code == "RequestTimeTooSkewed" or (status == 403 and _clock_is_off(headers)):
        return SigningRefused(f"{said}: this machine's clock is more than 15 minutes off; set it")
    if code in _KEYS_REFUSED:
        return SigningRefused(
            f"{said}: it refuses our keys; write the right s3.access_key_id and s3.secret_access_key, or those of this "
            "tenant or storage, with s3.session_token where they need one, and restart the workers"
        )
    if code in _MISSING or status == 404:
        return ObjectMissing(said)
    if status in (412, 416):
        return ObjectChanged(f"{said}: the object is no longer the one that was described")
    if code in _THROTTLED or status in (429, 503):
        return StorageThrottled(said, retry_after_s=_retry_after_s(headers))
    if status in (501, 505):
        return ConfigFault(f"{said}: the server cannot do what was asked; is s3.endpoint_url an S3 server?")
    if status >= 500 or status == 408 or code == "RequestTimeout":
        return StorageTimeout(said, retry_after_s=_retry_after_s(headers))
    if code == "InvalidBucketName":
        return ConfigFault(f"{said}: no bucket can have this name; check s3.bucket and the template in labdrive.toml")
    if code == "400":
        # known: AWS answers so to a HEAD signed for another region or with an expired session token.
        return ConfigFault(f"{said}; check s3.region and s3.session_token")
    return ObjectForbidden(said)


def _word(value: object) -> str:
    """Return a server's word, or a placeholder for what could not be one: it goes to logs and pages."""
    word = str(value)
    return word if re.fullmatch(r"[\w.:/-]{1,200}", word, re.ASCII) else "(unreadable)"


def _right_place(details: dict[str, Any], headers: dict[str, str]) -> str:
    region = headers.get("x-amz-bucket-region") or details.get("Region")
    endpoint = details.get("Endpoint") or headers.get("location")
    advice = [f"set s3.region = {_word(region)}"] if region else []
    advice += [f"set s3.endpoint_url to {_word(endpoint)}"] if endpoint else []
    return (
        f"If that is where the bucket is, {' and '.join(advice)}" if advice else "Check s3.region and s3.endpoint_url"
    )


def _clock_is_off(headers: dict[str, str]) -> bool:
    """Tell a clock that is off from a key that is wrong, where HEAD's 403 has no body to say so."""
    try:
        theirs = parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, OverflowError):
        return False
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    return abs((datetime.now(UTC) - theirs).total_seconds()) > _CLOCK_SKEW_MAX_S


def _retry_after_s(headers: dict[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d{1,6}", value, re.ASCII) else None
