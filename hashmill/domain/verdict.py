"""What a check found: a verdict, never a boolean."""

from enum import StrEnum


class Verdict(StrEnum):
    """`unreadable` is not `mismatch`: an error is never recorded as a mismatch.

    The last three are of `attest`, which reads nothing, and so is no check: the S3 server states of the same version
    what we once computed, or something else, or nothing that could be compared with it.
    """

    MATCH = "match"
    MISMATCH = "mismatch"
    CHANGED = "changed"
    UNREADABLE = "unreadable"
    NO_BASELINE = "no_baseline"
    ATTESTED = "attested"
    DISPUTED = "disputed"
    UNATTESTED = "unattested"
