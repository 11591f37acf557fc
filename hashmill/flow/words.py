"""What LABDRIVE's users read: the texts of job messages, and the bodies of the reports that carry them."""

from collections.abc import Mapping, Sequence
from typing import Final

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import JobStatus, MessageType, ReportKind
from hashmill.domain.text import one_line
from hashmill.domain.verdict import Verdict
from hashmill.domain.work import Report

LINES_MAX: Final = 100
LINE_MAX_CHARS: Final = 2000


def status(value: JobStatus) -> Report:
    """Return the report of a job status."""
    return Report(kind=ReportKind.STATUS, body={"status": value})


def message(text: str, *, type: MessageType = MessageType.INFO) -> Report:
    """Return a job message that belongs to no file."""
    return _said(None, text, type, None)


def hashed(file_no: int, file_id: str, digests: Mapping[str, str], *, messages: str) -> list[Report]:
    """Return what is owed for one hashed file: messages as the knob says, then one hash per algorithm.

    The wording of a digest's message is the seed's.
    """
    texts: list[str] = []
    if messages == "per_digest":
        texts = [f"File hash calculated: {_shown(name):<6} - {digest}" for name, digest in digests.items()]
    elif messages == "per_file":
        texts = ["File hashes calculated: " + ", ".join(f"{_shown(name)} {digest}" for name, digest in digests.items())]
    told = [_said(file_no, text, MessageType.INFO, file_id) for text in texts]
    return [*told, *_stored(file_no, file_id, digests)]


def failed(
    file_no: int | None, file_id: str | None, path: str, error_class: ErrorClass, detail: str, *, messages: str
) -> list[Report]:
    """Return what is owed for a file that could not be hashed; `summary` leaves it to the closing message."""
    if messages == "summary":
        return []
    # Who is told that nothing was hashed would look for an outage, where the bytes themselves are in doubt.
    what = "File in doubt" if error_class is ErrorClass.S3_CHECKSUM_DIFFERS else "File not hashed"
    text = f"{what}: {path or file_id}: {error_class}: {detail}"
    return [_said(file_no, text, MessageType.ERROR, file_id)]


def attested(file_no: int, file_id: str, path: str, verdict: Verdict, said: str, messages: str) -> list[Report]:
    """Return what is owed for a file whose storage was asked, and nothing read: one message, and never a hash."""
    if messages == "summary":
        return []
    what = "File in doubt" if verdict is Verdict.DISPUTED else "File not read"
    type = MessageType.ERROR if verdict is Verdict.DISPUTED else MessageType.INFO
    text = f"{what}: {path or file_id}: {verdict}: {said}"
    return [_said(file_no, text, type, file_id)]


def worked(
    file_no: int,
    file_id: str,
    path: str,
    *,
    messages: Sequence[tuple[str, str, str | None]],
    output: str,
    hashes: Mapping[str, Mapping[str, str]],
    fault: str | None,
) -> list[Report]:
    """Return what is owed for a file that a researcher's function ran for: what it told, what it printed, its hashes.

    `messages` are text, level and file id; of what it printed the first `LINES_MAX` lines are told.
    """
    told = [
        _said(file_no, text, MessageType.ERROR if level == "ERROR" else MessageType.INFO, of_file)
        for text, level, of_file in messages
    ]
    lines = [line for line in output.splitlines() if line.strip()]
    printed = [one_line(line, max_chars=LINE_MAX_CHARS) for line in lines[:LINES_MAX]]
    if len(lines) > LINES_MAX:
        printed.append(f"… and {len(lines) - LINES_MAX} more lines")
    told += [_said(file_no, line, MessageType.INFO, file_id) for line in printed]
    stored = [report for of_file, digests in hashes.items() for report in _stored(file_no, of_file, digests)]
    if fault:
        stored.append(_said(file_no, f"File not processed: {path or file_id}: {fault}", MessageType.ERROR, file_id))
    return [*told, *stored]


def closing(
    *,
    files: int,
    size_bytes: int,
    algorithms: list[str],
    failed_by_class: Mapping[str, int],
    undelivered_by_class: Mapping[str, int],
    error_class: str | None,
    error_detail: str | None,
    verdicts: Mapping[str, int] | None = None,
    function: str | None = None,
) -> Report:
    """Return the last message of a job: what was done, and what failed and why, counted.

    `verdicts` count the files of a run that read none; `function` is whose run it was.
    It is marked as `closing`, so that a replay does not send one that tells of the end before.
    """
    failures = sum(failed_by_class.values())
    parts = [f"{files - failures} of {files} files hashed ({', '.join(algorithms)}; {size_bytes} bytes)"]
    if verdicts is not None:
        parts = [f"no file was read; the storage was asked about {files} ({_counted(verdicts) or 'none'})"]
    if function is not None:
        parts = [f"{files - failures} of {files} files processed by function {function}"]
    if failures:
        parts.append(f"{failures} failed: {_counted(failed_by_class)}")
    if undelivered_by_class:
        undelivered = sum(undelivered_by_class.values())
        parts.append(f"{undelivered} reports not accepted: {_counted(undelivered_by_class)}")
    if error_class:
        parts.append(f"not all files could be listed: {error_class}: {error_detail}")
    wrong = bool(failures or undelivered_by_class or error_class)
    said = message("; ".join(parts), type=MessageType.ERROR if wrong else MessageType.INFO)
    return Report(kind=said.kind, body={**said.body, "closing": True})


def _said(file_no: int | None, text: str, type: MessageType, file_id: str | None) -> Report:
    body = {"text": text, "type": type, "file_id": file_id}
    return Report(kind=ReportKind.MESSAGE, file_no=file_no, body=body)


def _stored(file_no: int, file_id: str, digests: Mapping[str, str]) -> list[Report]:
    return [
        Report(
            kind=ReportKind.HASH,
            file_no=file_no,
            body={"file_id": file_id, "algorithm": name, "digest": digest},
        )
        for name, digest in digests.items()
    ]


def _counted(by_class: Mapping[str, int]) -> str:
    return ", ".join(f"{error_class} {count}" for error_class, count in sorted(by_class.items()))


def _shown(name: str) -> str:
    return name.upper()
