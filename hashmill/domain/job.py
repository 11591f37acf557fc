"""What a run, a file, an outbox row and a LABDRIVE job can be, and what may follow what."""

from enum import StrEnum
from typing import assert_never


class JobStatus(StrEnum):
    """LABDRIVE's job states as far as they are public (known: the seed). Wire names stand in `labdrive.toml`."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class Mode(StrEnum):
    """What a run does with its files: `hash` reads them; `attest` reads none, and asks what the S3 server states;
    `function` runs a researcher's function for each.
    """

    HASH = "hash"
    ATTEST = "attest"
    FUNCTION = "function"


class RunState(StrEnum):
    """The life of one accepted event.

    accepted → expanding (files being listed) → running → settled (no open file; the closing
    reports are owed) → closing (they are being delivered) → completed | failed | cancelled.
    """

    ACCEPTED = "accepted"
    EXPANDING = "expanding"
    RUNNING = "running"
    SETTLED = "settled"
    CLOSING = "closing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the run by itself; only a replay opens it again."""
        match self:
            case RunState.COMPLETED | RunState.FAILED | RunState.CANCELLED:
                return True
            case RunState.ACCEPTED | RunState.EXPANDING | RunState.RUNNING | RunState.SETTLED | RunState.CLOSING:
                return False
            case _:
                assert_never(self)


class FileState(StrEnum):
    """The life of one file of a run: ready → queued → running → done | failed | dead | cancelled.

    `dead` is a file that lost its lease too often (error class `poison`).
    """

    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


class OutboxState(StrEnum):
    """The life of one report owed to LABDRIVE: owed → sending → sent | dead."""

    OWED = "owed"
    SENDING = "sending"
    SENT = "sent"
    DEAD = "dead"


class ReportKind(StrEnum):
    """What a report to LABDRIVE is."""

    STATUS = "status"
    MESSAGE = "message"
    HASH = "hash"


class MessageType(StrEnum):
    """Job message types. INFO is known (the seed); ERROR is assumed and falls back to INFO by `labdrive.toml`."""

    INFO = "INFO"
    ERROR = "ERROR"


class SizeClass(StrEnum):
    """How files are batched: tiny in large tickets, normal in small ones, big alone in a queue of its own."""

    TINY = "tiny"
    NORMAL = "normal"
    BIG = "big"
