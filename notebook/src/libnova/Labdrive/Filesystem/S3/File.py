"""Reading a file's bytes."""

import logging

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from libnova.errors import LibnovaError, SettingMissing, StorageRefused, StorageUnavailable
from libnova.Labdrive.Api.File import File
from libnova.Labdrive.Filesystem.S3.Storage import Storage
from libnova.Labdrive.Filesystem.S3.stream import Stream

__all__ = ["get_stream"]

log = logging.getLogger(__name__)

_MISSING = ("404", "NoSuchKey", "NoSuchBucket", "NotFound")


def get_stream(storage: Storage, file: File | str) -> Stream | None:
    """Return a seekable stream of the file's bytes, or None when they cannot be had (known: it may be None).

    `file` is one of the request's, or an id.

    None is a file without bytes in the storage, one in an off-line storage class, and a folder. Why is logged as a
    warning, and written to the job of the request whose storage it is. The stream is pinned to the version that is
    there now. Raises `StorageRefused` for keys that the server does not accept, `StorageUnavailable` when it cannot
    be reached, `SettingMissing` without a bucket or for one that is not there, or what a call raises.
    """
    if isinstance(file, str | int):
        file = File(str(file))
    try:
        return _opened(storage, file)
    except _NotThere as error:
        log.warning("file %s was not read: %s", file.id, error)
        if storage.report is not None:
            storage.report(file, str(error))
        return None


class _NotThere(Exception):
    """The file has no bytes that can be read now."""


def _opened(storage: Storage, file: File) -> Stream:
    if file.is_folder:
        raise _NotThere("it is a folder")
    bucket, key = storage.place_of(file)
    try:
        head = storage.client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING or status == 404:
            storage.raise_if_missing(bucket)
            raise _NotThere(f"there is no object {key} in bucket {bucket}") from error
        if status in (401, 403):
            raise StorageRefused(
                f"The S3 server does not let this key pair read {key} in bucket {bucket} ({code}). Make a new pair "
                "under your user name, Access Methods, S3 compatible protocol, and set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY; is the bucket's name right?"
            ) from error
        raise StorageUnavailable(f"The S3 server could not tell of {key} in bucket {bucket}: {error}") from error
    except BotoCoreError as error:
        raise unreachable(error) from error
    if head.get("StorageClass") in _COLD and not head.get("Restore", "").startswith('ongoing-request="false"'):
        raise _NotThere("it is in an off-line storage class; have it brought on-line first")
    return Stream(
        storage.client,
        bucket=bucket,
        key=key,
        size_bytes=int(head["ContentLength"]),
        etag=str(head.get("ETag", "")),
        name=file.name,
    )


_COLD = ("GLACIER", "DEEP_ARCHIVE")


def unreachable(error: BotoCoreError) -> LibnovaError:
    """Return what an error below S3's own means."""
    if isinstance(error, ParamValidationError):
        return SettingMissing(f"No S3 server has such a bucket or key: {error}. Is LIBNOVA_S3_BUCKET right?")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StorageRefused(
            "There is no S3 key pair. Make one under your user name, Access Methods, S3 compatible protocol, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    return StorageUnavailable(f"The S3 server cannot be reached: {error}. Is LIBNOVA_S3_ENDPOINT_URL right?")
