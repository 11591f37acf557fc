"""What must hold of a world that came to rest, whatever befell it: a list of named checks."""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hashmill.domain.errors import ErrorClass
from hashmill.domain.event import event_digest
from hashmill.domain.job import FileState, JobStatus, OutboxState, ReportKind, RunState
from hashmill.ledger import entries, tables
from tests.sim.neighbours import Effect, Thing
from tests.sim.world import Posted, World

TRANSIENT = {
    ErrorClass.S3_THROTTLED,
    ErrorClass.S3_TIMEOUT,
    ErrorClass.S3_TRUNCATED,
    ErrorClass.S3_CHANGED_DURING_READ,
}
FINAL = (JobStatus.COMPLETED, JobStatus.FAILED)
ENDED = (FileState.DONE, FileState.FAILED, FileState.DEAD, FileState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A world and its whole ledger, read once."""

    world: World
    runs: Sequence[Any]
    files: Sequence[Any]
    outbox: Sequence[Any]
    secrets: Sequence[Any]
    entries: Sequence[Any]

    @classmethod
    def of(cls, world: World) -> "Evidence":
        def read(connection: sa.Connection) -> list[Sequence[Any]]:
            chosen = (tables.runs, tables.files, tables.outbox, tables.secrets, tables.entries)
            return [connection.execute(sa.select(table).order_by(*table.primary_key)).all() for table in chosen]

        return cls(world, *world.database.run(read))

    def files_of(self, run: Any) -> list[Any]:
        return [file for file in self.files if file.run_id == run.run_id]

    def owed_by(self, run: Any) -> list[Any]:
        return [row for row in self.outbox if row.run_id == run.run_id]

    def posted_as(self, run: Any) -> Posted:
        return next(posted for posted in self.world.posted if event_digest(posted.event) == run.event_digest)

    def thing_of(self, run: Any, file: Any) -> Thing | None:
        return self.world.things.get(f"{run.container_id}/{file.path}")

    def effects_of(self, run: Any) -> list[Effect]:
        """What LABDRIVE saw of this run: a hash carries no job, but the token of its report."""
        return [
            effect
            for effect in self.world.labdrive.effects
            if effect.job_id == run.job_id or (effect.token or "").startswith(run.run_id)
        ]


Check = Callable[[Evidence], Iterator[str]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def broken(world: World) -> list[str]:
    """Return what does not hold, each as "name of the check: what was found"."""
    if not world.at_rest:
        told = _open_still(Evidence.of(world))
        return [f"the_world_comes_to_rest: {told}", *(f"no_step_meets_a_bug: {bug}" for bug in world.bugs)]
    evidence = Evidence.of(world)
    return [f"{function.__name__}: {told}" for function in CHECKS for told in function(evidence)]


def _open_still(evidence: Evidence) -> str:
    open_ = [f"run {run.run_id} is {run.state}" for run in evidence.runs if not RunState(run.state).ended]
    files = Counter(file.state for file in evidence.files if file.state not in ENDED)
    owed = Counter(f"{row.kind} {row.state}" for row in evidence.outbox if row.state in ("owed", "sending"))
    return f"{open_ or 'all runs have ended'}; open files {dict(files)}; reports {dict(owed)}"


@check
def no_step_meets_a_bug(evidence: Evidence) -> Iterator[str]:
    yield from evidence.world.bugs


@check
def nothing_runs_without_a_lease_for_two_leases(evidence: Evidence) -> Iterator[str]:
    yield from evidence.world.broken_on_the_way


@check
def each_accepted_event_has_exactly_one_run(evidence: Evidence) -> Iterator[str]:
    for posted in evidence.world.posted:
        found = [run.run_id for run in evidence.runs if run.event_digest == event_digest(posted.event)]
        if not posted.acknowledged or posted.runs != set(found) or len(found) != 1 or posted.made > 1:
            yield f"{posted.key}: acknowledged {posted.acknowledged} times with {posted.runs}, in the ledger {found}"
    if len(evidence.runs) != len(evidence.world.posted):
        yield f"{len(evidence.runs)} runs of {len(evidence.world.posted)} events"


@check
def every_file_is_listed_and_no_other(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        refs = [file.file_ref for file in evidence.files_of(run)]
        wanted = evidence.posted_as(run).refs
        listed = run.expanded_at_ms is not None
        if len(set(refs)) != len(refs) or not set(refs) <= wanted or (listed and set(refs) != wanted):
            yield f"run {run.run_id} lists {sorted(refs)} of {sorted(wanted)}"
        if not listed and run.error_class not in _given(evidence, run, refs=wanted):
            yield f"run {run.run_id} was not listed for {run.error_class}, which nobody said"


def _given(evidence: Evidence, run: Any, refs: Any = ()) -> set[str]:
    """The error classes LABDRIVE gave to calls about a run, its container or its files."""
    event = evidence.posted_as(run).event
    about = {run.job_id, run.container_id, *event.file_ids, *event.file_paths, *refs}
    about |= {file.file_id for file in evidence.files_of(run)}
    return {error_class for name in about for error_class in evidence.world.labdrive.given.get(name or "", ())}


@check
def every_file_has_ended(evidence: Evidence) -> Iterator[str]:
    for file in evidence.files:
        if file.state not in ENDED or file.lease_owner is not None:
            yield f"file {file.file_no} of {file.run_id} is {file.state}, held by {file.lease_owner}"


@check
def counters_are_what_they_count(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        files, owed = evidence.files_of(run), evidence.owed_by(run)
        done = [file for file in files if file.state == FileState.DONE]
        counted = {
            "files_total": len(files),
            "files_open": sum(file.state not in ENDED for file in files),
            "files_failed": sum(file.state in (FileState.FAILED, FileState.DEAD) for file in files),
            "bytes_total": sum(file.size_bytes or 0 for file in files),
            "bytes_done": sum(file.size_bytes for file in done),
            "outbox_owed": sum(row.state in (OutboxState.OWED, OutboxState.SENDING) for row in owed),
            "outbox_dead": sum(row.state == OutboxState.DEAD for row in owed),
        }
        for name, count in counted.items():
            if getattr(run, name) != count:
                yield f"run {run.run_id} says {name} {getattr(run, name)}, counted are {count}"


@check
def each_digest_equals_an_independent_one(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        for file in evidence.files_of(run):
            if file.state != FileState.DONE:
                continue
            thing = evidence.thing_of(run, file)
            body = thing.versions.get(file.etag) if thing else None
            told = json.loads(file.digests or "{}")
            names = json.loads(run.algorithms)
            if body is None or told != {name: hashlib.new(name, body).hexdigest() for name in names}:
                yield f"file {file.file_no} of {run.run_id} ({file.path}): {told}"
            elif thing and file.size_bytes != thing.size_of(file.etag):
                yield f"file {file.file_no} of {run.run_id} has {file.size_bytes} bytes, not {thing.size_of(file.etag)}"


@check
def what_s3_stores_is_found_in_the_bytes_of_every_file_that_is_done(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        for file in evidence.files_of(run):
            thing = evidence.thing_of(run, file)
            if file.state != FileState.DONE or thing is None or file.etag not in thing.versions:
                continue
            told = json.loads(file.provider_checksums or "[]")
            stated = thing.stated(file.etag)
            if [one["algorithm"] for one in told] != [one.algorithm for one in stated]:
                yield f"file {file.file_no} of {run.run_id} ({file.path}): S3 states {stated}, entered is {told}"
            for one, known in zip(told, stated, strict=False):
                if one["comparison"] == "different" or (one["computed"] or known.digest) != known.digest:
                    yield f"file {file.file_no} of {run.run_id} ({file.path}): {one}, S3 states {known}"


@check
def a_file_fails_only_for_what_was_wrong(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        for file in evidence.files_of(run):
            thing = evidence.thing_of(run, file)
            name = f"file {file.file_no} of {run.run_id} ({file.path})"
            if file.state == FileState.DEAD:
                if thing is None or not (thing.kills or thing.deaths >= evidence.world.rules.lost_leases_max):
                    yield f"{name} is dead, but innocent: {file.error_detail}"
            elif file.state == FileState.FAILED:
                if thing is None or file.file_id is None or not file.path:
                    if file.file_ref not in evidence.posted_as(run).unknown:
                        yield f"{name} is not known to LABDRIVE, but is"
                    continue
                strikes = thing.strikes[file.error_class]
                enough = evidence.world.rules.attempts_max if file.error_class in TRANSIENT else 1
                if not strikes or sum(thing.strikes.values()) < enough:
                    yield f"{name} failed with {file.error_class} after {dict(thing.strikes)}: {file.error_detail}"


@check
def a_result_is_written_by_the_newest_claim(evidence: Evidence) -> Iterator[str]:
    for row in evidence.entries:
        if row.kind not in ("file_hashed", "file_failed"):
            continue
        body = json.loads(row.body)
        claims = evidence.world.claims.get((row.run_id, body["file_no"]), [])
        if "fence" not in body or body.get("error_class") == ErrorClass.POISON or not claims:
            continue
        written_s = (row.recorded_at_ms - entries_begin(evidence)) / 1000
        before = [claim for claim in claims if claim[0] <= written_s + 0.002]
        newest = before[-1] if before else None
        if newest is None or (newest[1], newest[2]) != (body["process"], body["fence"]):
            yield (
                f"file {body['file_no']} of {row.run_id}: written by {body['process']} with fence {body['fence']}, "
                f"newest claim {newest}"
            )


def entries_begin(evidence: Evidence) -> float:
    """The database's clock when the loop's was 0, in milliseconds."""
    return evidence.world.database.now_ms() - evidence.world.loop.time() * 1000


@check
def each_result_is_written_once(evidence: Evidence) -> Iterator[str]:
    told = Counter(
        (row.run_id, body["file_no"], body.get("generation", 0))
        for row in evidence.entries
        if row.kind in ("file_hashed", "file_failed") and "fence" in (body := json.loads(row.body))
    )
    for (run_id, number, generation), count in told.items():
        if count > 1:
            yield f"file {number} of {run_id} has {count} results in generation {generation}"


@check
def a_run_ends_as_its_files_and_reports_did(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        bad = [file for file in evidence.files_of(run) if file.state != FileState.DONE]
        dead = [row for row in evidence.owed_by(run) if row.state == OutboxState.DEAD]
        good = not bad and not dead and run.expanded_at_ms is not None
        if (run.state == RunState.COMPLETED) != good or run.state not in (RunState.COMPLETED, RunState.FAILED):
            yield f"run {run.run_id} is {run.state}: {len(bad)} files not done, {len(dead)} reports set aside"
        given = _given(evidence, run)
        for row in dead:
            if row.error_class not in given:
                yield f"report {row.seq} of {run.run_id} was set aside for {row.error_class}, which nobody said"


@check
def nothing_is_owed(evidence: Evidence) -> Iterator[str]:
    for row in evidence.outbox:
        if row.state not in (OutboxState.SENT, OutboxState.DEAD):
            yield f"report {row.seq} of {row.run_id} is {row.state}"


@check
def labdrive_has_what_the_ledger_says_was_sent(evidence: Evidence) -> Iterator[str]:
    tokens = {effect.token for effect in evidence.world.labdrive.effects}
    for run in evidence.runs:
        statuses = [effect.said[0] for effect in evidence.effects_of(run) if effect.kind == "status"]
        for row in evidence.owed_by(run):
            if row.state != OutboxState.SENT:
                continue
            if row.kind == ReportKind.STATUS:
                if json.loads(row.body)["status"] not in statuses:
                    yield f"{row.body} of {run.run_id} was never set"
            elif f"{run.run_id}:{row.seq}" not in tokens:
                yield f"report {row.seq} of {run.run_id} never arrived: {row.body}"


@check
def the_ledger_has_what_labdrive_saw(evidence: Evidence) -> Iterator[str]:
    rows = {f"{row.run_id}:{row.seq}": row for row in evidence.outbox}
    replayed = evidence.world.replays
    for effect in evidence.world.labdrive.effects:
        row = rows.get(effect.token or "")
        if effect.kind == "status" or (row is None and replayed[(effect.token or "").partition(":")[0]]):
            continue
        if row is None:
            yield f"{effect} is in no outbox"
            continue
        body = json.loads(row.body)
        said = (body["type"], body["text"]) if effect.kind == "message" else (body["algorithm"], body["digest"])
        if said != effect.said or body.get("file_id") != effect.file_id:
            yield f"{effect} is not what was owed: {row.body}"


@check
def labdrive_has_the_digests_of_the_ledger(evidence: Evidence) -> Iterator[str]:
    told = {
        (effect.file_id, effect.said[0]): effect.said[1]
        for effect in evidence.world.labdrive.effects
        if effect.kind == "hash"
    }
    for run in evidence.runs:
        aside = {row.file_no for row in evidence.owed_by(run) if row.state == OutboxState.DEAD}
        for file in evidence.files_of(run):
            if file.state != FileState.DONE or file.file_no in aside:
                continue
            for name, digest in json.loads(file.digests).items():
                if told.get((file.file_id, name)) != digest:
                    yield f"LABDRIVE has {told.get((file.file_id, name))} as {name} of {file.path}, not {digest}"


@check
def the_job_is_running_first_and_final_last(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        effects = evidence.effects_of(run)
        statuses = [effect.said[0] for effect in effects if effect.kind == "status"]
        changes = [status for place, status in enumerate(statuses) if place == 0 or statuses[place - 1] != status]
        expected: list[str] = []
        row_statuses = [
            json.loads(row.body)["status"]
            for row in evidence.owed_by(run)
            if row.kind == ReportKind.STATUS and row.state == OutboxState.SENT
        ]
        for status in row_statuses:
            if not expected or expected[-1] != status:
                expected.append(status)
        # A status that was refused is in no order any more, and a replay drops it.
        set_aside = evidence.world.labdrive.given[run.job_id].keys() & {ErrorClass.API_AUTH, ErrorClass.API_REJECTED}
        if changes != expected and not set_aside:
            yield f"job {run.job_id} saw {statuses}, the ledger sent {row_statuses}"
        if changes and run.state in FINAL_OF and not set_aside:
            if changes[-1] != FINAL_OF[run.state]:
                yield f"job {run.job_id} of a run that is {run.state} was last told {changes[-1]}"
            if effects and effects[0].kind != "status":
                yield f"job {run.job_id} was told {effects[0]} before RUNNING"
            if effects[-1].kind != "status":
                yield f"job {run.job_id} was told {effects[-1]} after its end"
        for before, after in itertools.pairwise(changes):
            if before in FINAL and after in FINAL:
                yield f"job {run.job_id} ended twice, and differently: {statuses}"


FINAL_OF = {RunState.COMPLETED: JobStatus.COMPLETED, RunState.FAILED: JobStatus.FAILED}


@check
def reports_of_a_file_keep_their_order(evidence: Evidence) -> Iterator[str]:
    for run in evidence.runs:
        if evidence.world.replays[run.run_id]:
            continue  # a report set aside is owed again behind the others
        file_no = {f"{run.run_id}:{row.seq}": row.file_no for row in evidence.owed_by(run)}
        seen: defaultdict[int | None, list[int]] = defaultdict(list)
        for effect in evidence.effects_of(run):
            seq = int((effect.token or ":0").rpartition(":")[2])
            if effect.token in file_no and seq not in seen[file_no[effect.token]]:
                seen[file_no[effect.token]].append(seq)
        for number, order in seen.items():
            if number is not None and order != sorted(order):
                yield f"file {number} of {run.run_id} was reported in the order {order}"


@check
def nothing_is_told_twice_where_nothing_was_lost(evidence: Evidence) -> Iterator[str]:
    world = evidence.world
    losing: tuple[str, ...] = ("crash", "killer", "freeze", "drain", "api_forgets", "api_slow")
    losing += ("ledger_refuses", "ledger_forgets", "ledger_away", "ledger_slow")
    if world.plan.has(*losing):
        return
    for token, count in Counter(effect.token for effect in world.labdrive.effects if effect.token).items():
        if count > 1:
            yield f"report {token} was sent {count} times"


@check
def keys_are_wiped_or_have_an_end(evidence: Evidence) -> Iterator[str]:
    kept = {row.run_id: row for row in evidence.secrets}
    for run in evidence.runs:
        row = kept.get(run.run_id)
        if run.state == RunState.COMPLETED and row is not None:
            yield f"run {run.run_id} is completed, and its keys are kept"
        if run.state == RunState.FAILED and (row is None or row.wipe_after_ms is None):
            yield f"run {run.run_id} has failed, and its keys are {'gone' if row is None else 'kept for ever'}"


@check
def the_ledger_verifies(evidence: Evidence) -> Iterator[str]:
    found = evidence.world.database.run(entries.verify)
    yield from found.faults
    if found.waiting:
        yield f"{found.waiting} entries wait for a number"
