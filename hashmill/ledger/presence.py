"""Who is there: the leader, the processes that live, and what they say of themselves and of the S3 servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from hashmill.domain.origin import origin_of
from hashmill.domain.text import one_line
from hashmill.ledger import leases
from hashmill.ledger.leases import Lease

KERNELS: Final = ("on", "slow", "absent", "off")
"""What a worker may say of its hash kernel; `hashmill.hashing.fused.Serving` has the same."""
UNKNOWN: Final = "unknown"
_NAMED: Final = (*KERNELS, UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayStorage:
    """An S3 server that `processes` living processes find away, one of them for `for_s`; `reason` is what it saw."""

    address: str
    processes: int
    for_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """The leader's lease and those of the processes, living and lapsed.

    A process of another version may say less of itself, or something else: that counts as nothing said.
    """

    leader: Lease | None
    processes: Sequence[Lease]

    @property
    def leading(self) -> Lease | None:
        """The leader's lease while it holds."""
        return self.leader if self.leader is not None and self.leader.remaining_s > 0 else None

    @property
    def living(self) -> Sequence[Lease]:
        return [lease for lease in self.processes if lease.remaining_s > 0]

    @property
    def slots(self) -> int:
        return sum(slots_of(lease) for lease in self.living)

    @property
    def on_trial(self) -> int:
        """How many processes have a suspect in hand: files that lost their worker, read apart."""
        return sum(lease.detail.get("on_trial") is True for lease in self.living)

    @property
    def kernels(self) -> Mapping[str, int]:
        """How many workers hash with which kernel, as they name it: `on`, `slow`, `absent`, `off`; else `unknown`."""
        told = [lease.detail.get("kernel") for lease in self.living if slots_of(lease)]
        return {name: sum((kernel if kernel in KERNELS else UNKNOWN) == name for kernel in told) for name in _NAMED}

    @property
    def storages_away(self) -> Sequence[AwayStorage]:
        """The S3 servers that somebody finds away, by address."""
        found: dict[str, AwayStorage] = {}
        for lease in self.living:
            for told in _away_by(lease):
                known = found.get(told.address, told)
                longest = max(known, told, key=lambda away: away.for_s)
                found[told.address] = AwayStorage(
                    address=told.address,
                    processes=told.processes + (known.processes if known is not told else 0),
                    for_s=longest.for_s,
                    reason=longest.reason,
                )
        return [found[address] for address in sorted(found)]


def presence(connection: sa.Connection, *, leader: str) -> Presence:
    """Return who is there; `leader` is the name of the leader's lease."""
    return Presence(
        leader=next((lease for lease in leases.listed(connection, leader) if lease.name == leader), None),
        processes=leases.listed(connection, leases.PROCESS),
    )


def slots_of(lease: Lease) -> int:
    """Return how many tickets the process of this lease works at once."""
    slots = lease.detail.get("slots", 0)
    return slots if isinstance(slots, int) else 0


def storage_address(text: str) -> str:
    """Return how an S3 server is named to people: its origin, or its region where it is AWS.

    Never credentials: neither those in an address, nor a key's id behind a blank.
    """
    address = text.partition(" ")[0]
    try:
        return origin_of(address)
    except ValueError:
        return "an S3 server" if {"/", "@"} & set(address) else one_line(address)


def _away_by(lease: Lease) -> list[AwayStorage]:
    found = []
    for told in told_list if isinstance(told_list := lease.detail.get("storages_away"), list) else []:
        match told:
            case {"address": str(address), "for_s": int() | float() as for_s, "reason": str(reason)}:
                found.append(AwayStorage(address=address, processes=1, for_s=for_s, reason=reason))
    return found
