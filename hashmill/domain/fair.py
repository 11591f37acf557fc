"""Who is served next: weighted round robin over tenants, and over the runs of a tenant by priority."""

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class DeficitRing(Generic[K]):
    """Deficit round robin over keys that come and go.

    Each round a key earns its weight in credit and spends what it is given: one for a full ticket, less for one that
    is not full, so that many small runs get as much as a large one. What it could not use is kept only while it has
    work, so nobody saves up. Keys keep their place between calls, so a long queue of one key never
    holds up another.
    """

    _order: deque[K] = field(default_factory=deque)
    _credit: dict[K, float] = field(default_factory=dict)

    def serve(self, weights: Mapping[K, float], room: int, take: Callable[[K], float]) -> float:
        """Call `take(key)` in fair order until `room` tickets were given or nobody has any; return what all cost.

        `take` gives out at most one ticket of that key and returns what it costs, 1 at most, or 0 when there is none.
        `weights` names the keys that may have work now; higher weights are served more often.
        """
        for key in weights:
            if key not in self._credit:
                self._order.append(key)
                self._credit[key] = 0.0
        for key in [key for key in self._order if key not in weights]:
            self._order.remove(key)
            del self._credit[key]
        given = 0
        spent = 0.0
        idle: set[K] = set()
        top = max(weights.values(), default=1.0)
        while given < room and len(idle) < len(self._order):
            key = self._order[0]
            if key not in idle:
                if self._credit[key] < 1:
                    self._credit[key] += weights[key] / top
                while self._credit[key] >= 1 and given < room:
                    cost = take(key)
                    if not cost:
                        idle.add(key)
                        self._credit[key] = 0.0
                        break
                    given += 1
                    spent += cost
                    self._credit[key] -= cost
                if given >= room and self._credit[key] >= 1:
                    break
            self._order.rotate(-1)
        return spent


def run_weight(priority: int) -> float:
    """Return the weight of a run within its tenant: priority 0 counts ten times priority 9."""
    return float(10 - priority)
