"""The door opens, says where it is, and closes in order."""

import asyncio
import json
import logging
import socket
from collections.abc import Callable, MutableMapping
from typing import Any

from aiohttp import web

from hashmill.domain.errors import ConfigFault
from hashmill.flow.tools import DoorTools
from hashmill.intake.broker import BrokerWatch
from hashmill.intake.config import IntakeConfig, check_config
from hashmill.intake.door import DOOR, Door
from hashmill.intake.gate import make_gate
from hashmill.intake.metrics import Metrics
from hashmill.intake.openapi import DOCUMENT, document
from hashmill.intake.routes import operations

log = logging.getLogger(__name__)

GRACE_S = 5.0
LINGER_S = 2.0
"""How long what is left of a refused body is read, so that the caller sees the answer."""
BACKLOG = 1024


def make_app(tools: DoorTools, config: IntakeConfig) -> web.Application:
    """Return the application; raises `ConfigFault` when it would stand open to the network. The tools stay open."""
    check_config(config)
    table = operations()
    gate = make_gate({(operation.method, operation.path) for operation in table if operation.open})
    app = web.Application(middlewares=[gate], client_max_size=config.body_max_bytes)
    app[DOOR] = Door(tools=tools, config=config, metrics=Metrics(), broker=BrokerWatch(tools))
    app[DOCUMENT] = json.dumps(document(table, with_token=bool(config.bearer_token))).encode()
    for operation in table:
        if operation.method == "GET":
            app.router.add_get(operation.path, operation.handler)  # answers HEAD as well
        else:
            app.router.add_route(operation.method, operation.path, operation.handler)
    return app


async def serve(
    tools: DoorTools,
    config: IntakeConfig,
    stop: asyncio.Event,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Answer until `stop`; `ready` is called with the address once requests are answered there.

    Raises `ConfigFault` when the address cannot be bound. Requests under way get five seconds to end.
    """
    runner = web.AppRunner(
        make_app(tools, config),
        access_log=None,
        logger=_WireLog(log, {}),
        shutdown_timeout=GRACE_S,
        lingering_time=LINGER_S,
    )
    await runner.setup()
    try:
        listener = _listener(config)
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        url = _url(listener)
        log.info("listening", extra={"url": url})
        if ready is not None:
            ready(url)
        await stop.wait()
    finally:
        await runner.cleanup()


def _listener(config: IntakeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigFault(
            f"intake.host {config.host}, intake.port {config.port} cannot be bound ({error.strerror}): set "
            "HASHMILL_INTAKE__PORT to a free port (0: any), and HASHMILL_INTAKE__HOST to an address of this machine"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _WireLog(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's own log of requests that are no HTTP, without what was in them: it may be a header with a token."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        error = kwargs.pop("exc_info", None)
        return msg, {**kwargs, "extra": {"error": type(error).__name__}}
