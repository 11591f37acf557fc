"""Waiting for a condition, instead of sleeping and hoping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

PAUSE_S = 0.02


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0, *, what: str = "") -> None:
    """Return once `condition()` is true; fail the test when it is not within `timeout_s`."""
    ends_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > ends_at:
            raise AssertionError(_problem(condition, timeout_s, what))
        time.sleep(PAUSE_S)


async def wait_until_async(
    condition: Callable[[], object | Awaitable[object]], timeout_s: float = 10.0, *, what: str = ""
) -> None:
    """The same in an event loop, which goes on meanwhile; `condition` may be plain or async."""

    async def holds() -> object:
        answer = condition()
        return await answer if inspect.isawaitable(answer) else answer

    ends_at = time.monotonic() + timeout_s
    while not await holds():
        if time.monotonic() > ends_at:
            raise AssertionError(_problem(condition, timeout_s, what))
        await asyncio.sleep(PAUSE_S)


def _problem(condition: Callable[[], object], timeout_s: float, what: str) -> str:
    return f"not true within {timeout_s:g} s: {what or getattr(condition, '__qualname__', condition)}"
