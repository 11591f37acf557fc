"""The sandbox's API, asked over HTTP: envelope, keys, containers, files, jobs, and what it writes down."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.sandbox import (
    READER_KEY,
    ROOT_KEY,
    STRANGER_KEY,
    USER_KEY,
    Caller,
    calling,
    sandbox_config,
)

ODD_PATHS = [
    "two  words.txt",
    "a//b",
    "/leading",
    ".hidden/..x",
    "../up",
    "100%",
    "a%2Fb",
    "q?x=1&y#z",
    "a+b",
    "ü/日本.tif",
    "e\u0301",
    "<b>'\"&",
    "tab\tnew\nline",
    "folder/",
]


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling(sandbox_config()) as caller:
        yield caller


# Keys and envelope


@pytest.mark.parametrize("key", [None, "", "nobody's"])
async def test_without_a_known_key_every_call_is_401(key: str | None, caller: Caller) -> None:
    for path in ("/api/container/1", "/api/nowhere", "/sandbox/calls"):
        answer = await caller.call("GET", path, key=key)

        assert answer.status == 401
        assert answer.body["success"] is False
        assert answer.body["msg"]


async def test_a_reading_key_reads_and_writes_nothing(caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/a")

    read = await caller.call("GET", f"/api/file/{file_id}", key=READER_KEY)
    write = await caller.call(
        "PUT", f"/api/file/{file_id}/hash", key=READER_KEY, json={"algorithm": "md5", "hash": "0"}
    )

    assert read.result["id"] == file_id
    assert write.status == 403
    assert caller.sandbox.hashes_of(file_id) == {}


async def test_a_key_bound_to_no_container_opens_none_of_its_things(caller: Caller) -> None:
    file_id, job_id = caller.sandbox.add_file("1", "/a"), caller.sandbox.add_job("1")
    for path in ("container/1", "container/1/file/list", "container/1/file/path/a", f"file/{file_id}", f"job/{job_id}"):
        assert (await caller.call("GET", f"/api/{path}", key=STRANGER_KEY)).status == 403, path

    own = (await caller.call("POST", "/api/container", key=STRANGER_KEY, json={"name": "mine"})).result
    assert (await caller.call("GET", f"/api/container/{own['id']}", key=STRANGER_KEY)).result["name"] == "mine"


async def test_an_unknown_id_is_404_and_an_unknown_path_too(caller: Caller) -> None:
    for path in ("container/99", "file/99", "file/x", "job/99", "nowhere", "container/1/file/path/none"):
        answer = await caller.call("GET", f"/api/{path}")

        assert answer.status == 404, path
        assert answer.body["success"] is False


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 422), (b"{}", 422), (b'{"status":5}', 422), (b'{"status":"DONE"}', 422)]
)
async def test_a_body_that_cannot_be_meant_is_refused_and_changes_nothing(
    body: bytes, status: int, caller: Caller
) -> None:
    job_id = caller.sandbox.add_job("1")

    answer = await caller.call("PUT", f"/api/job/{job_id}", data=body, headers={"Content-Type": "application/json"})

    assert answer.status == status
    assert caller.sandbox.job(job_id).statuses == ["PENDING"]


async def test_text_that_is_no_unicode_is_refused(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1")

    answer = await caller.call(
        "POST",
        f"/api/job/{job_id}/message",
        data=b'{"message":"\\ud800"}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.status == 422
    assert caller.sandbox.messages(job_id) == []


async def test_answers_escape_slashes_and_hold_ids_as_text(caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/a/b")

    async with caller.http.get(
        f"{caller.sandbox.url}/api/file/{file_id}", headers={"Authorization": f"bearer {USER_KEY}"}
    ) as answer:
        text = await answer.text()

    assert '"fullpath":"\\/a\\/b"' in text
    assert f'"id":"{file_id}"' in text


# Containers and files


@pytest.mark.parametrize("kind", ["json", "form", "multipart"])
async def test_a_container_is_made_by_json_form_or_multipart(kind: str, caller: Caller) -> None:
    fields = {"name": "New", "description": "of things", "container_metadata_id": "1", "metadata_schema_id": "1"}
    more: dict[str, Any] = {"json": fields} if kind == "json" else {"data": fields}
    if kind == "multipart":
        form = aiohttp.FormData(default_to_multipart=True)
        for name, value in fields.items():
            form.add_field(name, value)
        more = {"data": form}

    made = (await caller.call("POST", "/api/container", **more)).result

    shown = (await caller.call("GET", f"/api/container/{made['id']}")).result
    assert shown == made
    assert (shown["name"], shown["description"], shown["storage_id"]) == ("New", "of things", "1")


async def test_a_base_that_ends_in_a_slash_or_not_is_the_client_s_affair_and_api_is_the_root(caller: Caller) -> None:
    assert (await caller.call("GET", "/api/container/1")).status == 200
    assert (await caller.call("GET", "/container/1", key=None)).status == 404


async def test_container_metadata_is_replaced_by_its_code(caller: Caller) -> None:
    for value in ("old", "new"):
        body = {"metadata": [{"iecode": "title", "value": value, "action": "replace"}]}
        answer = await caller.call("PUT", "/api/container/1/metadata", json=body)

    (entry,) = answer.result
    assert (entry["iecode"], entry["value"], entry["file_id"], entry["linked"]) == ("title", "new", None, None)


async def test_file_metadata_is_empty_until_it_is_written(caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/a")

    assert (await caller.call("GET", f"/api/file/{file_id}/metadata")).result == []
    body = {"metadata": [{"iecode": "date", "value": "1900"}]}
    assert (await caller.call("PUT", f"/api/file/{file_id}/metadata", json=body)).status == 200

    (entry,) = (await caller.call("GET", f"/api/file/{file_id}/metadata")).result
    assert (entry["value"], entry["file_id"], entry["creator"]) == ("1900", file_id, "2")


async def test_a_folder_is_made_once_and_then_409(caller: Caller) -> None:
    made = await caller.call("POST", "/api/container/1/folder", json={"path": "/x/ y/"})
    again = await caller.call("POST", "/api/container/1/folder", json={"path": "x/ y"})

    assert (made.result["fullpath"], made.result["type"]) == ("/x/ y", "FOLDER")
    assert again.status == 409
    assert (await caller.call("POST", "/api/container/1/folder", json={"path": "/"})).status == 422


@pytest.mark.parametrize("path", ODD_PATHS)
async def test_a_file_of_an_odd_name_is_found_by_its_path(path: str, caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/" + path, size_bytes=4)

    found = await caller.call("GET", "/api/container/1/file/path/" + quote(path))

    assert found.result["id"] == file_id
    assert found.result["fullpath"] == "/" + path


@given(path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
async def test_any_name_is_found_by_its_path(path: str) -> None:
    async with calling(sandbox_config()) as caller:
        file_id = caller.sandbox.add_file("1", "/" + path)

        found = await caller.call("GET", "/api/container/1/file/path/" + quote(path))

        assert (found.result["id"], found.result["fullpath"]) == (file_id, "/" + path)


async def test_a_file_has_the_fields_the_platform_is_known_to_search_by(caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/x/a.png", size_bytes=12)

    file = (await caller.call("GET", f"/api/file/{file_id}")).result

    assert file.keys() == {
        "id",
        "container_id",
        "parent",
        "filename",
        "fullpath",
        "deleted",
        "size",
        "type",
        "format",
        "mime",
        "date_create",
        "date_update",
        "storage_class_id",
    }
    assert (file["filename"], file["size"], file["type"], file["mime"], file["deleted"]) == (
        "a.png",
        12,
        "FILE",
        "image/png",
        "0",
    )


async def test_a_listing_comes_in_pages_in_the_order_of_ids(caller: Caller) -> None:
    ids = [caller.sandbox.add_file("1", f"/{at}") for at in range(23)]

    pages: list[list[dict[str, Any]]] = []
    while not pages or pages[-1]:
        offset = sum(map(len, pages))
        pages.append((await caller.call("GET", f"/api/container/1/file/list?limit=10&offset={offset}")).result)

    assert [len(page) for page in pages] == [10, 10, 3, 0]
    assert [file["id"] for page in pages for file in page] == ids


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1.5", "offset=99999999999"])
async def test_a_window_that_is_no_number_is_refused(query: str, caller: Caller) -> None:
    assert (await caller.call("GET", f"/api/container/1/file/list?{query}")).status == 422


async def test_a_hash_is_stored_once_per_algorithm_and_read_back(caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/a")
    for algorithm, digest in [("md5", "00"), ("sha256", "11"), ("md5", "22")]:
        answer = await caller.call("PUT", f"/api/file/{file_id}/hash", json={"algorithm": algorithm, "hash": digest})
        assert answer.result == {"file_id": file_id, "algorithm": algorithm, "hash": digest}

    assert (await caller.call("GET", f"/api/file/{file_id}/hash")).result == {"md5": "22", "sha256": "11"}
    assert caller.sandbox.hashes_of(file_id) == {"md5": "22", "sha256": "11"}


async def test_a_tag_sticks_once(caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/a")

    for method in ("POST", "PUT"):
        answer = await caller.call(method, f"/api/file/{file_id}/tag/9")

    assert answer.result == {"file_id": file_id, "tags": ["9"]}


# Jobs


async def test_a_job_goes_its_way_and_its_history_tells(caller: Caller) -> None:
    job = (await caller.call("POST", "/api/job", json={"container_id": 1, "name": "check"})).result
    for status in ("RUNNING", "COMPLETED"):
        answer = await caller.call("PUT", f"/api/job/{job['id']}", json={"status": status})

    assert (job["status"], job["container_id"], job["user_id"]) == ("PENDING", "1", "2")
    assert answer.result["status"] == "COMPLETED"
    assert (await caller.call("GET", f"/api/job/{job['id']}")).result == answer.result
    assert caller.sandbox.job(job["id"]).statuses == ["PENDING", "RUNNING", "COMPLETED"]
    told = (await caller.call("GET", f"/sandbox/jobs/{job['id']}")).result
    assert [change["status"] for change in told["history"]] == ["PENDING", "RUNNING", "COMPLETED"]


async def test_messages_are_kept_in_order_bound_to_files_or_not(caller: Caller) -> None:
    job_id, file_id = caller.sandbox.add_job("1"), caller.sandbox.add_file("1", "/a")
    bodies: list[dict[str, object]] = [
        {"message": "first", "type": "INFO"},
        {"message": "ü <b>", "type": "ERROR", "file_id": int(file_id)},
        {"message": "no type"},
    ]
    for body in bodies:
        assert (await caller.call("POST", f"/api/job/{job_id}/message", json=body)).status == 200

    listed = (await caller.call("GET", f"/api/job/{job_id}/message?limit=2&offset=1")).result

    assert [(entry["message"], entry["type"], entry["file_id"]) for entry in listed] == [
        ("ü <b>", "ERROR", file_id),
        ("no type", "INFO", None),
    ]
    assert [message.message for message in caller.sandbox.messages(job_id)] == ["first", "ü <b>", "no type"]
    assert caller.sandbox.job(job_id).message_count == 3


async def test_a_message_for_a_file_or_a_job_that_is_not_there_is_404(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1")

    no_file = await caller.call("POST", f"/api/job/{job_id}/message", json={"message": "x", "file_id": "99"})
    no_job = await caller.call("POST", "/api/job/99/message", json={"message": "x"})

    assert (no_file.status, no_job.status) == (404, 404)
    assert caller.sandbox.messages(job_id) == []


# What is written down


async def test_each_call_is_written_down_without_its_key(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1")
    for _ in range(2):
        await caller.call(
            "POST", f"/api/job/{job_id}/message", json={"message": "x"}, headers={"Idempotency-Key": "same"}
        )
    await caller.call("GET", "/api/container/1?limit=5", key="wrong-key")

    calls = caller.sandbox.calls()

    assert [(call.method, call.path, call.user_id, call.status, call.idempotency_key) for call in calls] == [
        ("POST", f"/api/job/{job_id}/message", "2", 200, "same"),
        ("POST", f"/api/job/{job_id}/message", "2", 200, "same"),
        ("GET", "/api/container/1", "", 401, ""),
    ]
    assert "wrong-key" not in repr(calls)
    assert USER_KEY not in repr(calls)
    # Recorded, not acted upon: a real API would probably not know the header.
    assert len(caller.sandbox.messages(job_id)) == 2


async def test_calls_are_read_and_counted_over_http_and_not_counted_themselves(caller: Caller) -> None:
    for _ in range(3):
        await caller.call("GET", "/api/container/1")
    await caller.call("GET", "/api/job/5")

    told = (await caller.call("GET", "/sandbox/calls?path=/api/container/*&limit=2", key=ROOT_KEY)).result

    assert told["count"] == 3
    assert len(told["calls"]) == 2
    assert caller.sandbox.count_calls() == 4
    assert caller.sandbox.count_calls(status=404, method="GET") == 1
