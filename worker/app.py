"""
The Celery application and its signals: `celery -A worker.app worker -P threads`, or `hashmill worker`.

Each setting that differs from Celery's default has its reason beside it.
"""

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

from celery import signals
from celery.worker import state as worker_state

from hashmill.domain.errors import ConfigFault
from hashmill.logs import configure
from hashmill.queue import make_app
from hashmill.settings import read_settings
from tasks import base, expand_run, hash_files
from worker.house import WorkerHouse, watch

log = logging.getLogger(__name__)

settings = read_settings()
app = make_app(
    settings.broker.url.get_secret_value(),
    cell=settings.broker.cell,
    timeout_s=settings.broker.publish_timeout_s,
)
app.conf.update(
    task_acks_late=True,  # harmless: the ledger's claim drops doubles
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,  # a ticket this process cannot begin belongs to another
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # a broker that is away is waited for; the leader's duties go on
    worker_cancel_long_running_tasks_on_connection_loss=False,  # the fence handles zombies
    worker_soft_shutdown_timeout=0,  # our own drain; the soft one does not work on threads
    worker_send_task_events=False,
    worker_enable_remote_control=False,  # fewer connections; the ledger and the metrics tell more
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)
TASKS = (expand_run.expand_run, hash_files.hash_files)


class _Process:
    """The one house of this process, whether it was ever open, and whether it was told to stop."""

    house: WorkerHouse | None = None
    opened = False
    stopping = False


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _logging(**_: Any) -> None:
    configure(level=settings.logging.level, format=settings.logging.format)


@signals.celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def _open(sender: str, instance: Any, conf: Any, **_: Any) -> None:
    # The thread pool sends no worker_process_init, and has no fork: this is the one place to open things.
    if "thread" not in instance.pool_cls.__module__:
        raise ConfigFault("workers run on threads: start them with `hashmill worker` or `celery … -P threads`")
    queues = sorted(instance.app.amqp.queues.consume_from)
    house = WorkerHouse(settings, slots=instance.concurrency, queues=queues)
    _Process.house, _Process.opened = house, True
    base.enter(house)
    if settings.worker.watchdog_after_s:
        threading.Thread(
            target=watch,
            args=(house,),
            kwargs={"after_s": settings.worker.watchdog_after_s, "exit_": os._exit},
            name="watchdog",
            daemon=True,
        ).start()


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(**_: Any) -> None:
    log.info("worker_ready", extra={"holder": _Process.house.tools.process if _Process.house else ""})
    _own_signals()


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _own_signals(**_: Any) -> None:
    """Take SIGTERM and SIGINT over from Celery: the first drains, the second leaves at once."""
    signal.signal(signal.SIGTERM, _told_to_stop)
    signal.signal(signal.SIGINT, _told_to_stop)


def _told_to_stop(number: int, frame: FrameType | None) -> None:
    if _Process.stopping:
        os._exit(1)
    _Process.stopping = True
    if not _Process.opened:
        os._exit(0)  # still waiting for its ledger; nothing was begun
    threading.Thread(target=_drain, name="drain").start()


def _drain() -> None:
    log.info("draining", extra={"grace_s": settings.worker.drain_grace_s})
    if _Process.house is not None:
        _Process.house.stop_claiming()
    worker_state.should_stop = 0  # Celery stops taking messages, then waits for the slots
    if _Process.house is not None:
        _Process.house.drain(settings.worker.drain_grace_s)


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: Any) -> None:
    house, _Process.house = _Process.house, None
    base.enter(None)
    if house is not None:
        house.close()
    log.info("worker_stopped")
