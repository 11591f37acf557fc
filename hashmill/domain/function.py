"""A researcher's function, what it may take, and what came of running it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a function is written as."""

    HANDLER = "handler"
    NOTEBOOK = "notebook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function as it was added; `source` are its bytes."""

    name: str
    kind: Kind
    source: bytes

    @property
    def sha256(self) -> str:
        """The digest of the source, by which an entry names what ran."""
        return hashlib.sha256(self.source).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may take: seconds of the clock, memory of its process, bytes of its prints and of any one file."""

    time_s: float = 600.0
    memory_bytes: int = 4 << 30
    output_max_bytes: int = 1 << 20
    file_max_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message for the job."""

    text: str
    level: str
    file_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came of one run. `fault` is empty when it returned and did not say itself that it failed.

    `output` is what it printed, `complaints` what it wrote to standard error, as a traceback. `hashes` are by file id
    and algorithm. `executed` is a notebook with its outputs.
    """

    fault: str
    output: str
    complaints: str = ""
    messages: tuple[Message, ...] = ()
    hashes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    executed: bytes | None = None
    wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a run has its function do: `event` is what is the same for each of its files, without keys."""

    function: Function
    event: Mapping[str, Any]
