"""A ledger with runs in it that have ended, well and badly, as the service would have left them."""

from collections.abc import Mapping, Sequence

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, JobStatus, RunState, SizeClass
from hashmill.domain.secret import Secret
from hashmill.domain.work import FileOutcome, NewFile
from hashmill.flow import words
from hashmill.ledger import entries, expansions, files, outbox, runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.ledger.seal import Sealer
from tests.helpers.ledger import accept_run, claim, claim_expansion, get_run, queue_ticket

SEAL_KEY = "aGFzaG1pbGwgdGVzdHMsIG5vdCBhIHJlYWwga2V5ISE="
DIGESTS = {"md5": "0" * 32, "sha256": "1" * 64}


def open_run(ledger: Ledger, paths: Sequence[str], *, job_id: str = "4711", size_bytes: int = 1000) -> Run:
    """Add a run whose files are listed and none of them read; its key is sealed with SEAL_KEY."""
    run = accept_run(ledger, key=entries.new_id(), job_id=job_id)
    ledger.write_now(Sealer(Secret(SEAL_KEY)).put, run.run_id, {"user": Secret("the-users-key")})
    expansion = claim_expansion(ledger, run.run_id)
    found = [
        NewFile(
            file_ref=str(number),
            file_id=str(number),
            path=path,
            size_bytes=size_bytes,
            size_class=SizeClass.TINY,
        )
        for number, path in enumerate(paths, 101)
    ]
    ledger.write_now(expansions.add_files, expansion, found, cursor={}, lease_s=30)
    ledger.write_now(expansions.end, expansion, {})
    return get_run(ledger, run.run_id)


def read_files(ledger: Ledger, run: Run, count: int, failures: Mapping[str, ErrorClass] | None = None) -> None:
    """Read the next `count` files of a run; those whose path is in `failures` fail with that class."""
    outcomes = []
    for file in claim(ledger, queue_ticket(ledger, run, limit=count)):
        error_class = (failures or {}).get(file.path)
        outcome = FileOutcome(
            file_no=file.file_no,
            fence=file.fence,
            state=FileState.FAILED if error_class else FileState.DONE,
            error_class=error_class,
            error_detail="it went wrong" if error_class else None,
            size_bytes=file.size_bytes,
            digests={} if error_class else DIGESTS,
            verdict="unreadable" if error_class else "no_baseline",
            entry={"file_no": file.file_no, "path": file.path, "digests": {} if error_class else DIGESTS},
        )
        outcomes.append(outcome)
    assert ledger.write_now(files.settle, run.run_id, outcomes) == 0


def end_run(ledger: Ledger, run: Run) -> Run:
    """Deliver what a settled run owes, and end it as its files went."""
    _deliver(ledger, run)
    good = not get_run(ledger, run.run_id).files_failed
    ledger.write_now(runs.close, run, [words.status(JobStatus.COMPLETED if good else JobStatus.FAILED)])
    _deliver(ledger, run)
    ledger.write_now(
        runs.end,
        run,
        state=RunState.COMPLETED if good else RunState.FAILED,
        error_class=None if good else "s3.not_found",
        error_detail=None if good else "1 files s3.not_found",
        entry={},
    )
    return get_run(ledger, run.run_id)


def failed_run(ledger: Ledger, *, job_id: str = "4711") -> Run:
    """Add a run of three files that ended with one of them missing."""
    run = open_run(ledger, ["a/one.txt", "a/two.txt", "a/gone.txt"], job_id=job_id)
    read_files(ledger, run, 3, {"a/gone.txt": ErrorClass.S3_NOT_FOUND})
    return end_run(ledger, run)


def completed_run(ledger: Ledger, *, job_id: str = "4711") -> Run:
    """Add a run of two files that ended well."""
    run = open_run(ledger, ["b/one.txt", "b/two.txt"], job_id=job_id)
    read_files(ledger, run, 2)
    return end_run(ledger, run)


def number_entries(ledger: Ledger) -> None:
    """Give every entry its number, as the sequencer would."""
    while ledger.write_now(entries.number):
        pass


def _deliver(ledger: Ledger, run: Run) -> None:
    while taken := ledger.write_now(outbox.take, run.run_id):
        ledger.write_now(outbox.mark, run.run_id, sent=[report.seq for report in taken])
