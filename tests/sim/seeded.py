"""What the steps draw or count for themselves, from the seed; and what they log as a bug, heard."""

import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hashmill.flow import accept as accept_step
from hashmill.flow import gates as gates_step
from hashmill.flow import hash_files as hash_files_step
from hashmill.flow import lead as lead_step
from hashmill.ledger import entries
from tests.sim.engine import BODY

if TYPE_CHECKING:
    from tests.sim.world import World

KEY_BASE_S, KEY_CAP_S = 1.0, 4.0


class _Listener(logging.Handler):
    """A bug is logged, not raised, where one file or one run must not stop the others."""

    def __init__(self, world: "World") -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._world.bug(f"{record.getMessage()}: {record.exc_info[1]!r}")


class _EntryIds:
    """Each process makes its own ids; here the process is known by whose transaction it is."""

    def __init__(self) -> None:
        self._by_body: defaultdict[str, Any] = defaultdict(entries._EntryIds)

    def make(self, at_ms: int, count: int) -> list[str]:
        body = BODY.get()
        made: list[str] = self._by_body[body.name if body else ""].make(at_ms, count)
        return made


@contextmanager
def seeded(world: "World") -> Iterator[None]:
    """What the steps draw or count for themselves begins anew, from the seed."""
    dice = random.Random(f"ids {world.plan.seed}")
    listener = _Listener(world)
    log = logging.getLogger("hashmill")
    level, propagate = log.level, log.propagate

    def new_id() -> str:
        return str(entries._uuid7(int(world.database.now_ms()), dice.randrange(4096)))

    before = random.getstate()
    random.seed(world.plan.seed)
    log.setLevel(logging.ERROR)
    log.propagate = False
    log.addHandler(listener)
    try:
        with (
            patch.object(entries, "new_id", new_id),
            patch.object(entries, "secrets", type("dice", (), {"randbits": staticmethod(dice.getrandbits)})),
            patch.object(entries, "_entry_ids", _EntryIds()),
            patch.object(hash_files_step, "_claims", itertools.count()),
            patch.object(lead_step, "SWEEP_EVERY_S", world.look_every_s),
            patch.object(gates_step, "KEY_BASE_S", KEY_BASE_S),
            patch.object(gates_step, "KEY_CAP_S", KEY_CAP_S),
            patch.object(lead_step, "POLL_MAX_S", world.look_every_s),
        ):
            yield
    finally:
        random.setstate(before)
        log.removeHandler(listener)
        log.setLevel(level)
        log.propagate = propagate
        accept_step._ringing.clear()
