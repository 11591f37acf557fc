"""
Everything this project raises on purpose, and the closed list of error classes.

HashmillError
  EventInvalid            what was posted is no event; every fault is listed
  IdempotencyConflict     the same idempotency key came with another event
  ReplayRefused           what was asked to be replayed cannot be, now
  Transient               the same work may succeed later
    StorageThrottled      s3.throttled
    StorageTimeout        s3.timeout
    ObjectTruncated       s3.truncated
    ObjectChanged         s3.changed_during_read
    ApiUnavailable        api.unavailable
    LedgerUnavailable     internal
  FileFault               this file cannot succeed; the run goes on
    ObjectMissing         s3.not_found
    ObjectForbidden       s3.forbidden
    ObjectOffline         s3.offline
    ChecksumDiffers       s3.checksum_differs
    ApiRejected           api.rejected
    AlgorithmFailed       internal
  RunFault                no file of this run can succeed
    ApiAuth               api.auth
    SecretExpired         secret_expired
    OriginRefused         config
  HouseFault              ours to repair; wake a person
    ConfigFault           config
      SigningRefused      config
    LeaseLost             lease_lost
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class ErrorClass(StrEnum):
    """The closed list of error classes: stable names, seen in the ledger, the API and metrics."""

    S3_NOT_FOUND = "s3.not_found"
    S3_FORBIDDEN = "s3.forbidden"
    S3_THROTTLED = "s3.throttled"
    S3_TIMEOUT = "s3.timeout"
    S3_OFFLINE = "s3.offline"
    S3_TRUNCATED = "s3.truncated"
    S3_CHANGED_DURING_READ = "s3.changed_during_read"
    S3_CHECKSUM_DIFFERS = "s3.checksum_differs"
    API_AUTH = "api.auth"
    API_REJECTED = "api.rejected"
    API_UNAVAILABLE = "api.unavailable"
    CONFIG = "config"
    SECRET_EXPIRED = "secret_expired"  # noqa: S105 - the name of an error class
    INTERNAL = "internal"
    LEASE_LOST = "lease_lost"
    POISON = "poison"
    CANCELLED = "cancelled"


class HashmillError(Exception):
    """The root of what this project raises on purpose."""

    error_class: ClassVar[ErrorClass] = ErrorClass.INTERNAL


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFault:
    """One thing that is wrong in a posted event.

    `path` is a JSON path (`$.labdrive.job.id`); `problem` says what to do about it.
    """

    path: str
    problem: str


class EventInvalid(HashmillError):
    """What was posted is no event; every fault is listed."""

    def __init__(self, faults: Sequence[EventFault]) -> None:
        super().__init__("; ".join(f"{fault.path}: {fault.problem}" for fault in faults))
        self.faults = tuple(faults)


class IdempotencyConflict(HashmillError):
    """The same idempotency key came with another event."""


class ReplayRefused(HashmillError):
    """What was asked to be replayed cannot be, now."""


class Transient(HashmillError):
    """The same work may succeed later.

    `retry_after_s` is the pause the other side asked for, in seconds, or None.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageThrottled(Transient):
    """The S3 server asked for fewer requests (SlowDown, 503, 429)."""

    error_class = ErrorClass.S3_THROTTLED


class StorageTimeout(Transient):
    """The S3 server did not answer, refused the connection, or sent too slowly."""

    error_class = ErrorClass.S3_TIMEOUT


class ObjectTruncated(Transient):
    """The stream ended before Content-Length bytes had arrived, and resuming did not help."""

    error_class = ErrorClass.S3_TRUNCATED

    def __init__(self, key: str, *, expected_bytes: int, received_bytes: int) -> None:
        super().__init__(f"{key}: received {received_bytes} of {expected_bytes} bytes")
        self.key = key
        self.expected_bytes = expected_bytes
        self.received_bytes = received_bytes


class ObjectChanged(Transient):
    """The object was replaced while it was being read."""

    error_class = ErrorClass.S3_CHANGED_DURING_READ


class ApiUnavailable(Transient):
    """LABDRIVE did not answer, answered 408, 425, 429 or 5xx, or answered something that is not its JSON.

    `uncertain` says that it may have done what it was asked all the same: the call was sent and its answer lost.
    """

    error_class = ErrorClass.API_UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float | None = None, uncertain: bool = False) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.uncertain = uncertain


class LedgerUnavailable(Transient):
    """The ledger database could not be reached, or refused to work."""

    error_class = ErrorClass.INTERNAL


class FileFault(HashmillError):
    """This file cannot succeed; the run goes on."""


class ObjectMissing(FileFault):
    """There is no such bucket, key or version."""

    error_class = ErrorClass.S3_NOT_FOUND


class ObjectForbidden(FileFault):
    """The S3 credentials may not read this object."""

    error_class = ErrorClass.S3_FORBIDDEN


class ObjectOffline(FileFault):
    """The object is in an off-line storage class and must be brought on-line first."""

    error_class = ErrorClass.S3_OFFLINE


class ChecksumDiffers(FileFault):
    """The S3 server stores a checksum that is not the one of the bytes we read from it."""

    error_class = ErrorClass.S3_CHECKSUM_DIFFERS


class ApiRejected(FileFault):
    """LABDRIVE understood the call and refused it (4xx other than 401, 403, 408, 425, 429; or success false)."""

    error_class = ErrorClass.API_REJECTED

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AlgorithmFailed(FileFault):
    """A digest algorithm raised while it was being fed."""

    error_class = ErrorClass.INTERNAL


class RunFault(HashmillError):
    """No file of this run can succeed."""


class ApiAuth(RunFault):
    """LABDRIVE refused the key: 401 for all it is used for, 403 for this one thing."""

    error_class = ErrorClass.API_AUTH

    def __init__(self, message: str, *, status: int = 401) -> None:
        super().__init__(message)
        self.status = status


class SecretExpired(RunFault):
    """The run's keys were wiped, or were sealed with a key this process does not have."""

    error_class = ErrorClass.SECRET_EXPIRED


class OriginRefused(RunFault):
    """The event names an API address that is not on the allow-list of origins."""

    error_class = ErrorClass.CONFIG


class HouseFault(HashmillError):
    """Ours to repair; wake a person."""


class ConfigFault(HouseFault):
    """A setting is missing or makes no sense; the message names it and says what to write."""

    error_class = ErrorClass.CONFIG


class SigningRefused(ConfigFault):
    """The S3 server refuses whatever is signed here: the clock is off, or the keys are wrong. Not the files' fault."""


class LeaseLost(HouseFault):
    """Somebody else holds the lease now; what this process computed is not written."""

    error_class = ErrorClass.LEASE_LOST
