"""What LABDRIVE's users read."""

import pytest

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import JobStatus, MessageType, ReportKind
from hashmill.flow import words

DIGESTS = {"md5": "aa", "sha1": "bb", "sha256": "cc"}


def test_each_digest_has_the_seeds_message_and_then_its_hash() -> None:
    reports = words.hashed(7, "42", DIGESTS, messages="per_digest")

    assert [report.body.get("text") for report in reports[:3]] == [
        "File hash calculated: MD5    - aa",
        "File hash calculated: SHA1   - bb",
        "File hash calculated: SHA256 - cc",
    ]
    assert all(report.body["file_id"] == "42" and report.file_no == 7 for report in reports)
    assert [(report.body["algorithm"], report.body["digest"]) for report in reports[3:]] == list(DIGESTS.items())


@pytest.mark.parametrize(("messages", "count"), [("per_digest", 3), ("per_file", 1), ("summary", 0)])
def test_the_knob_turns_messages_down_and_leaves_every_hash(messages: str, count: int) -> None:
    kinds = [report.kind for report in words.hashed(1, "1", DIGESTS, messages=messages)]

    assert kinds == [ReportKind.MESSAGE] * count + [ReportKind.HASH] * 3


def test_one_message_per_file_names_every_digest() -> None:
    (message, *_) = words.hashed(1, "1", DIGESTS, messages="per_file")

    assert message.body["text"] == "File hashes calculated: MD5 aa, SHA1 bb, SHA256 cc"


@pytest.mark.parametrize(("messages", "count"), [("per_digest", 1), ("per_file", 1), ("summary", 0)])
def test_a_failed_file_is_told_unless_only_a_summary_is_wanted(messages: str, count: int) -> None:
    reports = words.failed(3, "9", "a/b", ErrorClass.S3_NOT_FOUND, "no such key", messages=messages)

    assert len(reports) == count
    assert all("a/b: s3.not_found: no such key" in report.body["text"] for report in reports)
    assert all(report.body["type"] is MessageType.ERROR for report in reports)


def test_the_closing_message_counts_what_failed_and_why() -> None:
    report = words.closing(
        files=64,
        size_bytes=1000,
        algorithms=["md5", "sha1"],
        failed_by_class={"s3.truncated": 1, "s3.not_found": 2},
        undelivered_by_class={"api.rejected": 5},
        error_class=None,
        error_detail=None,
    )

    assert report.body["text"] == (
        "61 of 64 files hashed (md5, sha1; 1000 bytes); 3 failed: s3.not_found 2, s3.truncated 1; "
        "5 reports not accepted: api.rejected 5"
    )
    assert report.body["type"] is MessageType.ERROR


def test_a_good_end_is_said_as_information() -> None:
    report = words.closing(
        files=2,
        size_bytes=3,
        algorithms=["md5"],
        failed_by_class={},
        undelivered_by_class={},
        error_class=None,
        error_detail=None,
    )

    assert report.body == {
        "text": "2 of 2 files hashed (md5; 3 bytes)",
        "type": MessageType.INFO,
        "file_id": None,
        "closing": True,
    }


def test_a_status_is_a_report_of_its_own_kind() -> None:
    assert words.status(JobStatus.COMPLETED).kind is ReportKind.STATUS
