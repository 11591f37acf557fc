import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError, ParamValidationError

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
from hashmill.storage.config import ObjectPlace
from hashmill.storage.faults import LIBRARY_ERRORS, translate
from tests.helpers.s3_answers import client_error

PLACE = ObjectPlace(bucket="bucket", key="a key")


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (404, "NoSuchKey", ObjectMissing),
        (404, "NoSuchBucket", ObjectMissing),
        (404, "NoSuchVersion", ObjectMissing),
        (404, None, ObjectMissing),
        (403, "AccessDenied", ObjectForbidden),
        (403, "SignatureDoesNotMatch", SigningRefused),
        (403, "InvalidAccessKeyId", SigningRefused),
        (403, None, ObjectForbidden),
        (401, None, ObjectForbidden),
        (400, "ExpiredToken", SigningRefused),
        (400, "InvalidToken", SigningRefused),
        (400, "TokenRefreshRequired", SigningRefused),
        (418, "Teapot", ObjectForbidden),
        (403, "InvalidObjectState", ObjectOffline),
        (412, "PreconditionFailed", ObjectChanged),
        (416, "InvalidRange", ObjectChanged),
        (503, "SlowDown", StorageThrottled),
        (503, None, StorageThrottled),
        (429, None, StorageThrottled),
        (400, "RequestLimitExceeded", StorageThrottled),
        (500, "InternalError", StorageTimeout),
        (502, None, StorageTimeout),
        (504, None, StorageTimeout),
        (501, "NotImplemented", ConfigFault),
        (505, None, ConfigFault),
        (400, "RequestTimeout", StorageTimeout),
        (403, "RequestTimeTooSkewed", SigningRefused),
        (400, "InvalidBucketName", ConfigFault),
        (400, None, ConfigFault),
        (301, "PermanentRedirect", ConfigFault),
        (307, None, ConfigFault),
        (400, "AuthorizationHeaderMalformed", ConfigFault),
    ],
)
def test_each_answer_becomes_one_fault_that_names_the_object(
    status: int, code: str | None, fault: type[HashmillError]
) -> None:
    found = translate(client_error(status, code), PLACE)

    assert type(found) is fault
    assert str(found).startswith(f"s3://bucket/a key: the S3 server answered {status}")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (NoCredentialsError(), ConfigFault),
        (ParamValidationError(report="bad bucket"), ConfigFault),
        (aiohttp.InvalidURL("nonsense"), ConfigFault),
        (CredentialRetrievalError(provider="iam", error_msg="busy"), StorageTimeout),
        (aiohttp.ServerDisconnectedError(), StorageTimeout),
        (aiohttp.ConnectionTimeoutError(), StorageTimeout),
        (ConnectionResetError(), StorageTimeout),
        (socket.gaierror(-2, "Name or service not known"), StorageTimeout),
    ],
)
def test_each_failure_without_an_answer_becomes_one_fault(error: Exception, fault: type[HashmillError]) -> None:
    assert isinstance(error, LIBRARY_ERRORS)
    assert type(translate(error, PLACE)) is fault


def test_refused_keys_name_the_settings_to_repair() -> None:
    found = translate(client_error(403, "InvalidAccessKeyId"), PLACE)

    assert "write the right s3.access_key_id and s3.secret_access_key" in str(found)


def test_a_redirect_says_which_settings_would_be_right() -> None:
    found = translate(
        client_error(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-3"}, Endpoint="b.s3.example"),
        PLACE,
    )

    assert "set s3.region = eu-west-3 and set s3.endpoint_url to b.s3.example" in str(found)


def test_a_server_cannot_write_into_our_messages() -> None:
    found = translate(client_error(403, "Access\nDenied <b>\x1b[31m"), PLACE)

    assert str(found) == "s3://bucket/a key: the S3 server answered 403 (unreadable)"


def test_a_403_from_a_server_whose_clock_differs_is_about_the_clock() -> None:
    theirs = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)

    assert type(translate(client_error(403, headers={"date": theirs}), PLACE)) is SigningRefused
    assert type(translate(client_error(403, headers={"date": "whenever"}), PLACE)) is ObjectForbidden


@pytest.mark.parametrize(("value", "retry_after_s"), [("7", 7.0), ("soon", None), ("-1", None), ("", None)])
def test_the_pause_the_server_asks_for_is_passed_on(value: str, retry_after_s: float | None) -> None:
    found = translate(client_error(503, "SlowDown", headers={"retry-after": value}), PLACE)

    assert isinstance(found, StorageThrottled)
    assert found.retry_after_s == retry_after_s


def test_a_place_can_be_logged_whatever_its_key_is() -> None:
    assert str(ObjectPlace(bucket="b", key="ü\n\x1b[1m\ud800/ x")) == "s3://b/ü\\n\\x1b[1m\\ud800/ x"
