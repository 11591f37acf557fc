"""The sandbox's pages show what it knows, link to each other, and let no name become markup."""

import re
from collections.abc import AsyncIterator
from html import escape, unescape

import pytest

from tests.helpers.sandbox import USER_KEY, Caller, calling, sandbox_config

EVIL = '<script>alert("1")</script>{body}{title}&amp;\'  x'


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling(sandbox_config()) as caller:
        yield caller


async def _page(caller: Caller, path: str, *, status: int = 200) -> str:
    answer = await caller.call("GET", path, key=None)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    body: str = answer.body
    return body


async def test_every_link_leads_on_and_no_name_becomes_markup(caller: Caller) -> None:
    container_id = caller.sandbox.add_container(EVIL)
    file_id = caller.sandbox.add_file(container_id, "/" + EVIL, size_bytes=5)
    job_id = caller.sandbox.add_job(container_id, EVIL)
    await caller.call("PUT", f"/api/file/{file_id}/hash", json={"algorithm": EVIL, "hash": EVIL})
    await caller.call("PUT", f"/api/file/{file_id}/metadata", json={"metadata": [{"iecode": EVIL, "value": EVIL}]})
    await caller.call("PUT", f"/api/file/{file_id}/tag/{'%3Cb%3E'}")
    message = {"message": EVIL, "type": EVIL, "file_id": file_id}
    await caller.call("POST", f"/api/job/{job_id}/message", json=message)

    seen, ahead = set[str](), ["/"]
    while ahead:
        path = ahead.pop()
        seen.add(path)
        if path.endswith((".css", ".js", ".svg")):
            assert (await caller.call("GET", path, key=None)).status == 200
            continue
        page = await _page(caller, path)
        assert EVIL not in page
        assert "<script>" not in page
        assert "<b>" not in page.replace("<li><b>", "")
        assert page.count("<h1>") == 1
        assert USER_KEY not in page
        ahead += {unescape(link) for link in re.findall(r'(?:href|src)="([^"]+)"', page)} - seen - set(ahead)

    assert {f"/containers/{container_id}", f"/containers/{container_id}/file/{file_id}", f"/jobs/{job_id}"} <= seen
    for path in seen & {f"/containers/{container_id}", f"/jobs/{job_id}"}:
        assert escape(EVIL) in await _page(caller, path)


async def test_the_container_s_page_shows_files_with_their_hashes_page_by_page(caller: Caller) -> None:
    ids = [caller.sandbox.add_file("1", f"/file-{at:03}") for at in range(230)]
    digest = "d41d8cd98f00b204e9800998ecf8427e"
    await caller.call("PUT", f"/api/file/{ids[150]}/hash", json={"algorithm": "md5", "hash": digest})

    pages = [await _page(caller, f"/containers/1?page={page}") for page in (1, 2, 3)]

    assert [page.count('class="name">/file-') for page in pages] == [100, 100, 30]
    assert [digest in page for page in pages] == [False, True, False]
    assert 'rel="next"' in pages[0]
    assert 'rel="prev"' in pages[1]
    assert 'rel="next"' not in pages[2]


async def test_the_job_s_page_shows_status_history_and_messages_and_is_live_until_it_ended(caller: Caller) -> None:
    job_id = caller.sandbox.add_job("1", "check")
    await caller.call("PUT", f"/api/job/{job_id}", json={"status": "RUNNING"})
    await caller.call("POST", f"/api/job/{job_id}/message", json={"message": "half way"})
    running = await _page(caller, f"/jobs/{job_id}")
    await caller.call("PUT", f"/api/job/{job_id}", json={"status": "COMPLETED"})
    ended = await _page(caller, f"/jobs/{job_id}")

    assert 'data-live="yes"' in running
    assert 'data-live="no"' in ended
    assert "half way" in running
    assert "Messages (1)" in running
    assert [running.count(f">{status}<") > 0 for status in ("PENDING", "RUNNING", "COMPLETED")] == [True, True, False]


@pytest.mark.parametrize(
    "path", ["/containers/9", "/containers/x", "/containers/1/file/9", "/jobs/9", "/page/..%2Fpages.py", "/page/x"]
)
async def test_what_is_not_there_is_a_page_that_says_so(path: str, caller: Caller) -> None:
    assert "Not found" in await _page(caller, path, status=404)


async def test_a_file_is_not_shown_below_a_container_it_is_not_in(caller: Caller) -> None:
    file_id = caller.sandbox.add_file("1", "/a")
    other = caller.sandbox.add_container("other")

    await _page(caller, f"/containers/{other}/file/{file_id}", status=404)


@pytest.mark.parametrize("page", ["0", "-1", "x", "9999999999", "999"])
async def test_a_page_number_that_makes_no_sense_is_no_error(page: str, caller: Caller) -> None:
    await _page(caller, f"/containers/1?page={page}")
