"""How long a call may take, how often it is tried, and how long to wait in between."""

import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from hashmill.domain.pause import jittered

RETRY_AFTER_MAX_S = 3600.0
"""A longer pause than this is not believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Limits of one call. `attempts` are tries in all; only reading calls are tried more than once."""

    connect_timeout_s: float
    timeout_s: float
    answer_max_bytes: int
    attempts: int
    backoff_base_s: float
    backoff_cap_s: float

    def pause_s(self, failed: int, *, retry_after_s: float | None) -> float | None:
        """Return the pause before the next try after `failed` ones, or None when there is to be no other.

        Full jitter, but never sooner than the other side asked; when it asked for more than `backoff_cap_s`, waiting
        here would hold up the caller, who can do other work meanwhile.
        """
        if failed >= self.attempts:
            return None
        if retry_after_s is not None and retry_after_s > self.backoff_cap_s:
            return None
        return max(retry_after_s or 0.0, jittered(failed - 1, base_s=self.backoff_base_s, cap_s=self.backoff_cap_s))


def retry_after_s(header: str | None, *, now: float | None = None) -> float | None:
    """Return what a Retry-After header asks for, in seconds from now, or None when it is absent or makes no sense.

    Both forms of RFC 9110 are read: seconds, and an HTTP date, which is compared with `now` (Unix time).
    """
    if header is None:
        return None
    try:
        pause_s = float(header)
    except ValueError:
        try:
            pause_s = parsedate_to_datetime(header).timestamp() - (time.time() if now is None else now)
        except (ValueError, OverflowError):
            return None
        pause_s = max(0.0, pause_s)
    if not math.isfinite(pause_s) or pause_s < 0:
        return None
    return min(pause_s, RETRY_AFTER_MAX_S)
