"""What can go wrong, each with what to do about it. Every error is a `LibnovaError`."""

__all__ = [
    "AnswerUnreadable",
    "ApiRejected",
    "ApiUnavailable",
    "EventInvalid",
    "KeyMissing",
    "KeyRefused",
    "LibnovaError",
    "NotDelivered",
    "NotFound",
    "ObjectChanged",
    "SettingMissing",
    "StorageRefused",
    "StorageUnavailable",
    "TableInvalid",
]


class LibnovaError(Exception):
    """Something of LABDRIVE or its storage did not work."""


class EventInvalid(LibnovaError):
    """What a function was called with, or a notebook wrote, is no event of LABDRIVE."""


class TableInvalid(LibnovaError):
    """A line of `labdrive.toml`, or of the file that LIBNOVA_TABLE names, cannot be used."""


class SettingMissing(LibnovaError):
    """Something that only the environment can say was not said."""


class KeyMissing(LibnovaError):
    """There is no API key."""


class KeyRefused(LibnovaError):
    """LABDRIVE does not accept the API key, or the key may not do this."""


class NotFound(LibnovaError):
    """LABDRIVE knows no such file, job or container."""


class NotDelivered(LibnovaError):
    """Whoever runs this code delivers what it tells, and would not deliver this. Nothing was written."""


class ApiRejected(LibnovaError):
    """LABDRIVE understood the call and refused it, or what was given is nothing that it could be called with."""


class ApiUnavailable(LibnovaError):
    """LABDRIVE cannot be reached, or says that it is out of order. Asked again as often as makes sense."""


class AnswerUnreadable(LibnovaError):
    """Something answered that does not speak as LABDRIVE does."""


class StorageRefused(LibnovaError):
    """The S3 server does not accept the key pair, or it may not read this."""


class StorageUnavailable(LibnovaError):
    """The S3 server cannot be reached or broke off. Asked again as often as makes sense."""


class ObjectChanged(LibnovaError):
    """The object was written anew while it was read: what was read is of no version."""
