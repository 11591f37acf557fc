"""The processes of the service: `hashmill intake`, `worker`, `dispatcher`, `sandbox`. They end on SIGTERM or Ctrl-C."""

import asyncio
import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashmill.cli.opened import opened_ledger
from hashmill.domain.errors import ConfigFault, LedgerUnavailable

if TYPE_CHECKING:
    from hashmill.settings import Settings

Host = Annotated[str | None, typer.Option(help="Address to bind; without this, by the settings.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to bind, 0 for a free one; else by the settings.")
]


def intake(host: Host = None, port: Port = None) -> None:
    """Run the HTTP door: events in, answers about runs out, the console page. Starts without broker or workers."""
    from hashmill import assemble
    from hashmill.domain.secret import Secret
    from hashmill.intake.config import IntakeConfig
    from hashmill.intake.server import serve

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = _settings_of_a_server(intake=given)
    door = settings.intake
    config = IntakeConfig(
        host=door.host,
        port=door.port,
        bearer_token=Secret(door.bearer_token.get_secret_value()),
        body_max_bytes=door.body_max_bytes,
        page_max=door.page_max,
    )

    async def run() -> None:
        stop = _told_to_stop()
        async with assemble.open_door(settings) as tools:
            # A ledger that is away is waited for, its callers are told; one of another shape would only fail them.
            with contextlib.suppress(LedgerUnavailable):
                await asyncio.to_thread(assemble.require_head, tools.ledger)
            await serve(tools, config, stop)

    asyncio.run(run())


def worker(
    slots: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Tickets worked at once; else by the settings.")
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option(help="Queues to take from, with commas: files,big,runs. Without this, by the settings."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the process in the broker; without this, its pid.")] = None,
) -> None:
    """Run a worker: reads objects, computes digests, reports to LABDRIVE; one of all workers leads.

    SIGTERM or Ctrl-C drains it: what is under way ends, or is given back after worker.drain_grace_s. A second one
    ends it at once.
    """
    from hashmill import assemble
    from hashmill.domain.secret import Secret
    from hashmill.home import app_home
    from hashmill.ledger.seal import Sealer
    from hashmill.queue import QUEUES

    settings = _settings_of_a_server()
    chosen = [one.strip() for one in queues.split(",")] if queues is not None else list(settings.worker.queues)
    if unknown := [one for one in chosen if one not in QUEUES]:
        raise typer.BadParameter(f"{unknown[0]!r} is no queue: there are {', '.join(QUEUES)}", param_hint="--queues")
    # Celery would show these as a traceback, after it has begun.
    Sealer(Secret(settings.secrets.seal_key.get_secret_value()))
    assemble.rules_of(settings, assemble.open_wire(settings))
    # One that is away is waited for; a file that is not there, or of another shape, will not come by waiting.
    with contextlib.suppress(LedgerUnavailable), opened_ledger(settings):
        pass

    if str(app_home()) not in sys.path:
        sys.path.insert(0, str(app_home()))
    # By name: the doors stand above this floor.
    celery = importlib.import_module("worker.app").app
    code = celery.worker_main(
        [
            *("--quiet", "worker", "--pool", "threads", "--concurrency", str(slots or settings.worker.slots)),
            *("--queues", ",".join(chosen), "--hostname", f"{name or f'hashmill-{os.getpid()}'}@%h"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", settings.logging.level),
        ]
    )
    if code:
        raise typer.Exit(code)


def dispatcher() -> None:
    """Run the leader's part alone: dispatch, delivery, sweep and numbering. For large pools; set worker.lead false."""
    settings = _settings_of_a_server()
    asyncio.run(_lead(settings))


async def _lead(settings: "Settings") -> None:
    stop, opened = _told_to_stop(), asyncio.Event()
    leading = asyncio.create_task(_lead_until(stop, settings, opened))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([leading, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not opened.is_set():
        leading.cancel()  # still waiting for its ledger; nothing was begun
    with contextlib.suppress(asyncio.CancelledError):
        await leading


async def _lead_until(stop: asyncio.Event, settings: "Settings", opened: asyncio.Event) -> None:
    from hashmill.assemble import open_work
    from hashmill.flow.lead import lead
    from hashmill.flow.present import keep_leases, leave

    async with open_work(settings, slots=0, queues=[]) as tools:
        opened.set()
        async with asyncio.TaskGroup() as beside:
            presence = beside.create_task(keep_leases(tools))
            await lead(tools, stop)
            presence.cancel()
        with contextlib.suppress(LedgerUnavailable):
            await leave(tools)


def sandbox(
    config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its values; without this, config/sandbox.toml.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to bind, 0 for a free one.")] = None,
    database: Annotated[str | None, typer.Option(help="Its SQLite file; :memory: keeps nothing.")] = None,
    intake: Annotated[str | None, typer.Option(metavar="URL", help="Where its triggers post events.")] = None,
    intake_token: Annotated[
        str | None, typer.Option(envvar="HASHMILL_INTAKE__BEARER_TOKEN", help="The intake's token.")
    ] = None,
) -> None:
    """Run a sandbox LABDRIVE: an independent double with state, faults and a page, for demo and tests."""
    from dataclasses import replace

    from hashmill.sandbox.config import SandboxConfigInvalid, load_config
    from hashmill.sandbox.server import run_sandbox

    _settings_of_a_server()
    try:
        values = load_config(config, host=host, port=port, database=database)
    except SandboxConfigInvalid as error:
        raise ConfigFault(str(error)) from error
    door = values.intake
    door = replace(door, url=door.url if intake is None else intake, bearer_token=intake_token or door.bearer_token)
    values = replace(values, intake=door)
    try:
        run_sandbox(values, on_ready=lambda running: typer.echo(f"the sandbox LABDRIVE is at {running.url}", err=True))
    except OSError as error:
        raise ConfigFault(
            f"{values.host}, port {values.port} cannot be bound ({error.strerror}): --port 0 takes a free one"
        ) from error


def _settings_of_a_server(**overrides: object) -> "Settings":
    from hashmill import logs
    from hashmill.settings import read_settings

    settings = read_settings(**overrides)
    logs.configure(level=settings.logging.level, format=settings.logging.format)
    return settings


def _told_to_stop() -> asyncio.Event:
    """Return the event that SIGTERM and Ctrl-C set; the second of them ends the process at once."""
    stop = asyncio.Event()

    def told() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)
    return stop
