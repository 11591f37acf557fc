"""The bytes a process may hold in read buffers, shared by all its streams."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hashmill.domain.errors import ConfigFault


class ByteBudget:
    """Give streams their buffers' bytes, first come, first served, never more than `total_bytes` in all.

    A stream asks once, for everything it will hold, and never again while it holds: so none waits for another that
    waits for it, and every one gets its turn. Used from one event loop.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0
        self._queue: deque[_Request] = deque()

    @asynccontextmanager
    async def reserve(self, wanted_bytes: int, *, least_bytes: int) -> AsyncIterator[int]:
        """Wait for room; hold and yield between `least_bytes` and `wanted_bytes` until the block ends.

        Nobody takes more than half of what is free unless it is the least it can do with: long streams shrink before
        they keep short ones out. Raises `ConfigFault` when `least_bytes` is more than there is.
        """
        if least_bytes > self.total_bytes:
            raise ConfigFault(
                f"hashing.buffer_bytes is {self.total_bytes}, and one stream needs at least {least_bytes}: raise it"
            )
        request = _Request(wanted_bytes, least_bytes)
        self._queue.append(request)
        self._serve()
        try:
            await request.granted
            yield request.held_bytes
        finally:
            self.held_bytes -= request.held_bytes
            self._serve()

    def _serve(self) -> None:
        while self._queue:
            request = self._queue[0]
            if not request.granted.cancelled():
                free_bytes = self.total_bytes - self.held_bytes
                if request.least_bytes > free_bytes:
                    return
                request.held_bytes = min(request.wanted_bytes, max(request.least_bytes, free_bytes // 2))
                self.held_bytes += request.held_bytes
                request.granted.set_result(None)
            self._queue.popleft()


class _Request:
    __slots__ = ("granted", "held_bytes", "least_bytes", "wanted_bytes")

    def __init__(self, wanted_bytes: int, least_bytes: int) -> None:
        self.wanted_bytes = wanted_bytes
        self.least_bytes = least_bytes
        self.held_bytes = 0
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
