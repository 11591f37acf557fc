"""How long to wait before the next try."""

import random


def jittered(attempt: int, *, base_s: float, cap_s: float) -> float:
    """Return a pause in seconds for the try after `attempt` failed ones (0 is the first): full jitter.

    Drawn evenly from 0 to `base_s`·2^attempt, at most `cap_s`, so that many waiters do not come back together.
    """
    ceiling_s = min(cap_s, base_s * 2.0 ** min(attempt, 60))
    return random.uniform(0.0, ceiling_s)  # noqa: S311 - spreads load, keeps no secret
