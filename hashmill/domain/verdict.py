"""What a check found: a verdict, never a boolean."""

from enum import StrEnum


class Verdict(StrEnum):
    """`unreadable` is not `mismatch`: an error is never recorded as a mismatch."""

    MATCH = "match"
    MISMATCH = "mismatch"
    CHANGED = "changed"
    UNREADABLE = "unreadable"
    NO_BASELINE = "no_baseline"
