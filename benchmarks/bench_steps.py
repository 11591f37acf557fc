"""
What CPU does a small file cost a process of ours outside S3 and hashing?

    .venv/bin/python -m benchmarks.bench_steps [--files 6400] [--rounds 5] [--against COMMIT] [--ledger postgres|sqlite]

The steps themselves run over a real ledger and in place of S3 and the hash engine over nothing: every file has its
three digests at once. CPU is user and system time of this process, all threads; the database and the LABDRIVE that
takes the reports are other processes. Each round is a process of its own over a fresh ledger; with `--against` the
package of that commit takes turns with this one. Parts, in ms of CPU per file:

    list       write the rows of files found
    claim      take a ticket's files            settle     write results, entries and reports
    worker     a whole ticket, `hash_files`     flow       worker without claim and settle
    number     give entries their numbers       rows       take reports and mark them sent, per report
    sender     the same through the deliverer, LABDRIVE being a function, per report
    delivery   the same over HTTP, per report: the floor as long as LABDRIVE has no call for many
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import hashmill
from benchmarks.machine import HOME, circumstances
from hashmill.assemble import open_wire
from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, JobStatus, SizeClass
from hashmill.domain.secret import Secret
from hashmill.domain.work import ClaimedFile, FileOutcome, NewFile, Ticket
from hashmill.flow import hash_files, words
from hashmill.flow.deliver import Deliverer
from hashmill.flow.tools import Rules, WorkTools
from hashmill.labdrive.client import LabdriveClient
from hashmill.labdrive.pace import Pace
from hashmill.ledger import entries, expansions, files, migrate, outbox, runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.ledger.seal import Sealer, new_key
from hashmill.settings import Settings

RESULTS = Path(__file__).parent / "results"
BATCH = 64
WARM_UP = 4
"""Tickets worked before it counts: statements are compiled and prepared by then."""
PACE = Pace(connect_timeout_s=5, timeout_s=30, answer_max_bytes=1 << 20, attempts=1, backoff_base_s=1, backoff_cap_s=1)
DIGESTS = {"md5": "9e107d9d372bb6826bd81d3542a419d6", "sha1": "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"}
DIGESTS["sha256"] = "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592"

ETAG = f'"{DIGESTS["md5"]}"'


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=6400)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--against", metavar="COMMIT")
    options.add_argument("--ledger", default="postgres", choices=["postgres", "sqlite"])
    options.add_argument("--messages", default="summary", choices=["per_digest", "per_file", "summary"])
    options.add_argument("--once", metavar="LEDGER_URL", help=argparse.SUPPRESS)
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.serve:
        asyncio.run(serve())
    elif asked.once:
        print(json.dumps(asyncio.run(Measured(asked.once, asked.files, asked.messages).parts())))
    else:
        compare(asked)


def compare(asked: argparse.Namespace) -> None:
    """Run the rounds, alternating, and keep medians and spread."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(prefix="hm-") as name, ExitStack() as stack:
        folder = Path(name)
        trees = {"now": HOME}
        if asked.against:
            trees[asked.against] = checked_out(asked.against, folder / "before")
        databases = stack.enter_context(ledgers(asked.ledger, folder))
        for number in range(asked.rounds):
            for which in list(trees) if number % 2 else reversed(trees):
                command = [sys.executable, "-m", "benchmarks.bench_steps", "--once", databases()]
                command += ["--files", str(asked.files), "--messages", asked.messages]
                done = subprocess.run(command, cwd=trees[which], stdout=subprocess.PIPE, check=True, text=True)
                for part, ms in json.loads(done.stdout.splitlines()[-1]).items():
                    found[which][part].append(ms)
                print(which, done.stdout.strip(), flush=True)
    shown = {
        which: {
            part: {"median": statistics.median(taken), "least": min(taken), "most": max(taken)}
            for part, taken in parts.items()
        }
        for which, parts in found.items()
    }
    result = {
        "question": "CPU of a small file outside S3 and hashing, ms per file (rows, sender, delivery: per report)",
        "ledger": asked.ledger,
        "messages": asked.messages,
        "files": asked.files,
        "batch": BATCH,
        "n": asked.rounds,
        "cpu_ms": shown,
        **circumstances(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "steps.json").write_text(json.dumps(_with(result), indent=2) + "\n")
    for which, parts in shown.items():
        print(f"{which:>10}  " + "  ".join(f"{part} {row['median']:.3f}" for part, row in parts.items()))


def _with(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results kept so far, this one in place of that of the same ledger and messages."""
    kept = RESULTS / "steps.json"
    before = json.loads(kept.read_text()) if kept.exists() else []
    same = ("ledger", "messages")
    return [row for row in before if any(row[name] != result[name] for name in same)] + [result]


def checked_out(commit: str, folder: Path) -> Path:
    """Put the tree of `commit` into `folder`, with this benchmark, and return it."""
    packed = subprocess.run(["git", "archive", commit], cwd=HOME, stdout=subprocess.PIPE, check=True).stdout  # noqa: S607
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    for name in ("bench_steps.py", "machine.py"):
        (folder / "benchmarks" / name).write_bytes((HOME / "benchmarks" / name).read_bytes())
    return folder


@contextmanager
def ledgers(kind: str, folder: Path) -> Iterator[Callable[[], str]]:
    """Yield a function that returns the address of another empty database each time."""
    if kind == "sqlite":
        yield lambda: f"sqlite:///{tempfile.mkdtemp(dir=folder)}/ledger.sqlite3"
        return
    from hashmill.parts.postgres import start_postgres

    folder.chmod(0o711)  # the server may run as another user
    with start_postgres(folder / "postgres") as server:
        yield server.fresh_database


class Measured:
    """One process, one fresh ledger, every part once."""

    def __init__(self, url: str, count: int, messages: str) -> None:
        self.rules = Rules(messages=messages, allowed_origins=frozenset({"http://127.0.0.1:1"}), tick_s=0.01)
        self.count = count
        self.listed_s = 0.0
        self.ledger = Ledger(url)
        self.sealer = Sealer(Secret(new_key()))
        migrate.upgrade(self.ledger.engine, Path(hashmill.__file__).parents[1] / "migrations")

    async def parts(self) -> dict[str, float]:
        """Return ms of CPU by part."""
        taken: dict[str, float] = {}
        run = self._run("steps", "http://127.0.0.1:1")
        taken["list"] = 1000 * self.listed_s / self.count
        tickets = self._tickets(run)
        for ticket in tickets[:WARM_UP]:
            self._settle(run, self._claim(ticket))
        began = time.process_time()
        claimed = [self._claim(ticket) for ticket in tickets[WARM_UP:]]
        taken["claim"] = self._each(began)
        outcomes = [[self._done(run, file) for file in batch] for batch in claimed]
        began = time.process_time()
        for batch in outcomes:
            self.ledger.write_now(files.settle, run.run_id, batch)
        taken["settle"] = self._each(began)
        began = time.process_time()
        while self.ledger.write_now(entries.number):
            pass
        taken["number"] = self._each(began)
        owed = self._owed(run)
        began = time.process_time()
        while batch_owed := self.ledger.write_now(outbox.take, run.run_id, limit=BATCH):
            self.ledger.write_now(outbox.mark, run.run_id, sent=[report.seq for report in batch_owed])
        taken["rows"] = 1000 * (time.process_time() - began) / owed
        taken["worker"] = await self._worker()
        taken["flow"] = taken["worker"] - taken["claim"] - taken["settle"]
        with served() as origin:
            self.rules = replace(self.rules, allowed_origins=frozenset({origin}))
            taken["sender"] = await self._deliver(cast(LabdriveClient, Silent()), "sender", origin)
            async with LabdriveClient(open_wire(Settings()), PACE, allowed_origins=[origin]) as client:
                taken["delivery"] = await self._deliver(client, "delivery", origin)
        self.ledger.close()
        return {part: round(ms, 4) for part, ms in taken.items()}

    def _each(self, began: float) -> float:
        return 1000 * (time.process_time() - began) / (self.count - WARM_UP * BATCH)

    async def _worker(self) -> float:
        """Return what whole tickets cost; results of the neighbours are written meanwhile, as in a worker."""
        run = self._run("worker", "http://127.0.0.1:1")
        tickets = self._tickets(run)
        tools = self._tools(cast(LabdriveClient, Silent()))

        async def at_once(_: WorkTools, of: Run, file: ClaimedFile) -> FileOutcome:
            return self._done(of, file)

        vars(hash_files)["hash_one"] = at_once
        for ticket in tickets[:WARM_UP]:
            await hash_files.hash_files(tools, ticket)
        waiting = tickets[WARM_UP:]

        async def slot() -> None:
            while waiting:
                await hash_files.hash_files(tools, waiting.pop())

        began = time.process_time()
        await asyncio.gather(*(slot() for _ in range(4)))
        taken = self._each(began)
        self.ledger.write_now(outbox.refuse_all, run.run_id, error_class=ErrorClass.API_REJECTED, detail="")
        return taken

    async def _deliver(self, client: LabdriveClient, name: str, origin: str) -> float:
        run = self._run(name, origin)
        for ticket in self._tickets(run):
            self._settle(run, self._claim(ticket))
        owed = self._owed(run)
        tools, deliverer = self._tools(client), Deliverer()
        began = time.process_time()
        while await deliverer.round(tools) or self._owed(run):
            pass
        taken = time.process_time() - began
        await deliverer.stop()
        assert not self._owed(run)
        return 1000 * taken / owed

    def _run(self, key: str, api_url: str) -> Run:
        event = {"api_url": api_url, "user_id": "2", "algorithms": list(DIGESTS)}
        named = {"tenant_id": "default", "idempotency_key": key, "event_digest": "", "job_id": "1"}
        run, _ = self.ledger.write_now(runs.accept, **named, event=event, container_id="1", priority=5, entry={})
        self.ledger.write_now(self.sealer.put, run.run_id, {"user": Secret("k" * 40)})
        begun = words.status(JobStatus.RUNNING)
        expansion = self.ledger.write_now(expansions.claim, run.run_id, lease_s=600, running=begun, entry={})
        assert expansion is not None
        for first in range(1, self.count + 1, 1000):
            page = [
                NewFile(
                    file_ref=str(number),
                    file_id=str(number),
                    path=f"small/{number % 100:02}/{number:06}.bin",
                    size_bytes=4096,
                    size_class=SizeClass.TINY,
                )
                for number in range(first, min(first + 1000, self.count + 1))
            ]
            began = time.process_time()
            self.ledger.write_now(expansions.add_files, expansion, page, cursor={}, lease_s=600)
            self.listed_s += time.process_time() - began
        self.ledger.write_now(expansions.end, expansion, {})
        found = self.ledger.read_now(runs.get, run.run_id)
        assert found is not None
        (status,) = self.ledger.write_now(outbox.take, run.run_id)
        self.ledger.write_now(outbox.mark, run.run_id, sent=[status.seq])
        return found

    def _tickets(self, run: Run) -> list[Ticket]:
        tickets, after = [], 0
        while queued := self.ledger.write_now(files.queue, run.run_id, SizeClass.TINY, after_no=after, limit=BATCH):
            after = queued[-1][0]
            tickets.append(Ticket(run_id=run.run_id, size_class=SizeClass.TINY, files=queued))
        return tickets

    def _claim(self, ticket: Ticket) -> list[ClaimedFile]:
        return self.ledger.write_now(files.claim, ticket, owner="here/1", lease_s=600)

    def _settle(self, run: Run, claimed: Sequence[ClaimedFile]) -> None:
        self.ledger.write_now(files.settle, run.run_id, [self._done(run, file) for file in claimed])

    def _owed(self, run: Run) -> int:
        found = self.ledger.read_now(runs.get, run.run_id)
        return found.outbox_owed if found else 0

    def _done(self, run: Run, file: ClaimedFile) -> FileOutcome:
        entry = {
            "job_id": run.job_id,
            "container_id": run.container_id,
            "file_no": file.file_no,
            "file_id": file.file_id,
            "path": file.path,
            "bucket": "bucket",
            "key": f"1/{file.path}",
            "version_id": None,
            "etag": ETAG,
            "size_bytes": 4096,
            "digests": dict(DIGESTS),
            "backends": dict.fromkeys(DIGESTS, "hashlib"),
            "verdict": "no_baseline",
            "generation": file.generation,
            "attempt": file.attempts + 1,
            "fence": file.fence,
            "process": "here",
        }
        return FileOutcome(
            file_no=file.file_no,
            fence=file.fence,
            state=FileState.DONE,
            size_bytes=4096,
            digests=DIGESTS,
            etag=ETAG,
            verdict="no_baseline",
            entry=entry,
            reports=words.hashed(file.file_no, file.file_id, DIGESTS, messages=self.rules.messages),
        )

    def _tools(self, client: LabdriveClient) -> WorkTools:
        nothing = cast(Any, None)
        return WorkTools(
            ledger=self.ledger,
            queue=nothing,
            sealer=self.sealer,
            rules=self.rules,
            process="here",
            labdrive=client,
            storage=nothing,
            engine=nothing,
            place_of=nothing,
            in_flight=asyncio.Semaphore(64),
            draining=asyncio.Event(),
        )


@contextmanager
def served() -> Iterator[str]:
    """Run a LABDRIVE that answers everything alike, and yield its origin."""
    command = [sys.executable, "-m", "benchmarks.bench_steps", "--serve"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.communicate()


class Silent:
    """A LABDRIVE that takes everything and costs nothing."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[None]]:
        async def take(*_: object, **__: object) -> None:
            await asyncio.sleep(0)

        return take


ANSWER = b'{"success": true, "code": 200, "msg": "OK", "result": {}}'
ANSWERED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


class Answering(asyncio.Protocol):
    """Answers whole requests that have a Content-Length, one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.come = b""

    def data_received(self, data: bytes) -> None:
        self.come += data
        while (end := self.come.find(b"\r\n\r\n")) >= 0:
            head = self.come[:end].lower()
            size = int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
            if len(self.come) < end + 4 + size:
                return
            self.come = self.come[end + 4 + size :]
            self.transport.write(ANSWERED)


async def serve() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    os._exit(0)  # connections kept alive would be waited for


if __name__ == "__main__":
    main()
