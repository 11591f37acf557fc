"""
Wire names, and the only sender of messages.

The bell: what is sent here may be lost, doubled or late, and nothing depends on it. A message carries ids,
never contents and never keys.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from celery import Celery
from kombu import Connection, Exchange
from kombu import Queue as KombuQueue
from kombu.exceptions import KombuError

from hashmill.domain.errors import ConfigFault
from hashmill.domain.job import SizeClass
from hashmill.domain.work import Ticket

log = logging.getLogger(__name__)
T = TypeVar("T")

HASH_FILES: Final = "hashmill.hash_files"
EXPAND_RUN: Final = "hashmill.expand_run"

FILES: Final = "files"
BIG: Final = "big"
RUNS: Final = "runs"
QUEUES: Final = (FILES, BIG, RUNS)


def make_app(url: str, *, cell: str, timeout_s: float = 3.0) -> Celery:
    """Return a Celery application that speaks to the broker at `url` with the keys of `cell`.

    Sender and worker must agree on everything here, so both get it from here. Raises `ConfigFault` when `url` is no
    address of a broker, or of one whose library is not installed; nothing is connected.
    """
    try:
        Connection(url).get_transport_cls()
    except (KeyError, ImportError, AttributeError, ValueError):
        # The address may hold a password, and these errors quote it.
        raise ConfigFault(
            "broker.url names no broker there is a library for: write redis://host:port/number, or rediss:// for TLS"
        ) from None
    app = Celery("hashmill", broker=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_queues=[KombuQueue(name, Exchange("hashmill"), routing_key=name) for name in QUEUES],
        task_default_queue=FILES,
        task_create_missing_queues=False,
        broker_connection_timeout=timeout_s,
        broker_transport_options={
            # Never the way a message is recovered: leases are. Long, so that it never fires in mid-work.
            "visibility_timeout": 86_400,
            "socket_timeout": 10,
            "socket_connect_timeout": timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": f"{cell}:",
            "client_name": cell,
        },
    )
    return app


class Queue:
    """Sends tickets. Every method blocks for a bounded time and is called from a thread, never from the loop."""

    def __init__(self, url: str, *, cell: str, timeout_s: float = 3.0) -> None:
        self._app = make_app(url, cell=cell, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def send(self, tickets: Sequence[Ticket]) -> bool:
        """Publish `tickets`; False when the broker could not be reached (some may have got through)."""
        return self._publish(
            [
                (
                    HASH_FILES,
                    {
                        "run_id": ticket.run_id,
                        "size_class": ticket.size_class,
                        "files": [list(pair) for pair in ticket.files],
                    },
                    BIG if ticket.size_class is SizeClass.BIG else FILES,
                )
                for ticket in tickets
            ]
        )

    def ring(self, run_id: str) -> bool:
        """Say that a run waits to be expanded; False when nobody heard."""
        return self._publish([(EXPAND_RUN, {"run_id": run_id}, RUNS)])

    def waiting(self) -> dict[str, int] | None:
        """Return how many messages wait in each queue, or None when the broker does not answer."""

        def count(connection: Connection) -> dict[str, int]:
            with connection.channel() as channel:
                return {name: channel.queue_declare(name, passive=False).message_count for name in QUEUES}

        return self._with_connection(count)

    def close(self) -> None:
        """Close the connection to the broker."""
        with self._lock:
            self._drop()
            self._app.close()

    def _publish(self, messages: Sequence[tuple[str, Mapping[str, Any], str]]) -> bool:
        def publish(connection: Connection) -> bool:
            with self._app.amqp.Producer(connection, auto_declare=False) as producer, producer.batch(500):
                for name, kwargs, queue in messages:
                    self._app.send_task(
                        name, kwargs=dict(kwargs), queue=queue, producer=producer, retry=False, ignore_result=True
                    )
            return True

        return bool(self._with_connection(publish))

    def _with_connection(self, use: Callable[[Connection], T]) -> T | None:
        """Run `use` on the one connection, opening it when needed; None when the broker fails it."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._app.connection_for_write(
                        transport_options={
                            **self._app.conf.broker_transport_options,
                            "socket_timeout": self._timeout_s,
                            "max_retries": 0,
                        }
                    )
                self._connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=self._timeout_s)
                return use(self._connection)
            except self._errors() as error:
                log.warning("broker_unreachable", extra={"reason": type(error).__name__})
                self._drop()
                return None

    def _errors(self) -> tuple[type[Exception], ...]:
        connection = self._connection
        ours = (KombuError, OSError)
        return ours if connection is None else (*ours, *connection.connection_errors, *connection.channel_errors)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.release()
            self._connection = None
