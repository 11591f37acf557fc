"""`hashmill up`: the whole service on this machine, from one terminal or one unit of a supervisor."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hashmill.cli.exits import ExitCode
from hashmill.domain.errors import ConfigFault

if TYPE_CHECKING:
    from hashmill.cli.children import Order, Say
    from hashmill.parts.redis import Redis
    from hashmill.settings import Settings

CLOSE_S = 30.0
"""What a worker may need beyond its drain: to give its files back and to close."""
LOOK_AFTER_BROKER_S = 1.0
COLOURS = ("cyan", "magenta", "blue", "green", "yellow")


class Broker(StrEnum):
    SETTINGS = "settings"
    EMBEDDED = "embedded"


def up(
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker processes.")] = 2,
    slots: Annotated[int | None, typer.Option(min=1, max=1024, help="Slots of each; else by the settings.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The intake's port; else by the settings.")] = None,
    broker: Annotated[
        Broker, typer.Option(help="The Redis that the settings name, or one of its own, started and stopped with it.")
    ] = Broker.SETTINGS,
) -> None:
    """
    Run intake and workers on this machine until Ctrl-C or SIGTERM, and start again what exits.

    Brings the ledger to this version first. The first signal drains, a second one ends everything at once.
    """
    from hashmill import assemble
    from hashmill.domain.secret import Secret
    from hashmill.ledger import migrate
    from hashmill.ledger.seal import Sealer
    from hashmill.settings import read_settings

    settings = read_settings()
    Sealer(Secret(settings.secrets.seal_key.get_secret_value()))
    assemble.rules_of(settings, assemble.open_wire(settings))
    ledger = assemble.open_ledger(settings)
    try:
        before, after = migrate.upgrade(ledger.engine, assemble.migrations_home())
    finally:
        ledger.close()
    say = _speaker(workers)
    if before != after:
        say("up", f"the ledger is at {after} now; before: {before or 'empty'}")

    with ExitStack() as stack:
        redis = stack.enter_context(_embedded_broker()) if broker is Broker.EMBEDDED else None
        environ = dict(os.environ) | ({"HASHMILL_BROKER__URL": redis.url} if redis else {})
        orders = _orders(settings, environ, workers=workers, slots=slots, port=port)
        verdict = asyncio.run(_run(orders, say, redis))
    if verdict is not ExitCode.OK:
        raise typer.Exit(verdict)


def _orders(
    settings: "Settings", environ: Mapping[str, str], *, workers: int, slots: int | None, port: int | None
) -> "list[Order]":
    from hashmill.cli.children import Order

    # -u: a line is passed on when it is written.
    hashmill = (sys.executable, "-u", "-m", "hashmill")
    named = {"intake": [*hashmill, "intake", *(["--port", str(port)] if port is not None else [])]}
    for number in range(1, workers + 1):
        argv = [*hashmill, "worker", "--name", f"up-{os.getpid()}-{number}"]
        named[f"worker-{number}"] = argv + (["--slots", str(slots)] if slots is not None else [])
    grace_s = settings.worker.drain_grace_s + CLOSE_S
    return [Order(name=name, argv=argv, environ=environ, grace_s=grace_s) for name, argv in named.items()]


async def _run(orders: "list[Order]", say: "Say", redis: "Redis | None") -> ExitCode:
    from hashmill.cli.children import Crew

    crew = Crew(orders, say)
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1
        if told == 1:
            say("up", "draining; a second signal ends everything at once")
            crew.stop()
        else:
            crew.kill()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, tell)
    beside = asyncio.create_task(_keep_broker(redis, say)) if redis is not None else None
    try:
        await crew.keep()
    finally:
        if beside is not None:
            beside.cancel()
            await asyncio.wait([beside])
    return crew.verdict


async def _keep_broker(redis: "Redis", say: "Say") -> None:
    """Start the embedded broker again when it is gone; nothing in it is needed."""
    from hashmill.parts.process import PartFailed, answers

    while True:
        await asyncio.sleep(LOOK_AFTER_BROKER_S)
        if await asyncio.to_thread(answers, redis.port):
            continue
        say("broker", "does not answer; starting it again")
        try:
            await asyncio.to_thread(redis.restart)
        except PartFailed as error:
            say("broker", str(error).splitlines()[0])


@contextmanager
def _embedded_broker() -> "Iterator[Redis]":
    from hashmill.parts.process import PartFailed
    from hashmill.parts.redis import start_redis

    with tempfile.TemporaryDirectory(prefix="hashmill-broker-") as folder:
        try:
            redis = start_redis(Path(folder))
        except PartFailed as error:
            raise ConfigFault(str(error)) from error
        with redis:
            yield redis


def _speaker(workers: int) -> "Say":
    """Return what writes a child's line to standard error, behind its name."""
    names = ["up", "broker", "intake", *(f"worker-{number}" for number in range(1, workers + 1))]
    width = max(map(len, names))
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}

    def say(name: str, line: str) -> None:
        typer.secho(f"{name:<{width}} | ", fg=colours.get(name), nl=False, err=True)
        typer.echo(line, err=True)

    return say
