"""The checks of `hashmill doctor`. None of them raises what it is there to find."""

import asyncio
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

import aiohttp

from hashmill import assemble
from hashmill.cli.console import duration, size
from hashmill.cli.opened import opened_ledger, sqlite_file
from hashmill.domain.errors import (
    ConfigFault,
    HashmillError,
    LedgerUnavailable,
    ObjectForbidden,
    ObjectMissing,
    ObjectOffline,
)
from hashmill.domain.secret import Secret
from hashmill.flow.held import TO_DO, HeldBy
from hashmill.flow.lead import LEADER
from hashmill.labdrive.origins import normal_origins
from hashmill.labdrive.wire import WireTable
from hashmill.ledger import entries, gates
from hashmill.ledger.engine import Ledger
from hashmill.ledger.gates import GateKind
from hashmill.ledger.presence import presence
from hashmill.ledger.seal import Sealer
from hashmill.settings import Settings
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import StorageConfig, StoragePace

PATIENCE_S: Final = 10.0
LEDGER_CLOCK_MAX_S: Final = 5.0
S3_CLOCK_MAX_S: Final = 900.0  # known: S3 refuses a signature whose time is off by more than 15 minutes
S3_CLOCK_WARN_S: Final = 60.0
DISK_MIN_BYTES: Final = 104_857_600
DISK_WARN_BYTES: Final = 1_073_741_824


class Outcome(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was found, and what to do about it when that is not good."""

    name: str
    outcome: Outcome
    said: str
    advice: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.said}: {self.advice}" if self.advice else self.said


async def examine(settings: Settings, *, bucket: str | None = None, key: str | None = None) -> list[Check]:
    """Return all checks, in the order they should be repaired in."""
    wire, in_wire = _wire(settings)
    groups = await asyncio.gather(
        asyncio.to_thread(lambda: list(_ledger(settings))),
        asyncio.to_thread(_broker, settings),
        _s3(settings, bucket=bucket, key=key),
        _platforms(settings, wire),
        _s3_clock(settings),
    )
    in_ledger, in_broker, in_s3, in_platforms, in_clock = groups
    return [
        _seal_key(settings),
        in_wire,
        *in_ledger,
        in_broker,
        *in_s3,
        *in_platforms,
        *in_clock,
        _kernel(),
        *_disk(settings),
    ]


def _seal_key(settings: Settings) -> Check:
    try:
        sealer = Sealer(Secret(settings.secrets.seal_key.get_secret_value()))
    except ConfigFault as error:
        return _failed("sealing key", str(error))
    return _ok("sealing key", f"there (its fingerprint {sealer.key_id} must be the same everywhere)")


def _wire(settings: Settings) -> tuple[WireTable | None, Check]:
    try:
        wire = assemble.open_wire(settings)
    except ConfigFault as error:
        return None, _failed("wire table", str(error), f"correct config/{settings.labdrive.wire}")
    return wire, _ok("wire table", f"{settings.labdrive.wire} is read")


def _ledger(settings: Settings) -> Iterator[Check]:
    try:
        with opened_ledger(settings, at_head=False) as ledger:
            ledger.read_now(entries.clock_ms)
            yield _ok("ledger", f"{ledger.engine.dialect.name} answers")
            yield _ledger_clock(ledger)
            try:
                assemble.require_head(ledger)
            except ConfigFault as error:
                yield _failed("ledger's shape", str(error))
                return
            yield _ok("ledger's shape", "is this version's")
            yield from _presence(ledger)
            yield from _gates(ledger)
    except ConfigFault as error:
        yield _failed("ledger", str(error))
    except LedgerUnavailable as error:
        yield _failed("ledger", str(error), "check ledger.url (HASHMILL_LEDGER__URL) and that the database runs")


def _ledger_clock(ledger: Ledger) -> Check:
    before_s = time.time()
    theirs_s = ledger.read_now(entries.clock_ms) / 1000
    after_s = time.time()
    # What the way there and back took is nobody's fault.
    off_s = max(before_s - theirs_s, theirs_s - after_s, 0.0)
    if off_s > LEDGER_CLOCK_MAX_S:
        return _warning(
            "clock, by the ledger",
            f"{off_s:.1f} s apart",
            "let both machines keep time (NTP); leases go by the ledger's",
        )
    return _ok("clock, by the ledger", f"at most {off_s:.1f} s apart")


def _presence(ledger: Ledger) -> Iterator[Check]:
    there = ledger.read_now(lambda connection: presence(connection, leader=LEADER))
    if there.slots:
        yield _ok("workers", f"{len(there.living)} processes with {there.slots} slots")
    else:
        yield _warning("workers", "none lives", TO_DO[HeldBy.WORKER])
    if there.leading:
        yield _ok("leader", f"{there.leading.holder} leads")
    else:
        yield _warning("leader", "nobody leads", TO_DO[HeldBy.LEADER])
    for away in there.storages_away:
        said = f"away for {duration(away.for_s)}, as {away.processes} of {len(there.living)} processes find"
        yield _warning(f"storage {away.address}", f"{said} ({away.reason})", TO_DO[HeldBy.STORAGE])
    if off := there.kernels["off"]:
        yield _warning(
            "hash kernels",
            f"{off} workers do without theirs: it failed its self-test, or cannot be loaded",
            "look for kernel_off in their logs; install anew on that machine, and tell us",
        )
    if there.on_trial:
        yield _warning(
            "suspects",
            f"{there.on_trial} processes read a file apart that lost its worker before",
            "look at the workers' logs and memory; a file that ends its process again and again is set aside",
        )


def _gates(ledger: Ledger) -> Iterator[Check]:
    shut = ledger.read_now(gates.listed)
    for gate in shut:
        said = f"shut for {duration(gate.shut_s)}"
        if gate.kind is not GateKind.DISPATCH:  # opens by what is owed, not by a try
            said += f", next try {f'in {duration(gate.remaining_s)}' if gate.remaining_s > 0 else 'now'}"
        name = f"{gate.kind} {gate.name.removeprefix(f'{gate.kind} ')}"
        yield _warning(name, f"{said} ({gate.reason})", TO_DO[HeldBy(gate.kind)])
    if not shut:
        yield _ok("gates", "none is shut")


def _broker(settings: Settings) -> Check:
    try:
        queue = assemble.open_queue(settings)
    except ConfigFault as error:
        return _failed("broker", str(error), "correct broker.url (HASHMILL_BROKER__URL)")
    try:
        waiting = queue.waiting()
    finally:
        queue.close()
    if waiting is None:
        return _failed(
            "broker",
            "does not answer",
            "check broker.url (HASHMILL_BROKER__URL) and that Redis or Valkey runs; accepted events wait meanwhile",
        )
    return _ok("broker", "answers; waiting: " + ", ".join(f"{name} {count}" for name, count in waiting.items()))


async def _s3(settings: Settings, *, bucket: str | None, key: str | None) -> list[Check]:
    pace = StoragePace(
        connect_timeout_s=min(PATIENCE_S, settings.s3.connect_timeout_s), idle_timeout_s=PATIENCE_S, throttle_attempts=1
    )
    storage = Storage(pace, ByteBudget(settings.hashing.buffer_bytes))
    try:
        return [
            await _s3_head(storage, name, config, bucket=bucket or config.bucket or "", key=key)
            for name, config in _storages(settings)
        ]
    finally:
        await storage.close()


def _storages(settings: Settings) -> Iterator[tuple[str, StorageConfig]]:
    yield "S3", assemble.storage_config(settings.s3, tenant_id="", storage_id=None)
    for tenant in settings.s3.tenants:
        yield f"S3 of tenant {tenant}", assemble.storage_config(settings.s3, tenant_id=tenant, storage_id=None)
    for storage in settings.s3.storages:
        yield f"S3 of storage {storage}", assemble.storage_config(settings.s3, tenant_id="", storage_id=storage)


async def _s3_head(storage: Storage, name: str, config: StorageConfig, *, bucket: str, key: str | None) -> Check:
    asked = key or f"hashmill-doctor/{uuid.uuid4()}"
    try:
        head = await storage.head(config, bucket, asked)
    except ObjectMissing as error:
        if key is not None:
            return _failed(name, str(error), "check the bucket, the key, and [objects] in the wire table")
        return _ok(name, f"answers and takes the credentials; name an object with --key to be sure of bucket {bucket}")
    except ObjectForbidden as error:
        more = "" if key else "; or they may not list the bucket, then name an object with --key"
        return _failed(name, str(error), f"check s3.access_key_id and s3.secret_access_key, and what they may{more}")
    except ObjectOffline as error:
        return _warning(name, str(error))
    except ConfigFault as error:
        return _failed(name, str(error))
    except HashmillError as error:
        return _failed(name, str(error), "check s3.endpoint_url and that the S3 server runs")
    return _ok(name, f"{bucket}/{asked} is there, {size(head.size_bytes)}")


async def _platforms(settings: Settings, wire: WireTable | None) -> list[Check]:
    try:
        origins = sorted(normal_origins(settings.labdrive.allowed_origins))
    except ConfigFault as error:
        return [_failed("LABDRIVE", str(error))]
    if not origins:
        advice = 'set HASHMILL_LABDRIVE__ALLOWED_ORIGINS, e.g. to ["https://labdrive.example.org"]'
        return [_failed("LABDRIVE", "labdrive.allowed_origins is empty, so every event is refused", advice)]
    path = wire.base.path.value + wire.calls["probe"].path if wire else "/"
    return list(await asyncio.gather(*(_platform(origin, path) for origin in origins)))


async def _platform(origin: str, path: str) -> Check:
    """Ask without a key: any answer shows that somebody is there; who may do what, an event's key decides."""
    name = f"LABDRIVE {origin}"
    try:
        async with _http() as session, session.get(origin + path, allow_redirects=False) as response:
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        said = f"does not answer ({type(error).__name__})"
        return _failed(name, said, "check the name, the firewall and the certificate, from this machine")
    if status >= 500:
        return _warning(name, f"answers {status} to {path}", "the platform has trouble of its own")
    if 300 <= status < 400:
        return _warning(name, f"answers {status}, a redirect, and none is followed", "list the origin it leads to")
    return _ok(name, f"answers ({status})")


async def _s3_clock(settings: Settings) -> list[Check]:
    """Compare this machine's clock with the Date of the S3 server, which needs no credentials."""
    name = "clock, by the S3 server"
    url = settings.s3.endpoint_url or f"https://s3.{settings.s3.region}.amazonaws.com"
    try:
        async with _http() as session, session.head(url, allow_redirects=False) as response:
            theirs_s = parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return [Check(name=name, outcome=Outcome.SKIPPED, said="no answer to compare with")]
    except (KeyError, ValueError):
        return [Check(name=name, outcome=Outcome.SKIPPED, said="its answers have no date")]
    off_s = abs(time.time() - theirs_s)
    if off_s > S3_CLOCK_MAX_S:
        return [_failed(name, f"{off_s:.0f} s apart, so no signature is taken", "set this machine's clock (NTP)")]
    if off_s > S3_CLOCK_WARN_S:
        return [_warning(name, f"{off_s:.0f} s apart", "let this machine keep time (NTP)")]
    return [_ok(name, f"less than {max(1.0, off_s):.0f} s apart")]


def _kernel() -> Check:
    from hashmill.hashing import fused

    if wrong := fused.self_test():
        return _failed("hash kernel", f"off, hashlib serves: {wrong}", "install anew on this machine, and tell us")
    if why_not := fused.why_not():
        return _ok("hash kernel", f"hashlib serves: {why_not}")
    return _ok("hash kernel", fused.kernels()[0])


def _disk(settings: Settings) -> Iterator[Check]:
    try:
        file = sqlite_file(settings)
    except ConfigFault:
        return
    if file is None or not file.parent.is_dir():
        return
    free_bytes = shutil.disk_usage(file.parent).free
    said = f"{size(free_bytes)} free beside the ledger"
    if free_bytes < DISK_MIN_BYTES:
        yield _failed("disk", said, "make room: a ledger that cannot grow accepts nothing")
    elif free_bytes < DISK_WARN_BYTES:
        yield _warning("disk", said, "make room soon")
    else:
        yield _ok("disk", said)


def _http() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S), trust_env=False)


def _ok(name: str, said: str) -> Check:
    return Check(name=name, outcome=Outcome.OK, said=said)


def _warning(name: str, said: str, advice: str = "") -> Check:
    return Check(name=name, outcome=Outcome.WARNING, said=said, advice=advice)


def _failed(name: str, said: str, advice: str = "") -> Check:
    return Check(name=name, outcome=Outcome.FAILED, said=said, advice=advice)
