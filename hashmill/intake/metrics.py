"""What Prometheus scrapes: this door's own counters, and the state of the ledger at the moment of the scrape.

No id of a run, job, file or tenant is ever a label.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import hashmill
from hashmill.domain.job import RunState
from hashmill.intake.broker import BrokerState
from hashmill.intake.standing import Standing
from hashmill.ledger.gates import GateKind

BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one door."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter(
            "hashmill_intake_events", "Posted events by how they were answered.", ["outcome"], registry=self._registry
        )
        self._requests = Histogram(
            "hashmill_http_request_seconds",
            "Time to answer, by route.",
            ["method", "route", "status"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )

    def event(self, outcome: str) -> None:
        self._events.labels(outcome).inc()

    def request(self, *, method: str, route: str, status: int, took_s: float) -> None:
        self._requests.labels(method, route, str(status)).observe(took_s)

    def text(self, standing: Standing | None, broker: BrokerState) -> bytes:
        """Return everything in the text format; without the ledger's part when it is away (`standing` None)."""
        now = CollectorRegistry()
        now.register(_Now(standing=standing, broker=broker))
        return generate_latest(self._registry) + generate_latest(now)


@dataclass(frozen=True, kw_only=True, eq=False)  # the registry keeps it in a dict
class _Now(Collector):
    standing: Standing | None
    broker: BrokerState

    def collect(self) -> Iterator[Metric]:
        yield _labelled("hashmill_build_info", "The version that runs.", "version", [(hashmill.__version__, 1)])
        yield _gauge("hashmill_ledger_up", "Whether the ledger answered this scrape.", self.standing is not None)
        yield _gauge("hashmill_broker_up", "Whether the broker answered.", self.broker.state == "ok")
        yield _labelled(
            "celery_queue_length", "Messages waiting in the broker.", "queue_name", self.broker.waiting.items()
        )
        if self.standing is not None:
            yield from _of_ledger(self.standing)


def _of_ledger(standing: Standing) -> Iterator[Metric]:
    seen, there = standing.overview, standing.presence
    runs = [(state, seen.totals.runs.get(state, 0)) for state in RunState]
    yield _labelled("hashmill_runs", "Runs by state.", "state", runs)
    yield _labelled("hashmill_files", "Files by state.", "state", standing.files_by_state.items())
    yield _labelled(
        "hashmill_bytes",
        "Bytes of all runs: of the files listed, and of those that ended.",
        "state",
        [("listed", seen.totals.bytes_total), ("done", seen.totals.bytes_done)],
    )
    reports = [("owed", seen.totals.reports_owed), ("dead", seen.totals.reports_dead)]
    yield _labelled("hashmill_outbox_rows", "Reports owed to LABDRIVE, and set aside.", "state", reports)
    yield _gauge("hashmill_outbox_oldest_seconds", "Age of the oldest report owed; 0: none.", seen.oldest_owed_s)
    yield _gauge("hashmill_oldest_ready_seconds", "Longest wait of a file that is due; 0: none.", seen.oldest_ready_s)
    yield _gauge("hashmill_oldest_queued_seconds", "Age of the oldest unclaimed ticket; 0: none.", seen.oldest_queued_s)
    yield _gauge(
        "hashmill_oldest_unlisted_seconds",
        "Age of the oldest run whose files are not listed; 0: none.",
        seen.oldest_unlisted_s,
    )
    yield _gauge(
        "hashmill_leader_lease_remaining_seconds",
        "How long the leader may still lead without renewing; 0: nobody leads.",
        there.leading.remaining_s if there.leading else 0,
    )
    yield _gauge("hashmill_live_processes", "Worker processes that live.", len(there.living))
    yield _gauge("hashmill_live_slots", "Their slots together.", there.slots)
    yield _labelled(
        "hashmill_workers",
        "Living workers by what their hash kernel does; off: it failed its self-test, or cannot be loaded.",
        "kernel",
        there.kernels.items(),
    )
    yield _gauge(
        "hashmill_storages_away", "S3 servers that a living process finds away; 0: none.", len(there.storages_away)
    )
    yield _gauge(
        "hashmill_suspects_on_trial",
        "Living processes that read a file apart because it lost its worker before.",
        there.on_trial,
    )
    shut = [(kind, sum(gate.kind is kind for gate in seen.gates)) for kind in GateKind]
    yield _labelled(
        "hashmill_gates_shut", "APIs that are away, keys refused, APIs whose runs get no tickets.", "kind", shut
    )
    for name, count in seen.counted.items():
        yield CounterMetricFamily(f"hashmill_{name}", name.said, value=count)


def _gauge(name: str, said: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, said, value=float(value or 0))


def _labelled(name: str, said: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = GaugeMetricFamily(name, said, labels=[label])
    for text, value in values:
        family.add_metric([text], value)
    return family
