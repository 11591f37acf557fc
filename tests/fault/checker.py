"""
The checker: knows every event that was posted, and says which promises were broken.

    python -m tests.fault.checker --load FOLDER --ledger URL --sandbox FILE [--open]

FOLDER holds what the load wrote down (`records.py`), URL is the ledger's, FILE the database of the sandbox LABDRIVE.
It prints each broken invariant with its count and first examples, and ends with 1 when there is one. `--open` leaves
out what holds only when every run has ended.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fault.evidence import Call, Evidence, gather

EXAMPLES: Final = 5
ENDED_FILE: Final = ("done", "failed", "dead", "cancelled")
ENDED_RUN: Final = ("completed", "failed", "cancelled")
FINAL: Final = ("COMPLETED", "FAILED")

Check = Callable[[Evidence], Iterator[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A broken invariant: its name, how often, the first examples."""

    name: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was broken, and the figures worth keeping."""

    breaches: tuple[Breach, ...]
    figures: Mapping[str, int | float]

    @property
    def names(self) -> set[str]:
        return {breach.name for breach in self.breaches}

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        lines = [f"checker: {'BROKEN' if self.breaches else 'all invariants hold'} ({told})"]
        for breach in self.breaches:
            lines.append(f"  {breach.name}: {breach.count}")
            lines.extend(f"    {example}" for example in breach.examples)
        return "\n".join(lines)


# While work goes on


def one_run_for_each_event(seen: Evidence) -> Iterator[str]:
    """An accepted event has exactly one run, the one answered; one whose answer was lost or 5xx has one at most."""
    runs = Counter(run["job_id"] for run in seen.runs)
    by_id = {run["run_id"]: run for run in seen.runs}
    for job_id, posts in seen.by_job.items():
        answered = {post.run_id for post in posts if post.accepted}
        if len(answered) > 1:
            yield f"job {job_id} was answered with {len(answered)} runs: {sorted(map(str, answered))}"
        for run_id in answered:
            if run_id not in by_id or by_id[run_id]["job_id"] != job_id:
                yield f"job {job_id} was accepted as run {run_id}, which the ledger does not have"
        refused = all(post.status is not None and 400 <= post.status < 500 for post in posts)
        most = 0 if refused else 1
        if runs[job_id] > most or (answered and not runs[job_id]):
            yield f"job {job_id} has {runs[job_id]} runs"
    for job_id in runs.keys() - seen.by_job.keys():
        yield f"job {job_id} has a run, and nobody posted it"


def ledger_proves_itself(seen: Evidence) -> Iterator[str]:
    """`hashmill ledger verify` finds no fault."""
    yield from seen.ledger_faults


def counters_are_right(seen: Evidence) -> Iterator[str]:
    """The counters of each run equal a recount of its rows."""
    for run in seen.runs:
        files, owed = seen.files.get(run["run_id"], []), seen.outbox.get(run["run_id"], [])
        states = Counter(file["state"] for file in files)
        recounted = {
            "files_open": sum(count for state, count in states.items() if state not in ENDED_FILE),
            "files_failed": states["failed"] + states["dead"],
            "bytes_done": sum(file["size_bytes"] or 0 for file in files if file["state"] == "done"),
            "outbox_owed": sum(row["state"] in ("owed", "sending") for row in owed),
            "outbox_dead": sum(row["state"] == "dead" for row in owed),
            "outbox_seq": max((row["seq"] for row in owed), default=0),
        }
        if run["state"] not in ("accepted", "expanding"):
            recounted["files_total"] = len(files)
        for name, count in recounted.items():
            if run[name] != count:
                yield f"run {run['run_id']}: {name} is {run[name]}, recounted {count}"


def no_wrong_digest(seen: Evidence) -> Iterator[str]:
    """A digest in the ledger equals the independent one, for every asked algorithm; so does LABDRIVE's."""
    for run, file, right in _known_files(seen):
        if file["state"] == "done":
            told = json.loads(file["digests"] or "{}")
            if told not in right:
                yield f"{_name(run, file)}: the ledger has {told}, right is {right[0]}"
        stored = seen.hashes.get(str(file["file_id"]), {})
        if any(all(digests.get(name) != value for digests in right) for name, value in stored.items()):
            yield f"{_name(run, file)}: LABDRIVE has {stored}, right is {right[0]}"


def no_running_without_lease(seen: Evidence) -> Iterator[str]:
    """No file was `running` without a live lease for more than two leases, in a ledger that answered."""
    for late in seen.lapsed:
        yield f"file {late.file_no} of run {late.run_id}: {late.lapsed_s:.1f} s, allowed {late.allowed_s:.1f} s"


def one_result_for_each_file(seen: Evidence) -> Iterator[str]:
    """No file has two results in the log, no run two ends."""
    generations = {run["run_id"]: run["generation"] + 1 for run in seen.runs}
    for (run_id, kind, file_no), count in seen.entries.items():
        most = 1 if kind in ("run_accepted", "run_expanded") else generations.get(run_id, 0)
        if count > most:
            yield f"run {run_id}: {count} entries {kind}" + (f" of file {file_no}" if file_no is not None else "")


def one_final_status(seen: Evidence) -> Iterator[str]:
    """LABDRIVE saw each job become final once; the same status told twice is no change."""
    for run in seen.runs:
        took = _changes(seen.statuses.get(run["job_id"], []))
        rounds = run["generation"] + 1
        finals = [row for row in _statuses_owed(seen, run) if row["body"]["status"] in FINAL]
        if len(finals) > rounds:
            yield f"job {run['job_id']}: {len(finals)} final statuses were owed"
        if len([status for status in took if status in FINAL]) > rounds:
            yield f"job {run['job_id']} took {' -> '.join(took)}"


def reports_in_order(seen: Evidence) -> Iterator[str]:
    """For each run LABDRIVE was told RUNNING before all else, and nothing behind the final status."""
    first, last = {}, {}
    for run in seen.runs:
        if run["generation"]:
            continue  # a replay begins anew behind the first end
        told = _status_calls(seen, run["job_id"])
        first[run["run_id"]] = next((call.id for call, status in told if status == "RUNNING"), None)
        last[run["run_id"]] = next((call.id for call, status in told if status in FINAL), None)
        if any(status == "RUNNING" for call, status in told if (last[run["run_id"]] or call.id) < call.id):
            yield f"job {run['job_id']}: RUNNING behind the final status"
    for call in seen.calls:
        run_id = call.token.rpartition(":")[0]
        if run_id not in first or ("/job/" in call.path and not call.path.endswith("/message")):
            continue
        begun, ended = first[run_id], last[run_id]
        if begun is None or call.id < begun:
            yield f"{call.method} {call.path} ({call.token}) before RUNNING"
        elif ended is not None and call.id > ended:
            yield f"{call.method} {call.path} ({call.token}) behind the final status"


# When all is over


def every_run_ended(seen: Evidence) -> Iterator[str]:
    """Every run ended, and every file of it: nothing is lost."""
    for run in seen.runs:
        if run["state"] not in ENDED_RUN:
            states = Counter(file["state"] for file in seen.files.get(run["run_id"], []))
            yield f"run {run['run_id']} is {run['state']}, its files {dict(states)}"


def every_file_accounted_for(seen: Evidence) -> Iterator[str]:
    """done + failed + dead + cancelled = total, and the total is what was asked for, each path once."""
    for run in seen.runs:
        files = seen.files.get(run["run_id"], [])
        ended = sum(file["state"] in ENDED_FILE for file in files)
        if ended != run["files_total"]:
            yield f"run {run['run_id']}: {ended} files ended of {run['files_total']}"
        asked = _asked(seen, run)
        paths = Counter(file["path"].removeprefix("/") for file in files)
        if asked is not None and paths != Counter(asked):
            yield f"run {run['run_id']}: {len(asked)} files were asked for, {paths.total()} are there"


def every_outcome_expected(seen: Evidence) -> Iterator[str]:
    """Every file is done but those the load made to fail, and these have the class they should."""
    for run in seen.runs:
        failing: Mapping[str, Sequence[str]] = {}
        for post in seen.by_job.get(run["job_id"], []):
            failing = {**failing, **post.failing}
        for file in seen.files.get(run["run_id"], []):
            allowed = failing.get(file["path"].removeprefix("/"))
            if allowed is None and file["state"] != "done":
                yield f"{_name(run, file)} is {file['state']} ({file['error_class']})"
            elif allowed is not None and file["state"] not in ("done", *ENDED_FILE[1:3]):
                yield f"{_name(run, file)} is {file['state']}"
            elif allowed is not None and file["state"] != "done" and file["error_class"] not in allowed:
                yield f"{_name(run, file)} failed as {file['error_class']}, allowed are {list(allowed)}"


def nothing_owed(seen: Evidence) -> Iterator[str]:
    """The outbox is empty: every report was sent, none set aside."""
    for run in seen.runs:
        for row in seen.outbox.get(run["run_id"], []):
            if row["state"] != "sent":
                told = f"is {row['state']} ({row['error_class']})"
                yield f"run {run['run_id']} report {row['seq']} ({row['kind']}) {told}"


def labdrive_agrees(seen: Evidence) -> Iterator[str]:
    """LABDRIVE has what the ledger says it was sent: hashes, messages, the statuses in order."""
    carried_out = {call.token for call in seen.calls}
    for run in seen.runs:
        job_id, owed = run["job_id"], seen.outbox.get(run["run_id"], [])
        for row in owed:
            if (
                row["state"] == "sent"
                and row["kind"] != "status"
                and f"{run['run_id']}:{row['seq']}" not in carried_out
            ):
                yield f"run {run['run_id']} report {row['seq']} ({row['kind']}) is sent, and LABDRIVE never had it"
        wanted = [row["body"]["status"] for row in _statuses_owed(seen, run) if row["state"] == "sent"]
        if (took := _changes(seen.statuses.get(job_id, []))[1:]) != _changes(wanted):
            yield f"job {job_id} took {took}, the ledger sent {wanted}"
        if wanted and wanted[-1] != {"completed": "COMPLETED", "failed": "FAILED"}.get(run["state"], wanted[-1]):
            yield f"job {job_id} is {wanted[-1]}, run {run['run_id']} is {run['state']}"
        messages = Counter(seen.messages.get(job_id, []))
        sent = Counter(json.loads(row["body"])["text"] for row in owed if row["kind"] == "message")
        for text in sent - messages:
            yield f"job {job_id} lacks the message {text!r}"
        for text in messages.keys() - sent.keys():
            yield f"job {job_id} has a message nobody owed: {text!r}"
        for file in seen.files.get(run["run_id"], []):
            stored = seen.hashes.get(str(file["file_id"]), {})
            if file["state"] == "done" and stored != json.loads(file["digests"] or "{}"):
                yield f"{_name(run, file)}: LABDRIVE has {stored or 'no hash'}, the ledger {file['digests']}"


ALWAYS: Final[tuple[Check, ...]] = (
    one_run_for_each_event,
    ledger_proves_itself,
    counters_are_right,
    no_wrong_digest,
    no_running_without_lease,
    one_result_for_each_file,
    one_final_status,
    reports_in_order,
)
AT_THE_END: Final[tuple[Check, ...]] = (
    every_run_ended,
    every_file_accounted_for,
    every_outcome_expected,
    nothing_owed,
    labdrive_agrees,
)


def check(seen: Evidence, *, ended: bool = True) -> Verdict:
    """Hold the evidence to every invariant; with `ended` false only to those that hold while work goes on."""
    found = []
    for invariant in (*ALWAYS, *AT_THE_END) if ended else ALWAYS:
        broken = list(invariant(seen))
        if broken:
            found.append(Breach(name=invariant.__name__, count=len(broken), examples=tuple(broken[:EXAMPLES])))
    return Verdict(breaches=tuple(found), figures=_figures(seen, found))


def _figures(seen: Evidence, found: Sequence[Breach]) -> dict[str, int | float]:
    counts = {breach.name: breach.count for breach in found}
    files = [file for files in seen.files.values() for file in files]
    reports = [row for rows in seen.outbox.values() for row in rows]
    tokens = Counter(call.token for call in seen.calls if call.token)
    expected = sum(len(asked) for run in seen.runs if (asked := _asked(seen, run)) is not None)
    told_again = sum(len(took) - len(_changes(took)) for took in seen.statuses.values())
    return {
        "events": sum(any(post.accepted for post in posts) for posts in seen.by_job.values()),
        "answers_lost": sum(post.status is None for post in seen.posts),
        "answers_503": sum(post.status == 503 for post in seen.posts),
        "runs": len(seen.runs),
        "files": len(files),
        "lost": max(0, expected - sum(file["state"] in ENDED_FILE for file in files))
        + sum(run["state"] not in ENDED_RUN for run in seen.runs),
        "wrong": counts.get("no_wrong_digest", 0),
        "doubled": counts.get("one_final_status", 0) + counts.get("one_result_for_each_file", 0),
        "dead": sum(file["state"] == "dead" for file in files),
        "failed": sum(file["state"] == "failed" for file in files),
        "attempts": sum(file["attempts"] for file in files),
        "leases_lost": sum(file["lost_leases"] for file in files),
        "handed_out_per_file": round(sum(file["epoch"] for file in files) / max(1, len(files)), 4),
        "reports": len(reports),
        "calls_per_report": round(seen.calls_in_all / max(1, len(reports)), 4),
        "reports_told_again": sum(tokens.values()) - len(tokens),
        "statuses_told_again": told_again,
        "messages_doubled": sum(len(told) - len(set(told)) for told in seen.messages.values()),
    }


def _known_files(seen: Evidence) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Sequence[Mapping[str, str]]]]:
    for run in seen.runs:
        items = seen.manifest.items.get(run["container_id"], {})
        for file in seen.files.get(run["run_id"], []):
            if (item := items.get(file["path"].removeprefix("/"))) is not None:
                yield run, file, item.digests


def _asked(seen: Evidence, run: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the paths of a run as they were posted, None when nobody posted it."""
    for post in seen.by_job.get(run["job_id"], []):
        return list(seen.manifest.items[post.container]) if post.paths is None else post.paths
    return None


def _statuses_owed(seen: Evidence, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = seen.outbox.get(run["run_id"], [])
    return [{**row, "body": json.loads(row["body"])} for row in rows if row["kind"] == "status"]


def _status_calls(seen: Evidence, job_id: str) -> list[tuple[Call, str]]:
    """Return the calls that set a job's status with the status each set; the first status a job has is no call's."""
    path = f"/api/job/{job_id}"
    calls = [call for call in seen.calls if call.method == "PUT" and call.path == path]
    return list(zip(calls, seen.statuses.get(job_id, [])[1:], strict=False))


def _changes(statuses: Sequence[str]) -> list[str]:
    return [status for place, status in enumerate(statuses) if place == 0 or statuses[place - 1] != status]


def _name(run: Mapping[str, Any], file: Mapping[str, Any]) -> str:
    return f"run {run['run_id']} file {file['file_no']} {file['path']}"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--load", type=Path, required=True)
    options.add_argument("--ledger", required=True)
    options.add_argument("--sandbox", type=Path, required=True)
    options.add_argument("--open", action="store_true")
    asked = options.parse_args()
    verdict = check(gather(asked.load, ledger_url=asked.ledger, sandbox=asked.sandbox), ended=not asked.open)
    print(verdict)
    return 1 if verdict.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
