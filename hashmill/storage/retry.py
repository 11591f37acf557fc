"""Trying again in place: the same request, after a pause that no two streams share."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from hashmill.domain.errors import StorageThrottled, StorageTimeout
from hashmill.storage.config import ObjectPlace, StoragePace
from hashmill.storage.faults import LIBRARY_ERRORS, translate

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """`sleep` and `random` (0 to 1) come from outside, so that a test can have no pauses and no chance."""

    pace: StoragePace
    sleep: Callable[[float], Awaitable[object]]
    random: Callable[[], float]

    async def in_place(self, place: ObjectPlace, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what `ask` returns, asking `throttle_attempts` times while the server is busy or does not answer.

        Raises our error for what the libraries raise.
        """
        for attempt in count(1):
            try:
                return await ask()
            except LIBRARY_ERRORS as error:
                fault = translate(error, place)
                if attempt >= self.pace.throttle_attempts or not isinstance(fault, StorageThrottled | StorageTimeout):
                    raise fault from error
            await self.pause(attempt, at_least_s=fault.retry_after_s or 0.0)
        raise AssertionError("counting has no end")

    async def pause(self, attempt: int, *, at_least_s: float = 0.0) -> None:
        """Wait for a random part of `backoff_base_s`, doubled with each attempt (full jitter), up to the cap.

        `at_least_s` is what the server asked for; it counts up to the same cap.
        """
        cap_s = self.pace.backoff_cap_s
        ceiling_s = min(cap_s, self.pace.backoff_base_s * 2 ** min(attempt - 1, 60))
        await self.sleep(max(self.random() * ceiling_s, min(at_least_s, cap_s)))
