# ruff: noqa: S608 - statements of our own, over copies of our own
"""The checker of the fault tests: silent over what went right, and each invariant seen to break when it is broken."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from hashmill.parts.redis import Redis
from tests.fault.checker import ALWAYS, AT_THE_END, Verdict, check
from tests.fault.content import Content, Manifest
from tests.fault.evidence import gather
from tests.fault.load import Store
from tests.fault.records import LAPSED, POSTS, Lapsed, Post, Records
from tests.fault.s3_double import ROOT, S3Double
from tests.fault.site import fault_site
from tests.helpers.servers import work_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A finished load in a folder: the records, the ledger, LABDRIVE's notebook."""

    folder: Path

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.folder / 'ledger.sqlite3'}"

    def in_ledger(self, *statements: str) -> None:
        self._execute(self.folder / "ledger.sqlite3", statements)

    def in_sandbox(self, *statements: str) -> None:
        self._execute(self.folder / "sandbox.sqlite3", statements)

    def verdict(self) -> Verdict:
        return check(gather(self.folder, ledger_url=self.ledger_url, sandbox=self.folder / "sandbox.sqlite3"))

    @staticmethod
    def _execute(database: Path, statements: tuple[str, ...]) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            for statement in statements:
                assert connection.execute(statement).rowcount != 0, f"nothing was tampered with: {statement}"


@pytest.fixture(scope="module")
def finished(redis_server: Redis) -> Iterator[Scene]:
    """Two runs of ten files each, done by the real service over the S3 double."""
    content = Content(seed=3, files={"1": 10, "2": 10})
    manifest = Manifest(items={container: content.items(container) for container in content.files})
    with work_folder("checker") as folder, S3Double(folder / "s3", content) as double:
        store = Store(s3=double, bucket=double.make_bucket(), content=content, manifest=manifest)
        with fault_site(store, workers=1, redis=redis_server) as site:
            site.post_all(2)
            site.wait(site.has_ended, timeout_s=60, what="both runs ended")
            site.await_notebook()
            kept = folder / "kept"
            shutil.copytree(site.load.folder, kept)
            for name in ("ledger", "sandbox"):
                _copy(site.service.folder / f"{name}.sqlite3", kept / f"{name}.sqlite3")
        yield Scene(folder=kept)


def _copy(source: Path, target: Path) -> None:
    """Copy a database that somebody has open, what is still in its write-ahead log included."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


@pytest.fixture
def scene(finished: Scene, tmp_path: Path) -> Scene:
    """A copy to tamper with."""
    return Scene(folder=shutil.copytree(finished.folder, tmp_path / "scene"))


def test_a_load_that_went_right_breaks_nothing(scene: Scene) -> None:
    verdict = scene.verdict()

    assert not verdict.breaches, verdict
    assert (verdict.figures["files"], verdict.figures["lost"], verdict.figures["runs"]) == (20, 0, 2)


ONE_RUN = "(SELECT min(run_id) FROM runs)"
ONE_FILE = f"run_id = {ONE_RUN} AND file_no = 1"
A_HASH = "path LIKE '/api/file/%/hash' ORDER BY id LIMIT 1"
COPIED_CALL = "at_s, method, path, user_id, status, fault, idempotency_key"


def _post_again(scene: Scene) -> None:
    Records(scene.folder / POSTS).add(Post(job_id="1", container="1", status=202, run_id="another"))


def _post_of_nobody(scene: Scene) -> None:
    Records(scene.folder / POSTS).add(Post(job_id="77", container="1", status=202, run_id="lost"))


def _lapse(scene: Scene) -> None:
    Records(scene.folder / LAPSED).add(Lapsed(run_id="r", file_no=1, lapsed_s=61.0, allowed_s=60.0))


Tampering = Callable[[Scene], None]


def ledger(*statements: str) -> Tampering:
    return lambda scene: scene.in_ledger(*statements)


def sandbox(*statements: str) -> Tampering:
    return lambda scene: scene.in_sandbox(*statements)


TAMPERINGS: list[tuple[str, str, Tampering]] = [
    ("one_run_for_each_event", "answered with two runs", _post_again),
    ("one_run_for_each_event", "accepted, and never there", _post_of_nobody),
    ("one_run_for_each_event", "a run nobody asked for", ledger("UPDATE runs SET job_id = '99'")),
    (
        "ledger_proves_itself",
        "a byte of the log changed",
        ledger("DROP TRIGGER entries_no_update", "UPDATE entries SET body = CAST(body || ' ' AS BLOB)"),
    ),
    ("counters_are_right", "a file too many open", ledger(f"UPDATE runs SET files_open = 1 WHERE run_id = {ONE_RUN}")),
    ("counters_are_right", "a report miscounted", ledger("UPDATE runs SET outbox_owed = outbox_owed - 1")),
    ("counters_are_right", "bytes miscounted", ledger("UPDATE runs SET bytes_done = bytes_done + 1")),
    ("no_wrong_digest", "in the ledger", ledger(f'UPDATE files SET digests = \'{{"md5":"0"}}\' WHERE {ONE_FILE}')),
    ("no_wrong_digest", "in LABDRIVE", sandbox("UPDATE hashes SET hash = 'f00' WHERE algorithm = 'sha1'")),
    ("no_running_without_lease", "seen by the sampler", _lapse),
    (
        "one_result_for_each_file",
        "a second entry",
        ledger(
            "INSERT INTO entries SELECT 'twin', tenant_id, shard, run_id, kind, body, leaf_hash, recorded_at_ms"
            " FROM entries WHERE kind = 'file_hashed' LIMIT 1"
        ),
    ),
    (
        "one_final_status",
        "COMPLETED, then FAILED",
        sandbox("INSERT INTO job_statuses (job_id, status, reason, date) VALUES (1, 'FAILED', '', '')"),
    ),
    (
        "one_final_status",
        "a second one owed",
        ledger(
            "INSERT INTO outbox (run_id, seq, shard, kind, body, state, attempts, next_at_ms, created_at_ms)"
            " SELECT run_id, seq + 1, 0, kind, body, state, attempts, next_at_ms, created_at_ms FROM outbox"
            " WHERE kind = 'status' AND body LIKE '%COMPLETED%'"
        ),
    ),
    (
        "reports_in_order",
        "a hash behind the end",
        sandbox(f"INSERT INTO calls ({COPIED_CALL}) SELECT {COPIED_CALL} FROM calls WHERE {A_HASH}"),
    ),
    (
        "reports_in_order",
        "a hash before RUNNING",
        sandbox(f"UPDATE calls SET id = -1 WHERE id = (SELECT id FROM calls WHERE {A_HASH})"),
    ),
    ("every_run_ended", "still running", ledger(f"UPDATE runs SET state = 'running' WHERE run_id = {ONE_RUN}")),
    ("every_file_accounted_for", "a row gone", ledger(f"DELETE FROM files WHERE {ONE_FILE}")),
    ("every_file_accounted_for", "never ended", ledger(f"UPDATE files SET state = 'queued' WHERE {ONE_FILE}")),
    ("every_file_accounted_for", "another path", ledger(f"UPDATE files SET path = 'else' WHERE {ONE_FILE}")),
    ("every_outcome_expected", "poison for no reason", ledger(f"UPDATE files SET state = 'dead' WHERE {ONE_FILE}")),
    ("nothing_owed", "a report that waits", ledger("UPDATE outbox SET state = 'owed' WHERE seq = 2")),
    ("nothing_owed", "a report set aside", ledger("UPDATE outbox SET state = 'dead' WHERE seq = 2")),
    ("labdrive_agrees", "a call that never came", sandbox("DELETE FROM calls WHERE path LIKE '%/hash'")),
    ("labdrive_agrees", "a hash that is not there", sandbox("DELETE FROM hashes WHERE algorithm = 'md5'")),
    ("labdrive_agrees", "a message that is not there", sandbox("DELETE FROM messages WHERE job_id = 1")),
    ("labdrive_agrees", "a message nobody owed", sandbox("UPDATE messages SET message = 'else' WHERE job_id = 1")),
    ("labdrive_agrees", "a status that never came", sandbox("DELETE FROM job_statuses WHERE status = 'RUNNING'")),
    ("labdrive_agrees", "a run that ended otherwise", ledger("UPDATE runs SET state = 'failed'")),
]


@pytest.mark.parametrize(
    ("name", "tamper"), [pytest.param(name, tamper, id=f"{name}: {how}") for name, how, tamper in TAMPERINGS]
)
def test_a_broken_promise_is_named(scene: Scene, name: str, tamper: Tampering) -> None:
    tamper(scene)

    assert name in scene.verdict().names


def test_every_invariant_is_seen_to_break() -> None:
    assert {invariant.__name__ for invariant in (*ALWAYS, *AT_THE_END)} == {name for name, _, _ in TAMPERINGS}


def test_the_same_status_told_twice_and_a_lost_answer_are_no_breach(scene: Scene) -> None:
    scene.in_sandbox("INSERT INTO job_statuses (job_id, status, reason, date) VALUES (1, 'COMPLETED', '', '')")
    Records(scene.folder / POSTS).add(Post(job_id="1", container="1", status=None))

    verdict = scene.verdict()

    assert not verdict.breaches
    assert (verdict.figures["statuses_told_again"], verdict.figures["answers_lost"]) == (1, 1)


def test_the_program_prints_what_is_broken_and_ends_with_1(scene: Scene) -> None:
    program: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.fault.checker",
        "--load",
        scene.folder,
        "--ledger",
        scene.ledger_url,
    ]
    program += ["--sandbox", scene.folder / "sandbox.sqlite3"]
    right = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    scene.in_ledger("UPDATE outbox SET state = 'owed' WHERE seq = 2")

    broken = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (right.returncode, broken.returncode) == (0, 1), right.stderr
    assert "nothing_owed: 2" in broken.stdout
