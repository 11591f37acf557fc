"""Every name of the library does what the documents say, against a LABDRIVE that was written without it."""

import json
import random
from pathlib import Path

import numpy
import pytest
from libnova import Util
from libnova.common.api import File as CommonFile
from libnova.common.api.JobMessage import JobMessageType as CommonType
from libnova.common.nuclio.Request import Request as CommonRequest
from libnova.errors import ApiRejected, NotDelivered
from libnova.Labdrive.Api import Container, Driver, File, Job, JobMessage
from libnova.Labdrive.Filesystem import S3
from libnova.Labdrive.Nuclio.Request import Request

from tests.helpers.researcher import SAMPLE_KEY, Desk, event


def test_a_request_runs_its_job_and_says_with_one_two_and_three_arguments_what_happens(place: Desk) -> None:
    file_id, job_id = place.put("said.bin", b"x"), place.job()
    request = Request(None, event(ids=[file_id], job=job_id))

    request.job_init()
    request.log("one")
    request.log("two", JobMessage.JobMessageType.ERROR)
    request.log("three", JobMessage.JobMessageType.INFO, file_id)
    request.job_end(False)

    job = place.ask(lambda: place.sandbox.job(job_id))
    assert job.statuses == ["PENDING", "RUNNING", "FAILED"]
    messages = place.ask(lambda: place.sandbox.messages(job_id))
    assert [(one.message, one.type, one.file_id) for one in messages] == [
        ("one", "INFO", None),
        ("two", "INFO", None),  # only INFO is known of the platform: the table says so
        ("three", "INFO", file_id),
    ]
    assert [one["message"] for one in JobMessage.list(job_id)] == ["one", "two", "three"]
    assert Job.get(job_id)["status"] == "FAILED"


def test_the_second_generation_of_names_is_the_same_library(place: Desk) -> None:
    file_id, job_id = place.put("second.bin", b"x"), place.job()

    request = CommonRequest(None, event(ids=[int(file_id)], job=job_id, block="function_data"))
    request.log("hello", CommonType.INFO, file_id)

    assert request.JSONData["function_data"]["files"]["ids"] == [int(file_id)]
    assert [one.id for one in request.Files] == [file_id]
    assert request.function_params == {"depth": "full"}
    assert CommonFile.get_metadata is File.get_metadata
    assert place.ask(lambda: place.sandbox.messages(job_id))[0].message == "hello"


def test_files_come_by_id_then_by_path_each_once(place: Desk) -> None:
    first, second = place.put("by/id.bin", b"1"), place.put("by/ä path+%.bin", b"22")
    files = Request(None, event(ids=[first, first], paths=["/by/ä path+%.bin", "by/ä path+%.bin"])).Files

    assert len(files) == 2
    assert [(one.id, one.path, one.name, one.size_bytes) for one in files] == [
        (first, "by/id.bin", "id.bin", 1),
        (second, "by/ä path+%.bin", "ä path+%.bin", 2),
    ]
    assert files[1].container_id == "1"
    assert File.get(second).path == File.get_by_path("1", "by/ä path+%.bin").path


def test_going_through_files_asks_labdrive_nothing(place: Desk) -> None:
    request = Request(None, event(ids=[str(n) for n in range(10_000)]))
    before = place.ask(lambda: place.sandbox.count_calls())

    assert sum(1 for one in request.Files if one.id) == 10_000
    assert place.ask(lambda: place.sandbox.count_calls()) == before


def test_a_container_lists_every_file_and_no_folder(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "PAGE", 7)
    container = place.ask(lambda: place.sandbox.add_container("Many"))
    names = [f"/d/{n:03}.bin" for n in range(50)]
    place.ask(lambda: [place.sandbox.add_file(container, name) for name in names])

    assert sorted(f"/{one.path}" for one in Container.files(container)) == names
    assert Container.get(container)["name"] == "Many"


def test_metadata_is_written_read_and_flattened(place: Desk) -> None:
    file_id = place.put("described.bin", b"x")
    assert File.get_metadata(file_id) is None
    assert File.get_metadata(file_id, True) is None

    File.set_metadata(file_id, json.dumps({"metadata": [{"iecode": "title", "value": "A title"}]}))
    File.set_metadata_values(file_id, json.dumps([{"iecode": "creator", "value": ["Ada", "Grace"]}]))

    assert File.get_metadata(file_id, True) == {"title": "A title", "creator": ["Ada", "Grace"]}
    entries = File.get_metadata(file_id)
    assert [(one["iecode"], one["value"]) for one in entries] == [
        ("title", "A title"),
        ("creator", "Ada"),
        ("creator", "Grace"),
    ]
    File.set_metadata_values(file_id, [{"iecode": "creator", "value": ["Edsger"]}])
    assert File.get_metadata(file_id, True)["creator"] == "Edsger"
    for wrong in ("{", "[]", {"other": []}):
        with pytest.raises(ApiRejected, match="metadata"):
            File.set_metadata(file_id, wrong)  # type: ignore[arg-type]


def test_hashes_are_stored_and_read_back(place: Desk) -> None:
    file_id = place.put("hashed.bin", b"x")
    assert File.get_hash(file_id) == {}
    assert File.get_hash(file_id, "md5") is None

    File.set_hash(file_id, "md5", "0" * 32)
    File.set_hash(file_id, "my-own", "abc")

    assert File.get_hash(file_id, "md5") == "0" * 32
    assert File.get_hash(file_id) == {"md5": "0" * 32, "my-own": "abc"}


def test_the_storage_says_which_bucket_and_shows_no_key(place: Desk) -> None:
    request = Request(None, event())

    assert request.Storage.bucket == place.bucket
    assert place.s3.secret_access_key not in repr(request.Storage)
    assert SAMPLE_KEY not in repr(Driver.current())


def test_a_file_is_read_through_the_storage(place: Desk) -> None:
    content = random.Random(1).randbytes(300_000)
    request = Request(None, event(ids=[place.put("read me.bin", content)]))

    stream = S3.File.get_stream(request.Storage, request.Files[0])
    assert stream is not None
    with stream:
        assert (stream.name, stream.size_bytes) == ("read me.bin", len(content))
        assert stream.read() == content
    by_id = S3.File.get_stream(request.Storage, request.Files[0].id)
    assert by_id is not None
    with by_id:
        assert by_id.read(10) == content[:10]


def test_an_event_and_a_capture_of_the_environment_win(
    place: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file_id, job_id = place.put("captured.bin", b"x"), place.job()
    told = tmp_path / "event.json"
    told.write_text(event(ids=[file_id], job=job_id).body)
    monkeypatch.setenv("LIBNOVA_EVENT", str(told))
    monkeypatch.setenv("LIBNOVA_CAPTURE", str(tmp_path / "captured"))
    request = Request(None, event(ids=["1", "2"], job="299"))

    request.job_init()
    request.log("seen", JobMessage.JobMessageType.WARNING, file_id)
    File.set_hash(file_id, "md5", "00")
    request.job_end(True)

    assert [one.id for one in request.Files] == [file_id]
    kept = [json.loads(line) for line in (tmp_path / "captured").read_text().splitlines()]
    assert [(one["call"], one["job_id"], one["status"]) for one in (kept[0], kept[-1])] == [
        ("set_job_status", job_id, "RUNNING"),
        ("set_job_status", job_id, "COMPLETED"),
    ]
    assert (kept[1]["call"], kept[1]["text"], kept[1]["level"], kept[1]["file_id"]) == (
        "create_message", "seen", "WARNING", file_id
    )  # fmt: skip
    assert kept[2] == {"call": "set_hash", "file_id": file_id, "algorithm": "md5", "hexdigest": "00"}
    assert place.ask(lambda: place.sandbox.job(job_id)).statuses == ["PENDING"]
    assert File.get_hash(file_id) == {}


def test_what_is_captured_and_would_not_be_delivered_is_refused(
    place: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file_id = place.put("kept.bin", b"x")
    monkeypatch.setenv("LIBNOVA_CAPTURE", str(tmp_path / "captured"))

    for write in (
        lambda: File.set_metadata(file_id, {"metadata": [{"iecode": "title", "value": "A title"}]}),
        lambda: File.set_metadata_values(file_id, [{"iecode": "title", "value": ["A title"]}]),
    ):
        with pytest.raises(NotDelivered, match="cannot write metadata yet"):
            write()
    with pytest.raises(NotDelivered, match="delete_file"):
        Driver.current().call("delete_file", file_id=file_id)

    assert File.get_metadata(file_id) is None
    assert not (tmp_path / "captured").exists()


def test_json_is_shown_for_people() -> None:
    assert Util.format_json_item({"ä": [1, None]}) == '{\n    "ä": [\n        1,\n        null\n    ]\n}'
    assert "object" in Util.format_json_item(object())
    assert Util.format_json_item({(1, 2): "pair"}) == "{(1, 2): 'pair'}"
    ring: list[object] = [1]
    ring.append(ring)
    assert "Recursion" in Util.format_json_item(ring)


def test_a_job_is_ended_by_true_or_false_only(place: Desk) -> None:
    job_id = place.job()
    request = Request(None, event(job=job_id))
    for neither in ("False", "", None, [], 2):
        with pytest.raises(ApiRejected, match="True or False"):
            request.job_end(neither)  # type: ignore[arg-type]
    assert place.ask(lambda: place.sandbox.job(job_id)).statuses == ["PENDING"]

    request.job_end(numpy.bool_(False))  # type: ignore[arg-type]

    assert place.ask(lambda: place.sandbox.job(job_id)).statuses == ["PENDING", "FAILED"]
