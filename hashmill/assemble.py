"""
The composition root: settings in, open tools out, closed in the reverse order.

What only a worker needs is imported where it is opened, so that a command that looks at the ledger starts quickly.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from hashmill import __version__
from hashmill.domain.errors import ConfigFault, LedgerUnavailable
from hashmill.domain.function import Limits
from hashmill.domain.origin import origin_of
from hashmill.domain.secret import Secret
from hashmill.flow.tools import DoorTools, MillTools, ObjectPlace, PlaceOf, Rules, Tenant, WorkTools
from hashmill.home import app_home
from hashmill.knobs import S3, S3Override
from hashmill.labdrive.origins import normal_origins
from hashmill.labdrive.wire import WireTable, object_address, read_wire
from hashmill.ledger import migrate, seal
from hashmill.ledger.engine import Ledger
from hashmill.ledger.seal import Sealer
from hashmill.settings import Settings, passed_on
from hashmill.storage.config import StorageConfig, StoragePace

if TYPE_CHECKING:
    from hashmill.flow.trial import Trial
    from hashmill.queue import Queue

log = logging.getLogger(__name__)

LEDGER_PAUSE_MAX_S = 5.0
"""Longest pause between two looks for a ledger that is away."""


def process_name() -> str:
    """Return a name no other process has: host, pid and a few random letters, 64 characters at most."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


def migrations_home() -> Path:
    """Return the folder of the ledger's migrations."""
    return app_home() / "migrations"


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger as it is; nothing is connected yet."""
    ledger = settings.ledger
    return Ledger(ledger.url.get_secret_value(), threads=ledger.threads, timeout_s=ledger.timeout_s)


def require_head(ledger: Ledger) -> None:
    """Raise `ConfigFault` when the ledger lacks what this version needs, or says that this version is too old."""
    if not ledger.read_now(migrate.fits, migrations_home()):
        now, head = ledger.read_now(migrate.at), migrate.head(migrations_home())
        raise ConfigFault(
            f"the ledger is at {now or 'nothing'}, this version needs {head}: run `hashmill ledger upgrade`"
        )


def open_queue(settings: Settings) -> "Queue":
    """Return the sender of messages; nothing is connected yet."""
    from hashmill.queue import Queue

    broker = settings.broker
    return Queue(broker.url.get_secret_value(), cell=broker.cell, timeout_s=broker.publish_timeout_s)


def open_wire(settings: Settings) -> WireTable:
    """Read the table of LABDRIVE's paths and names."""
    return read_wire(app_home() / "config" / settings.labdrive.wire)


def rules_of(settings: Settings, wire: WireTable) -> Rules:
    """Return the knobs the steps turn by."""
    return Rules(
        allowed_origins=normal_origins(settings.labdrive.allowed_origins),
        tenants=tuple(
            Tenant(name=name, api_origins=tuple(origin_of(o) for o in tenant.api_origins), weight=tenant.weight)
            for name, tenant in settings.tenants.items()
        ),
        use_root_key=settings.labdrive.key == "root",
        keep_keys_days=settings.secrets.keep_days,
        file_lease_s=settings.leases.file_s,
        leader_lease_s=settings.leases.leader_s,
        lost_leases_max=settings.leases.lost_max,
        lost_unproven_max=settings.leases.lost_unproven_max,
        attempts_max=settings.files.attempts_max,
        retry_base_s=settings.files.retry_base_s,
        retry_cap_s=settings.files.retry_cap_s,
        outage_give_up_after_s=settings.files.outage_give_up_after_s,
        expand_give_up_after_s=settings.files.expand_give_up_after_s,
        page_files=settings.tickets.page_files,
        lookups=settings.labdrive.lookups,
        list_page=settings.labdrive.page_size,
        wants_storage=bool(settings.s3.storages) or _names_storage(wire),
        messages=settings.report.messages,
        report_concurrency=settings.report.concurrency,
        report_runs=settings.report.runs_at_once,
        report_give_up_after_s=settings.report.give_up_after_s,
        report_base_s=settings.report.backoff_base_s,
        report_cap_s=settings.report.backoff_cap_s,
        report_probe_cap_s=settings.report.probe_cap_s,
        report_auth_give_up_after_s=settings.report.auth_give_up_after_s,
        report_high_water=settings.report.high_water,
        window=settings.tickets.window,
        big_window=settings.tickets.big_window,
        batch_max=settings.tickets.batch_max,
        batch_normal_max=settings.tickets.batch_normal_max,
        tiny_max_bytes=settings.tickets.tiny_max_bytes,
        normal_max_bytes=settings.tickets.normal_max_bytes,
        slice_from_bytes=settings.slices.threshold_bytes,
        slice_max_bytes=settings.slices.max_bytes,
        slice_max_s=settings.slices.max_s,
        wire_path=str(app_home() / "config" / settings.labdrive.wire),
        function_limits=Limits(
            time_s=settings.functions.time_s,
            memory_bytes=settings.functions.memory_bytes,
            output_max_bytes=settings.functions.output_max_bytes,
        ),
        function_environ=passed_on(),
        reissue_after_s=settings.tickets.reissue_after_s,
        tick_s=settings.tickets.tick_s,
        idle_tick_s=settings.tickets.idle_tick_s,
    )


def _names_storage(wire: WireTable) -> bool:
    return any("{storage_id}" in template for template in (wire.objects.bucket.value, wire.objects.key.value))


def storage_config(s3: S3, *, tenant_id: str, storage_id: str | None) -> StorageConfig:
    """Return where objects are read: `s3`, then what differs for the tenant, then what differs for the storage."""
    layers: list[S3 | S3Override] = [s3]
    layers += [s3.tenants[tenant_id]] if tenant_id in s3.tenants else []
    layers += [s3.storages[storage_id]] if storage_id in s3.storages else []

    def last(name: str) -> str | SecretStr | bool | None:
        values = [getattr(layer, name) for layer in layers]
        return next((value for value in reversed(values) if value is not None), None)

    def text(name: str) -> str:
        value = last(name)
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")

    style = text("addressing_style")
    return StorageConfig(
        endpoint_url=text("endpoint_url") or None,
        region=text("region"),
        addressing_style="virtual" if style == "virtual" else "auto" if style == "auto" else "path",
        bucket=text("bucket"),
        access_key_id=text("access_key_id") or None,
        secret_access_key=Secret(text("secret_access_key")) if text("secret_access_key") else None,
        session_token=Secret(text("session_token")) if text("session_token") else None,
        provider_checksums=bool(last("provider_checksums")),
    )


def place_finder(settings: Settings, wire: WireTable) -> PlaceOf:
    """Return the function that knows where a file's bytes are."""

    @lru_cache(maxsize=1024)
    def config_of(tenant_id: str, storage_id: str | None) -> StorageConfig:
        return storage_config(settings.s3, tenant_id=tenant_id, storage_id=storage_id)

    def place_of(tenant_id: str, container_id: str, storage_id: str | None, file_id: str, path: str) -> ObjectPlace:
        config = config_of(tenant_id, storage_id)
        bucket, key = object_address(
            wire,
            bucket=config.bucket or "",
            tenant_id=tenant_id,
            container_id=container_id,
            storage_id=storage_id,
            file_id=file_id,
            path=path,
        )
        return ObjectPlace(config=config, bucket=bucket, key=key)

    return place_of


@asynccontextmanager
async def open_door(settings: Settings) -> AsyncIterator[DoorTools]:
    """Open what the intake and the CLI use: the ledger at head, the bell, the seal."""
    wire = open_wire(settings)
    sealer = Sealer(Secret(settings.secrets.seal_key.get_secret_value()))
    async with AsyncExitStack() as stack:
        ledger = open_ledger(settings)
        stack.callback(ledger.close)
        queue = open_queue(settings)
        stack.callback(queue.close)
        tools = DoorTools(
            ledger=ledger, queue=queue, sealer=sealer, rules=rules_of(settings, wire), process=process_name()
        )
        stack.callback(tools.threads.shutdown, wait=True, cancel_futures=True)
        yield tools


@asynccontextmanager
async def open_mill(settings: Settings, *, process: str) -> AsyncIterator[MillTools]:
    """Open what reading one file takes; everything lives on the running loop."""
    from hashmill.hashing.engine import HashEngine
    from hashmill.storage.budget import ByteBudget
    from hashmill.storage.client import Storage

    wire = open_wire(settings)
    async with AsyncExitStack() as stack:
        s3 = settings.s3
        storage = Storage(
            StoragePace(
                connect_timeout_s=s3.connect_timeout_s,
                idle_timeout_s=s3.idle_timeout_s,
                min_bytes_per_s=s3.min_bytes_per_s,
                throughput_window_s=s3.throughput_window_s,
                resumes_max=s3.resumes_max,
                throttle_attempts=s3.throttle_attempts,
                backoff_base_s=s3.backoff_base_s,
                backoff_cap_s=s3.backoff_cap_s,
                connections=s3.connections,
                ranges_max=s3.ranges_max,
                block_bytes=settings.hashing.block_bytes,
            ),
            ByteBudget(settings.hashing.buffer_bytes),
        )
        stack.push_async_callback(storage.close)
        engine = HashEngine(settings.hashing.threads or os.cpu_count() or 1, settings.hashing.inline_max_bytes)
        stack.callback(engine.close)
        yield MillTools(
            process=process,
            rules=rules_of(settings, wire),
            storage=storage,
            engine=engine,
            place_of=place_finder(settings, wire),
        )


@asynccontextmanager
async def open_work(
    settings: Settings, *, slots: int, queues: list[str], trial: "Trial | None" = None
) -> AsyncIterator[WorkTools]:
    """Open what a worker and the leader use, once the ledger is there; everything lives on the running loop."""
    from hashmill.labdrive.client import LabdriveClient
    from hashmill.labdrive.pace import Pace

    wire = open_wire(settings)
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(open_door(settings))
        await _wait_for_ledger(door)
        client = LabdriveClient(
            wire,
            Pace(
                connect_timeout_s=settings.labdrive.connect_timeout_s,
                timeout_s=settings.labdrive.timeout_s,
                answer_max_bytes=settings.labdrive.answer_max_bytes,
                attempts=settings.labdrive.attempts,
                backoff_base_s=settings.labdrive.backoff_base_s,
                backoff_cap_s=settings.labdrive.backoff_cap_s,
            ),
            allowed_origins=door.rules.allowed_origins,
        )
        labdrive = await stack.enter_async_context(client)
        mill = await stack.enter_async_context(open_mill(settings, process=door.process))
        if trial is not None:
            stack.push_async_callback(trial.stop)
        yield WorkTools(
            ledger=door.ledger,
            queue=door.queue,
            sealer=door.sealer,
            rules=door.rules,
            process=door.process,
            threads=door.threads,
            labdrive=labdrive,
            storage=mill.storage,
            engine=mill.engine,
            place_of=mill.place_of,
            in_flight=asyncio.Semaphore(settings.worker.files_in_flight),
            draining=asyncio.Event(),
            functions_at_once=asyncio.Semaphore(settings.functions.at_once),
            trial=trial,
            presence=said_of_itself(settings, slots=slots, queues=queues),
        )


def said_of_itself(settings: Settings, *, slots: int, queues: list[str]) -> dict[str, Any]:
    """Return what this process tells the others of itself; `ledger.presence` reads it."""
    from hashmill.hashing import fused

    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slots": slots,
        "files_in_flight": settings.worker.files_in_flight,
        "queues": queues,
        "version": __version__,
        "kernel": fused.serving(),
    }


async def _wait_for_ledger(door: DoorTools) -> None:
    """Return once the ledger answers and is ours. One that is away is asked again: ending would help nobody."""
    pause_s = 0.5
    while True:
        try:
            await asyncio.to_thread(require_head, door.ledger)
            await door.ledger.read(seal.require_own, door.sealer)
            return
        except LedgerUnavailable as trouble:
            log.warning("ledger_away", extra={"duty": "start", "reason": str(trouble)})
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LEDGER_PAUSE_MAX_S)
