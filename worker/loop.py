"""One event loop per process, on a thread of its own; slot threads hand it coroutines and wait."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop that runs until `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start `work` on the loop and return the future another thread can wait for or cancel."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], *, timeout_s: float | None = None) -> T:
        """Run `work` to its end and return what it returns, or raise what it raises."""

        async def bounded() -> T:
            async with asyncio.timeout(timeout_s):
                return await work

        return self.start(bounded()).result()

    def answers(self, *, within_s: float) -> bool:
        """Whether the loop still turns: whether it gets to something new within so long."""

        async def nothing() -> None:
            pass

        turn = self.start(nothing())
        try:
            turn.result(timeout=within_s)
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """End the loop once everything on it has been cancelled and has ended."""

        async def cancel_all() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        self.start(cancel_all()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
