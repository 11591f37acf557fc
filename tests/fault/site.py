"""A service under load, supervised, watched and led through fault proxies: what every row stands on."""

import contextlib
import random
import sqlite3
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from hashmill.domain.errors import LedgerUnavailable
from hashmill.flow.lead import LEADER
from hashmill.ledger import leases
from hashmill.ledger.engine import Ledger, now_ms
from hashmill.ledger.tables import files, runs
from hashmill.parts.redis import Redis
from hashmill.parts.service import LocalService, local_service
from tests.fault.checker import ENDED_FILE, ENDED_RUN, Verdict, check
from tests.fault.evidence import gather
from tests.fault.figures import Row, broken_by
from tests.fault.load import Load, Store, say
from tests.fault.proxy import FaultProxy
from tests.fault.records import LAPSED, Lapsed, Records
from tests.fault.supervisor import Supervisor

ROUTES: Final = {
    "redis": "HASHMILL_BROKER__URL",
    "ledger": "HASHMILL_LEDGER__URL",
    "s3": "HASHMILL_S3__ENDPOINT_URL",
    "api": "",
}
"""Paths from a worker that can lead through a proxy, and the variable that bends each; `api` is bent in the events."""
SUMMARY: Final = {"HASHMILL_REPORT__MESSAGES": "summary", "HASHMILL_LOGGING__LEVEL": "info"}
"""Three hashes a file and one closing message a run: the calls of a load stay below a hundred thousand."""
SAMPLE_EVERY_S: Final = 0.5
LEASES_ALLOWED: Final = 2


@dataclass(slots=True, kw_only=True)
class FaultSite:
    """`chance` is the seeded source of every random choice of a row."""

    service: LocalService
    load: Load
    supervisor: Supervisor
    ledger: Ledger
    store: Store
    redis: Redis
    proxies: Mapping[str, FaultProxy]
    settings: Mapping[str, str]
    chance: random.Random
    peak_rss_mib: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    began_s: float = field(default_factory=time.monotonic)
    recoveries_s: list[float] = field(default_factory=list)
    faults: int = 0

    # What the ledger tells

    def ended_files(self) -> int:
        """Return how many files have ended, in all runs."""
        return self._now(lambda c: _count(c, files.c.state.in_(ENDED_FILE)))

    def unlisted(self) -> int:
        """Return how many runs have files that are not listed yet."""
        return self._now(lambda c: _count(c, runs.c.state.in_(["accepted", "expanding"]), table=runs))

    def leader(self) -> leases.Lease | None:
        """Return the living lease of the leader."""
        return next((lease for lease in self.ledger.read_now(leases.listed, LEADER) if lease.remaining_s > 0), None)

    def process_of(self, holder: str) -> str | None:
        """Return the name, among the supervised, of a process as the ledger names it."""
        return self.supervisor.pids().get(int(holder.partition("/")[0].split(":")[-2]))

    def present(self, prefix: str = "worker") -> list[str]:
        """Return the supervised processes that say in the ledger that they live."""
        found = self.ledger.read_now(leases.listed, leases.PROCESS)
        names = {self.process_of(lease.holder) for lease in found if lease.remaining_s > 0}
        return sorted(name for name in names if name is not None and name.startswith(prefix))

    def claimed_since(self, at_ms: int) -> bool:
        """Whether a ticket that was handed out after `at_ms`, by the database's clock, has been claimed."""
        condition = sa.and_(files.c.queued_at_ms > at_ms, files.c.state.in_(["running", "done"]))
        return self._now(lambda c: _count(c, condition)) > 0

    def database_ms(self) -> int:
        return self._now(lambda c: int(c.execute(sa.select(now_ms())).scalar_one()))

    def _now(self, work: Callable[[sa.Connection], int]) -> int:
        return self.ledger.read_now(lambda connection: work(connection))

    # What a row does

    def post_all(self, containers: int) -> int:
        """Post one event for each of so many containers, and return how many files that is."""
        for number in range(containers):
            self.load.post_until_accepted(str(number % len(self.store.content.files) + 1))
        return containers * self.store.files_each

    def wait(self, condition: Callable[[], object], *, timeout_s: float, what: str) -> float:
        """Return after how many seconds `condition` held; a ledger that is away is waited for."""
        began_s = time.monotonic()
        while True:
            with contextlib.suppress(LedgerUnavailable):
                if condition():
                    return time.monotonic() - began_s
            if time.monotonic() - began_s > timeout_s:
                raise AssertionError(f"not within {timeout_s:g} s: {what}")
            time.sleep(0.02)

    def wait_for_progress(self, ended_files: int, *, timeout_s: float = 120.0) -> None:
        """Wait until so many files have ended; it is a failure when none does for `timeout_s`."""
        last, since_s = -1, time.monotonic()
        while True:
            with contextlib.suppress(LedgerUnavailable):
                now = self.ended_files()
                if now >= ended_files:
                    return
                if now > last:
                    last, since_s = now, time.monotonic()
            if time.monotonic() - since_s > timeout_s:
                raise AssertionError(f"no file ended for {timeout_s:g} s: {last} have, {ended_files} are waited for")
            time.sleep(0.05)

    def has_ended(self) -> bool:
        """Whether every run has."""
        return not self._now(lambda c: _count(c, runs.c.state.not_in(ENDED_RUN), table=runs))

    def finish(
        self,
        name: str,
        fault: str,
        demand: str,
        *,
        timeout_s: float = 900.0,
        more: Mapping[str, Any] | None = None,
        broken: Sequence[str] = (),
        limits: Mapping[str, float] | None = None,
    ) -> tuple[Row, Verdict]:
        """Wait until every run has ended, run the checker, keep and print the row, and return both.

        `broken` is what the row itself found beyond the checker, `limits` the most a figure may be. A run that does not
        end is the checker's to tell.
        """
        say("waiting for every run to end")
        try:
            self.wait(self.has_ended, timeout_s=timeout_s, what="every run ended")
        except AssertionError as late:
            say(str(late))
        wall_s = time.monotonic() - self.began_s
        verdict = self.verdict()
        print(verdict, flush=True)
        over = [
            f"{figure} is {verdict.figures[figure]}, at most {limit:g} is allowed"
            for figure, limit in (limits or {}).items()
            if verdict.figures[figure] > limit
        ]
        found = [*broken, *over, *(f"{end.name} exited by itself with {end.status}" for end in self.unordered_exits())]
        row = Row(
            name=name,
            fault=fault,
            demand=demand,
            files=int(verdict.figures["files"]),
            faults=self.faults,
            wall_s=round(wall_s, 1),
            s3=self.store.s3.backend,
            ledger=self.ledger.engine.dialect.name,
            settings=self.settings,
            broken=broken_by(verdict, found),
            figures=verdict.figures,
            recoveries_s=[round(each, 2) for each in self.recoveries_s],
            peak_rss_mib={role: round(peak, 1) for role, peak in self.peak_rss_mib.items()},
            more=more or {},
        )
        say(row.line)
        say(f"kept in {row.write()}")
        return row, verdict

    def unordered_exits(self) -> list[Any]:
        """Return exits nobody ordered; a deaf worker's own (70) is the watchdog's cure and not among them."""
        return [end for end in self.supervisor.unordered if end.status != 70]

    def verdict(self, *, ended: bool = True) -> Verdict:
        """Run the checker now."""
        self.await_notebook()
        folder = self.load.folder
        return check(gather(folder, ledger_url=self.service.ledger_url, sandbox=self.notebook), ended=ended)

    @property
    def notebook(self) -> Path:
        """The database in which the sandbox LABDRIVE writes down what it was told."""
        return self.service.folder / "sandbox.sqlite3"

    def await_notebook(self) -> None:
        """Return once the notebook holds on the disk all that LABDRIVE has answered until now: it commits in groups."""
        marker = self.load.new_job("1")

        def is_written() -> bool:
            with contextlib.closing(sqlite3.connect(f"file:{self.notebook}?mode=ro", uri=True)) as notebook:
                return notebook.execute("SELECT 1 FROM jobs WHERE id = ?", (marker,)).fetchone() is not None

        self.wait(is_written, timeout_s=10, what="LABDRIVE's notebook is written")


@contextmanager
def fault_site(
    store: Store,
    *,
    ledger_url: str | None = None,
    redis: Redis | None = None,
    workers: int = 2,
    slots: int = 4,
    dispatchers: int = 0,
    via: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    seed: int = 1,
) -> Iterator[FaultSite]:
    """Start a service over the filled store; everything under `via` leads through a proxy, for workers and dispatchers.

    With `dispatchers` no worker leads. The ledger is new and empty; None is SQLite in a file. `environ` is what differs
    from the defaults.
    """
    settings = {**SUMMARY, **(environ or {})}
    if dispatchers:
        settings["HASHMILL_WORKER__LEAD"] = "false"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hm-fault-", ignore_cleanup_errors=True)))
        proxies = {route: stack.enter_context(FaultProxy()) for route in via}
        service = stack.enter_context(
            local_service(
                folder / "service",
                workers=0,
                slots=slots,
                containers=len(store.content.files),
                redis=redis,
                s3=store.s3,
                bucket=store.bucket,
                ledger_url=ledger_url,
                labdrive_url=f"http://127.0.0.1:{proxies['api'].port}" if "api" in proxies else None,
                environ=settings,
                on_step=lambda step: say(f"starting {step}"),
            )
        )
        targets = {
            "redis": service.redis.url,
            "ledger": service.ledger_url,
            "s3": store.s3.endpoint_url,
            "api": service.sandbox_url,
        }
        bent = {}
        for route, proxy in proxies.items():
            proxy.lead_to(targets[route])
            if ROUTES[route]:
                bent[ROUTES[route]] = proxy.through(targets[route])
        for container in store.content.files:
            service.ask_sandbox("POST", f"/sandbox/containers/{container}/scan")
        supervisor = stack.enter_context(Supervisor())
        ledger = Ledger(service.ledger_url, threads=4, timeout_s=20.0)
        stack.callback(ledger.close)
        site = FaultSite(
            service=service,
            load=Load(service, folder / "load", store.manifest),
            supervisor=supervisor,
            ledger=ledger,
            store=store,
            redis=service.redis,
            proxies=proxies,
            settings=settings,
            chance=random.Random(seed),
        )
        first_intake = [service.intake]
        supervisor.add("intake", lambda: first_intake.pop() if first_intake else service.start_intake())
        for number in range(1, workers + 1):
            supervisor.add(f"worker-{number}", lambda: service.start_worker(environ=bent))
        for number in range(1, dispatchers + 1):
            supervisor.add(f"dispatcher-{number}", lambda: service.start_dispatcher(environ=bent))
        site.wait(lambda: len(site.present()) == workers, timeout_s=60, what="the workers are there")
        stack.enter_context(_sampling(site))
        site.began_s = time.monotonic()
        try:
            yield site
        except AssertionError:
            # A row that broke off in the middle says at least what is wrong by then.
            with contextlib.suppress(LedgerUnavailable, SQLAlchemyError):
                print(site.verdict(ended=False), flush=True)
            raise
        if supervisor.error is not None:
            raise supervisor.error


@contextmanager
def _sampling(site: FaultSite) -> Iterator[None]:
    """Meanwhile look for files that run without a lease, and for the memory of each role."""
    over = threading.Event()
    lease_s = float(site.settings.get("HASHMILL_LEASES__FILE_S", "30"))
    sampler = _Sampler(site=site, records=Records(site.load.folder / LAPSED), allowed_s=LEASES_ALLOWED * lease_s)

    def run() -> None:
        while not over.wait(SAMPLE_EVERY_S):
            sampler.sample()

    thread = threading.Thread(target=run, name="sampler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass(slots=True, kw_only=True)
class _Sampler:
    """Counts only the time in which the ledger answered: without it nobody could have taken the file back."""

    site: FaultSite
    records: Records
    allowed_s: float
    seen_s: float = 0.0
    since_s: dict[tuple[str, int, int], float] = field(default_factory=dict)
    told: set[tuple[str, int, int]] = field(default_factory=set)

    def sample(self) -> None:
        for pid, name in self.site.supervisor.pids().items():
            role = name.partition("-")[0]
            self.site.peak_rss_mib[role] = max(self.site.peak_rss_mib[role], _rss_mib(pid))
        try:
            found = self.site.ledger.read_now(_running_without_lease)
        except LedgerUnavailable:
            return
        now_s = time.monotonic()
        if now_s - self.seen_s > 4 * SAMPLE_EVERY_S:
            self.since_s.clear()
        self.seen_s = now_s
        self.since_s = {claim: self.since_s.get(claim, now_s) for claim in found}
        for claim, since_s in self.since_s.items():
            if now_s - since_s > self.allowed_s and claim not in self.told:
                self.told.add(claim)
                run_id, file_no, _ = claim
                self.records.add(
                    Lapsed(run_id=run_id, file_no=file_no, lapsed_s=now_s - since_s, allowed_s=self.allowed_s)
                )


def _running_without_lease(connection: sa.Connection) -> list[tuple[str, int, int]]:
    rows = connection.execute(
        sa.select(files.c.run_id, files.c.file_no, files.c.fence).where(
            files.c.state == "running", files.c.lease_until_ms < now_ms()
        )
    )
    return [(row.run_id, row.file_no, row.fence) for row in rows]


def _count(connection: sa.Connection, condition: sa.ColumnElement[bool], *, table: sa.Table = files) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(condition)).scalar_one())


def _rss_mib(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0
