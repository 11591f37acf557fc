"""A worker whose loop hangs ends itself; one whose loop turns does not."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from worker import house
from worker.loop import LoopThread


class Exited(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    turning = LoopThread()
    yield turning
    turning.stop()


def left(status: int) -> None:
    raise Exited(status)


def place(loop: LoopThread, *, waiting: int, last_ticket_s: float = 0.0) -> Any:
    """Stands for a house with one free slot, where so many tickets wait."""
    tools = SimpleNamespace(draining=threading.Event(), queue=SimpleNamespace(waiting=lambda: {"files": waiting}))
    return SimpleNamespace(loop=loop, tools=tools, busy=0, slots=1, last_ticket_s=last_ticket_s)


def test_a_loop_that_hangs_ends_the_process(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "ONCE_MORE_S", 0.1)
    free = threading.Event()

    async def hang() -> None:
        free.wait(timeout=30)

    hanging = loop.start(hang())
    try:
        with pytest.raises(Exited, match="70"):
            house.watch(place(loop, waiting=0), after_s=0.2, exit_=left)
    finally:
        free.set()
        hanging.result(timeout=5)


def test_a_loop_that_turns_answers_and_a_deaf_worker_ends_itself(loop: LoopThread) -> None:
    assert loop.answers(within_s=5)
    with pytest.raises(Exited, match="70"):
        house.watch(place(loop, waiting=1), after_s=0.2, exit_=left)
