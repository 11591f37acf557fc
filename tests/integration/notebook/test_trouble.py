"""What goes wrong says what to do about it, to somebody who is no programmer."""

import logging
from pathlib import Path

import pytest
import requests
from libnova.errors import (
    AnswerUnreadable,
    ApiRejected,
    ApiUnavailable,
    EventInvalid,
    KeyMissing,
    KeyRefused,
    NotFound,
    SettingMissing,
    StorageRefused,
    StorageUnavailable,
    TableInvalid,
)
from libnova.Labdrive.Api import File, Job
from libnova.Labdrive.Filesystem import S3
from libnova.Labdrive.Nuclio.Request import Request

from hashmill.sandbox import FaultAction, FaultRule
from tests.helpers.researcher import SAMPLE_KEY, Desk, event


@pytest.mark.usefixtures("place")
def test_without_a_key_nothing_is_asked() -> None:
    with pytest.raises(KeyMissing, match="Access Methods"):
        Request(None, event(key=""))


@pytest.mark.usefixtures("place")
def test_a_wrong_key_is_named_and_not_shown() -> None:
    request = Request(None, event(job="299", key="wrong-key-0815"))

    with pytest.raises(KeyRefused, match=r"does not know this API key .*Copy it anew") as raised:
        request.job_init()
    assert "wrong-key-0815" not in str(raised.value)


@pytest.mark.usefixtures("place")
def test_a_key_that_may_only_read_is_told_so() -> None:
    with pytest.raises(KeyRefused, match="may only read"):
        Request(None, event(job="299", key="key-of-reader")).job_init()


@pytest.mark.usefixtures("place")
def test_the_environment_s_key_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBNOVA_API_KEY", SAMPLE_KEY)

    Request(None, event(job="299", key="wrong-key-0815")).job_init()


@pytest.mark.usefixtures("place")
def test_a_job_that_is_not_there_or_not_named() -> None:
    with pytest.raises(NotFound, match="there is no job 987654"):
        Request(None, event(job="987654")).job_init()
    for none in ("", "0"):
        with pytest.raises(EventInvalid, match=r"labdrive\.job\.id"):
            Request(None, event(job=none)).job_init()
    with pytest.raises(NotFound):
        Job.get("987654")


@pytest.mark.usefixtures("place")
def test_an_unknown_file() -> None:
    with pytest.raises(NotFound, match="there is no file 987654"):
        File.get_metadata("987654")
    with pytest.raises(NotFound):
        File.set_hash("987654", "md5", "0" * 32)
    request = Request(None, event(ids=["987654"]))
    with pytest.raises(NotFound):
        S3.File.get_stream(request.Storage, request.Files[0])


def test_a_missing_object_is_none_with_a_reason_in_the_log_and_the_job(
    place: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    file_id = place.ask(lambda: place.sandbox.add_file("1", "/only/a/row.bin", size_bytes=3))
    job_id = place.job()
    request = Request(None, event(ids=[file_id], job=job_id))

    with caplog.at_level(logging.WARNING):
        assert S3.File.get_stream(request.Storage, request.Files[0]) is None

    assert f"file {file_id} was not read: there is no object 1/only/a/row.bin" in caplog.text
    (message,) = place.ask(lambda: place.sandbox.messages(job_id))
    assert (message.file_id, message.message.partition(":")[0]) == (file_id, f"File {file_id} was not read")


def test_a_folder_has_no_bytes(place: Desk, caplog: pytest.LogCaptureFixture) -> None:
    answer = requests.post(
        f"{place.url}/api/container/1/folder",
        json={"path": "folder"},
        headers={"Authorization": f"Bearer {SAMPLE_KEY}"},
        timeout=60,
    )
    request = Request(None, event(ids=[answer.json()["result"]["id"]]))

    assert S3.File.get_stream(request.Storage, request.Files[0]) is None
    assert "it is a folder" in caplog.text


def test_an_s3_key_pair_that_is_refused_or_missing(
    place: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file_id = place.put("locked.bin", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    request = Request(None, event(ids=[file_id]))
    with pytest.raises(StorageRefused, match=r"Make a new pair .*AWS_SECRET_ACCESS_KEY"):
        S3.File.get_stream(request.Storage, request.Files[0])

    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    request = Request(None, event(ids=[file_id]))
    with pytest.raises(StorageRefused, match="There is no S3 key pair"):
        S3.File.get_stream(request.Storage, request.Files[0])


def test_an_s3_server_that_is_not_there(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = place.put("away.bin", b"x")
    monkeypatch.setenv("LIBNOVA_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("libnova.Labdrive.Filesystem.S3.Storage.TRIES", 1)
    request = Request(None, event(ids=[file_id]))
    with pytest.raises(StorageUnavailable, match="LIBNOVA_S3_ENDPOINT_URL"):
        S3.File.get_stream(request.Storage, request.Files[0])

    monkeypatch.setenv("LIBNOVA_S3_ENDPOINT_URL", "no address")
    request = Request(None, event(ids=[file_id]))
    with pytest.raises(SettingMissing, match="LIBNOVA_S3_ENDPOINT_URL"):
        S3.File.get_stream(request.Storage, request.Files[0])


def test_no_bucket_is_said(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBNOVA_S3_BUCKET")
    request = Request(None, event(ids=[place.put("nowhere.bin", b"x")]))
    with pytest.raises(SettingMissing, match="LIBNOVA_S3_BUCKET"):
        S3.File.get_stream(request.Storage, request.Files[0])


@pytest.mark.parametrize("bucket", ["no-such-bucket-4711", "no bucket/at all"])
def test_a_bucket_that_is_not_there_is_no_missing_file(
    place: Desk, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    monkeypatch.setenv("LIBNOVA_S3_BUCKET", bucket)
    request = Request(None, event(ids=[place.put("elsewhere.bin", b"x")]))
    for _ in range(2):
        with pytest.raises(SettingMissing, match="LIBNOVA_S3_BUCKET"):
            S3.File.get_stream(request.Storage, request.Files[0])


def test_a_bucket_that_is_there_is_asked_for_once(place: Desk) -> None:
    missing = [place.ask(lambda name=name: place.sandbox.add_file("1", f"/row/{name}", size_bytes=3)) for name in "abc"]  # type: ignore[misc]
    request = Request(None, event(ids=missing))
    asked: list[object] = []
    request.Storage.client.meta.events.register("before-call.s3.HeadBucket", lambda **call: asked.append(call))

    assert [S3.File.get_stream(request.Storage, file) for file in request.Files] == [None, None, None]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("AWS_PROFILE", "nope", "AWS_PROFILE names a profile"),
        ("LIBNOVA_S3_ADDRESSING", "x", "LIBNOVA_S3_ADDRESSING is one of path, virtual, auto"),
    ],
)
def test_a_setting_of_s3_that_is_none_is_named(
    place: Desk, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    request = Request(None, event(ids=[place.put("unset.bin", b"x")]))
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingMissing, match=told):
        S3.File.get_stream(request.Storage, request.Files[0])


@pytest.mark.parametrize("action", [FaultAction.HTML, FaultAction.NOT_JSON])
def test_an_answer_that_is_no_json(place: Desk, action: FaultAction) -> None:
    place.set_faults(FaultRule(action=action, code=200))

    with pytest.raises(AnswerUnreadable, match=r"not with LABDRIVE's JSON: .*login page"):
        File.get("1")


def test_an_answer_that_is_cut_is_asked_for_again(place: Desk) -> None:
    file_id = place.put("answered.bin", b"x")
    place.set_faults(FaultRule(action=FaultAction.CUT, times=1))

    assert File.get(file_id).name == "answered.bin"


def test_a_labdrive_that_is_busy_for_a_moment_is_asked_again(place: Desk) -> None:
    file_id = place.put("busy.bin", b"x")
    place.set_faults(FaultRule(action=FaultAction.STATUS, code=503, times=2))

    assert File.get(file_id).name == "busy.bin"


def test_a_message_is_never_written_twice_because_its_answer_was_lost(place: Desk) -> None:
    job_id = place.job()
    request = Request(None, event(job=job_id))
    place.set_faults(FaultRule(action=FaultAction.CUT, method="POST"))

    with pytest.raises(ApiUnavailable, match="cannot be reached"):
        request.log("once")
    assert [one.message for one in place.ask(lambda: place.sandbox.messages(job_id))] == ["once"]


def test_a_labdrive_that_is_out_of_order_or_refuses(place: Desk) -> None:
    place.set_faults(FaultRule(action=FaultAction.STATUS, code=500))
    with pytest.raises(ApiUnavailable, match="500: a fault, as asked"):
        File.get("1")
    place.set_faults(FaultRule(action=FaultAction.STATUS, code=200, body={"success": False, "msg": "not today"}))
    with pytest.raises(ApiRejected, match="not today"):
        File.get("1")
    place.set_faults(FaultRule(action=FaultAction.STATUS, code=200, body={"success": True}))
    with pytest.raises(AnswerUnreadable, match="envelope"):
        File.get("1")


def test_a_labdrive_that_is_not_there(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libnova.Labdrive.Api.Driver.TRIES", 0)
    for address, told in (
        ("http://127.0.0.1:9", "Is the address right"),
        ("ftp://x", "http://"),
        ("nonsense", "http://"),
    ):
        monkeypatch.setenv("LIBNOVA_API_URL", address)
        with pytest.raises((ApiUnavailable, SettingMissing), match=told):
            Request(None, event(job="299")).job_init()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "body", ["{", "[]", b"\xff", '{"api": {}}', '{"labdrive": []}', '{"labdrive": {"files": {"ids": "1"}}}', None]
)
def test_an_event_that_is_none(body: object) -> None:
    from types import SimpleNamespace

    with pytest.raises(EventInvalid, match="event"):
        Request(None, SimpleNamespace(body=body))


@pytest.mark.usefixtures("place")
def test_a_path_of_a_table_of_one_s_own_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[calls.get_file]\nmethod = "GET"\npath = "/other/{file_id}"\n[base]\npath = { value = "/api" }\n')
    monkeypatch.setenv("LIBNOVA_API_KEY", SAMPLE_KEY)
    monkeypatch.setattr("libnova.Labdrive.Api.Driver._current", None)
    monkeypatch.setenv("LIBNOVA_TABLE", str(mine))
    with pytest.raises(NotFound, match="/api/other/1"):
        File.get("1")

    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[calls.get_file]\nmethod = "GET"\npath = "/other/{nobody}"\n')
    monkeypatch.setenv("LIBNOVA_TABLE", str(wrong))
    monkeypatch.setattr("libnova.Labdrive.Api.Driver._current", None)
    with pytest.raises(TableInvalid, match="nobody"):
        File.get("1")
    monkeypatch.setenv("LIBNOVA_TABLE", str(tmp_path / "none.toml"))
    monkeypatch.setattr("libnova.Labdrive.Api.Driver._current", None)
    with pytest.raises(TableInvalid, match=r"none\.toml"):
        File.get("1")
