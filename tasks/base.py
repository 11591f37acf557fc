"""
The only place where an error becomes a consequence for a message.

A step that fails here fails as a whole: its files are not settled, their leases run out, and the sweep hands them
out again. So nothing is retried by Celery, and every message is acknowledged: the ledger remembers, not the broker.
"""

import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Protocol

from celery import shared_task

from hashmill.domain.errors import HouseFault, LedgerUnavailable
from hashmill.flow.tools import WorkTools

log = logging.getLogger(__name__)


class House(Protocol):
    """The open tools of this process, and the loop they live on."""

    @property
    def tools(self) -> WorkTools: ...

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` on the process's loop from this thread, to its end."""


class _Threshold:
    """Where the process has put its open house; empty until the worker has opened it."""

    house: House | None = None


def enter(house: House | None) -> None:
    """Say which house the tasks of this process work in."""
    _Threshold.house = house


def house_task(name: str, step: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Return the Celery task `name` that runs `step(tools, **message)` on the process's loop."""

    @shared_task(name=name, acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def door(**message: Any) -> None:
        house = _Threshold.house
        if house is None:
            log.error("door_without_house", extra={"task": name})
            return
        try:
            house.run(step(house.tools, **message))
        except CancelledError:
            log.info("given_back", extra={"task": name, "run_id": message.get("run_id")})
        except LedgerUnavailable as trouble:
            log.warning("ledger_away", extra={"task": name, "reason": str(trouble)})
        except HouseFault as fault:
            log.critical("house_fault", extra={"task": name, "error_class": fault.error_class, "reason": str(fault)})
        except Exception:
            log.exception("bug", extra={"task": name, "run_id": message.get("run_id")})

    return door
