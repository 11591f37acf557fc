"""What a step may use. `assemble` opens it; a test opens what it needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hashmill.domain.function import Limits, Order
from hashmill.domain.job import SizeClass

if TYPE_CHECKING:
    # Only named here: whoever looks at the ledger need not load an S3 client and Celery for it.
    from hashmill.flow.endpoints import Endpoint
    from hashmill.flow.trial import Trial
    from hashmill.hashing.engine import HashEngine
    from hashmill.labdrive.client import LabdriveClient
    from hashmill.ledger.engine import Ledger
    from hashmill.ledger.seal import Sealer
    from hashmill.queue import Queue
    from hashmill.storage.client import Storage
    from hashmill.storage.config import StorageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One customer: events that name one of `api_origins` are theirs."""

    name: str
    api_origins: tuple[str, ...] = ()
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The knobs the steps turn by, as plain values; `config/hashmill.toml` says what each means."""

    allowed_origins: frozenset[str] = frozenset()
    tenants: tuple[Tenant, ...] = ()
    use_root_key: bool = False
    keep_keys_days: int = 30
    file_lease_s: float = 30.0
    leader_lease_s: float = 3.0
    lost_leases_max: int = 3
    lost_unproven_max: int = 10
    attempts_max: int = 5
    retry_base_s: float = 1.0
    retry_cap_s: float = 300.0
    outage_give_up_after_s: float = 86_400.0
    expand_give_up_after_s: float = 3600.0
    page_files: int = 1000
    lookups: int = 16
    list_page: int = 1000
    wants_storage: bool = False
    messages: str = "per_digest"
    report_concurrency: int = 8
    report_runs: int = 8
    report_give_up_after_s: float = 86_400.0
    report_base_s: float = 0.5
    report_cap_s: float = 300.0
    report_probe_cap_s: float = 20.0
    report_auth_give_up_after_s: float = 3600.0
    report_high_water: int = 200_000
    window: int = 0
    big_window: int = 0
    batch_max: int = 64
    batch_normal_max: int = 8
    tiny_max_bytes: int = 1_048_576
    normal_max_bytes: int = 67_108_864
    slice_from_bytes: int = 4_294_967_296
    slice_max_bytes: int = 4_294_967_296
    slice_max_s: float = 60.0
    reissue_after_s: float = 10.0
    wire_path: str = ""
    function_limits: Limits = field(default_factory=Limits)
    function_environ: Mapping[str, str] = field(default_factory=dict)
    tick_s: float = 0.05
    idle_tick_s: float = 0.5

    def size_class(self, size_bytes: int | None) -> SizeClass:
        """Return how a file of this size travels; of unknown size, as a normal one."""
        if size_bytes is None:
            return SizeClass.NORMAL
        if size_bytes <= self.tiny_max_bytes:
            return SizeClass.TINY
        return SizeClass.NORMAL if size_bytes <= self.normal_max_bytes else SizeClass.BIG

    def batch(self, size_class: SizeClass) -> int:
        """Return how many files of a class one ticket may name."""
        match size_class:
            case SizeClass.TINY:
                return self.batch_max
            case SizeClass.NORMAL:
                return min(self.batch_normal_max, self.batch_max)
            case SizeClass.BIG:
                return 1

    def tenant_of(self, origin: str) -> str:
        """Return the tenant an API origin belongs to."""
        for tenant in self.tenants:
            if origin in tenant.api_origins:
                return tenant.name
        return "default"

    def weight_of(self, tenant_id: str) -> int:
        """Return the weight of a tenant."""
        return next((tenant.weight for tenant in self.tenants if tenant.name == tenant_id), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPlace:
    """Where one file's bytes are."""

    config: StorageConfig
    bucket: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorTools:
    """What the intake and the CLI use: the ledger, the bell, the seal."""

    ledger: Ledger
    queue: Queue
    sealer: Sealer
    rules: Rules
    process: str
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="bell"))


PlaceOf = Callable[[str, str, str | None, str, str], ObjectPlace]
"""(tenant_id, container_id, storage_id, file_id, path) -> where its bytes are."""


class Mill(Protocol):
    """What it takes to read one file, in a worker or apart from it."""

    @property
    def process(self) -> str: ...
    @property
    def rules(self) -> Rules: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def engine(self) -> HashEngine: ...
    @property
    def place_of(self) -> PlaceOf: ...
    @property
    def draining(self) -> asyncio.Event: ...
    @property
    def clock_s(self) -> Callable[[], float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MillTools:
    """A mill and nothing else: no ledger, no broker, no keys of LABDRIVE."""

    process: str
    rules: Rules
    storage: Storage
    engine: HashEngine
    place_of: PlaceOf
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    clock_s: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTools(DoorTools):
    """What a worker and the leader use besides."""

    labdrive: LabdriveClient
    storage: Storage
    engine: HashEngine
    place_of: PlaceOf
    in_flight: asyncio.Semaphore
    draining: asyncio.Event
    clock_s: Callable[[], float] = time.monotonic
    """Seconds that only go forward, also while this process is stopped; for pauses of its own, never for a lease."""
    functions_at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """How many researchers' functions may run side by side."""
    orders: dict[str, Order] = field(default_factory=dict)
    """What the functions of the newest runs are, and are told with every file."""
    suspect: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while files are worked on that lost their lease before."""
    trial: Trial | None = None
    """Where such files are read; without it, here."""
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    """What this process knows of the S3 servers, by address and access key id."""
    claims: set[str] = field(default_factory=set)
    """The owners of the leases on files that this process is at work on; no others are renewed."""
    presence: Mapping[str, Any] = field(default_factory=dict)
    """What the process says of itself in the ledger: host, pid, slots, queues, version."""
