"""What to do about each error class: the first thing a person should try."""

from typing import assert_never

from hashmill.domain.errors import ErrorClass


def advice(error_class: ErrorClass) -> str:
    """Return one sentence; after it, a replay reads the files again."""
    match error_class:
        case ErrorClass.S3_NOT_FOUND:
            return "Check bucket and key: [objects] in config/labdrive.toml, s3.bucket; or the object is really gone."
        case ErrorClass.S3_FORBIDDEN:
            return "Let the S3 credentials read these objects; `hashmill doctor --key KEY` tries one."
        case ErrorClass.S3_THROTTLED:
            return "The S3 server was overloaded: read with fewer slots, or later."
        case ErrorClass.S3_TIMEOUT:
            return "The S3 server did not answer in time: check it, and s3.connect_timeout_s and s3.idle_timeout_s."
        case ErrorClass.S3_OFFLINE:
            return "Bring the objects back from their off-line storage class first."
        case ErrorClass.S3_TRUNCATED:
            return "Streams ended early: look at proxies and load balancers between here and the S3 server."
        case ErrorClass.S3_CHANGED_DURING_READ:
            return "Objects were replaced while they were read: wait until the upload is over."
        case ErrorClass.S3_CHECKSUM_DIFFERS:
            return (
                "S3 states another checksum than we found: see the entry, look for a sound copy; s3.provider_checksums "
                "stops asking a server that states wrong ones."
            )
        case ErrorClass.API_AUTH:
            return (
                "LABDRIVE refused the event's key: post the same event with one that may do this, then replay the run."
            )
        case ErrorClass.API_REJECTED:
            return "LABDRIVE refused the call: compare config/labdrive.toml with your platform's reference."
        case ErrorClass.API_UNAVAILABLE:
            return "LABDRIVE did not answer: check it with `hashmill doctor`."
        case ErrorClass.CONFIG:
            return "A setting is wrong: the detail names it; `hashmill doctor` checks them all."
        case ErrorClass.SECRET_EXPIRED:
            return "The event's keys are gone: post the same event again, which seals them anew, then replay the run."
        case ErrorClass.INTERNAL:
            return "Look for the traceback in the workers' logs."
        case ErrorClass.LEASE_LOST:
            return "A worker stopped in mid-work; its files are taken back by themselves."
        case ErrorClass.POISON:
            return "These files took their worker down again and again: look at the workers' logs and memory."
        case ErrorClass.CANCELLED:
            return "Somebody cancelled it."
        case _:
            assert_never(error_class)


def advice_for(name: str) -> str:
    """Return the advice for a class as the ledger spells it; empty for one of another version."""
    known = {member.value: member for member in ErrorClass}
    return advice(known[name]) if name in known else ""
