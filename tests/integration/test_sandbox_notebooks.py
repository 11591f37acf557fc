"""The sandbox's page of notebooks: list, open, create, upload, and the 403 that LABDRIVE's document tells of."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from html import unescape
from io import BytesIO
from typing import Any

import aiohttp
import pytest

from hashmill.parts.s3 import S3Server
from hashmill.sandbox import StorageConfig, UserConfig
from tests.helpers.sandbox import USER_KEY, Answer, Caller, calling, sandbox_config

PAGE = "/containers/1/notebooks"
NOTEBOOK: dict[str, Any] = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [{"cell_type": "code", "source": ["print('<b>')\n", "1 + 1"], "id": "a", "metadata": {}, "outputs": []}],
}


@pytest.fixture
async def caller(s3: S3Server) -> AsyncIterator[Caller]:
    storage = StorageConfig(
        endpoint_url=s3.endpoint_url,
        bucket=s3.make_bucket(),
        access_key_id=s3.access_key_id,
        secret_access_key=s3.secret_access_key,
    )
    config = sandbox_config(storage=storage)
    more = (
        UserConfig(id="5", name="no key", key=""),
        UserConfig(id="6", name="no pair", key="key-of-no-pair", s3_key_pair=False),
        UserConfig(id="7", name="neither", key="", s3_key_pair=False),
    )
    async with calling(replace(config, users=(*config.users, *more))) as caller:
        yield caller


async def create(caller: Caller, name: str, *, user: str = "2", **more: Any) -> Answer:
    return await caller.call("POST", f"{PAGE}/new?user={user}", key=None, data={"name": name}, **more)


async def upload(caller: Caller, name: str, content: bytes, *, user: str = "2", **fields: str) -> Answer:
    form = aiohttp.FormData(fields)
    form.add_field("file", BytesIO(content), filename=name, content_type="application/octet-stream")
    return await caller.call("POST", f"{PAGE}/upload?user={user}", key=None, data=form)


async def test_a_new_notebook_stands_in_the_container_and_is_opened(caller: Caller) -> None:
    opened = await create(caller, "analysis")

    assert opened.status == 200
    assert "from libnova.Labdrive.Nuclio.Request import Request" in unescape(opened.body)
    assert "CONTAINER_ID" not in opened.body
    listed = await caller.call("GET", f"{PAGE}?user=2", key=None)
    assert "/analysis.ipynb" in listed.body
    (file,) = [file for file in caller.sandbox.files("1") if file.fullpath == "/analysis.ipynb"]
    assert f"{PAGE}/{file.id}?user=2" in unescape(listed.body)
    assert USER_KEY not in listed.body + opened.body


async def test_a_notebook_that_was_uploaded_is_shown_and_none_of_it_is_markup(caller: Caller) -> None:
    shown = await upload(caller, "mine.ipynb", json.dumps(NOTEBOOK).encode())

    assert shown.status == 200
    assert "print(&#x27;&lt;b&gt;&#x27;)\n1 + 1" in shown.body
    assert "/mine.ipynb" in (await caller.call("GET", f"{PAGE}?user=2", key=None)).body


@pytest.mark.parametrize(
    ("user", "why"),
    [("5", "no key has no API key"), ("6", "no pair has no S3 credentials"), ("7", "no API key and no S3 credentials")],
)
async def test_who_has_no_key_or_no_s3_credentials_gets_403_and_the_reason(caller: Caller, user: str, why: str) -> None:
    await create(caller, "analysis")
    (file,) = caller.sandbox.files("1")

    for refused in (
        await caller.call("GET", f"{PAGE}/{file.id}?user={user}", key=None),
        await create(caller, "other", user=user),
        await upload(caller, "other.ipynb", json.dumps(NOTEBOOK).encode(), user=user),
    ):
        assert refused.status == 403
        assert "403 Forbidden" in refused.body
        assert why in refused.body
        assert "Access Methods" in refused.body
    assert len(caller.sandbox.files("1")) == 1


async def test_an_empty_key_opens_nothing(caller: Caller) -> None:
    answer = await caller.call("GET", "/api/container/1", key=None, headers={"Authorization": "Bearer "})

    assert answer.status == 401


async def test_rights_hold_here_as_well(caller: Caller) -> None:
    assert (await create(caller, "x", user="3")).status == 403  # may only read
    assert (await caller.call("GET", f"{PAGE}?user=4", key=None)).status == 403  # opens no container
    assert (await caller.call("GET", f"{PAGE}?user=99", key=None)).status == 404
    assert (await caller.call("GET", "/containers/99/notebooks?user=2", key=None)).status == 404
    assert (await caller.call("GET", f"{PAGE}/99?user=2", key=None)).status == 404
    assert caller.sandbox.files("1") == []


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a\\b", "..", "tab\tname", "x" * 5000])
async def test_a_name_that_is_a_path_is_refused(caller: Caller, name: str) -> None:
    assert (await create(caller, name)).status == 422
    assert caller.sandbox.files("1") == []


async def test_what_is_no_notebook_or_there_already_is_refused(caller: Caller) -> None:
    await create(caller, "analysis")
    assert (await create(caller, "analysis.ipynb")).status == 409
    for content in (
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"nbformat": 3, "cells": []}',
        b'{"nbformat": 4, "cells": [1]}',
        b'{"nbformat": 4, "cells": [{"cell_type": "code", "source": 7}]}',
        b"[" * 100_000,
        b"\xff",
    ):
        assert (await upload(caller, "wrong.ipynb", content)).status == 422
    assert len(caller.sandbox.files("1")) == 1


async def test_an_upload_replaces_a_notebook_only_when_asked_to(caller: Caller) -> None:
    await create(caller, "mine")
    refused = await upload(caller, "mine.ipynb", json.dumps(NOTEBOOK).encode())

    assert refused.status == 409
    assert "There is a file /mine.ipynb already" in refused.body
    replaced = await upload(caller, "mine.ipynb", json.dumps(NOTEBOOK).encode(), replace="yes")
    assert "1 + 1" in replaced.body
    assert len(caller.sandbox.files("1")) == 1


async def test_a_notebook_with_large_outputs_is_shown_and_half_a_character_does_no_harm(caller: Caller) -> None:
    cell = {"cell_type": "code", "source": "plot()", "outputs": ["x" * 5_000_000]}
    half = {"cell_type": "code", "source": ["\ud800 half"]}
    long = {"cell_type": "markdown", "source": "y" * 3_000_000}
    shown = await upload(caller, "plots.ipynb", json.dumps({"nbformat": 4, "cells": [cell, half, long]}).encode())

    assert shown.status == 200
    assert "plot()" in shown.body
    assert "? half" in shown.body
    assert "The rest is not shown." in shown.body


async def test_a_form_of_another_site_is_refused(caller: Caller) -> None:
    refused = await create(caller, "evil", headers={"Origin": "http://evil.example"})

    assert refused.status == 403
    assert caller.sandbox.files("1") == []
    assert (await create(caller, "good", headers={"Origin": caller.sandbox.url})).status == 200


async def test_a_storage_that_is_away_is_said(caller: Caller) -> None:
    async with calling(sandbox_config()) as without:
        assert (await create(without, "analysis")).status == 502
        page = (await without.call("GET", PAGE, key=None)).body
    assert re.search(r"<form method=.post. action=", page)
