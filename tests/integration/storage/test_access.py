"""Where the objects are, and with whose keys they are read."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from aiobotocore.session import AioSession

from hashmill.domain.errors import (
    ConfigFault,
    HashmillError,
    ObjectMissing,
    StorageThrottled,
)
from hashmill.domain.secret import Secret
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import StorageConfig
from hashmill.storage.link import open_link
from tests.helpers.faulty_s3 import SECRET_KEY, SESSION_TOKEN, Act, FaultyS3
from tests.helpers.storage_reads import QUICK, SESSION, read, storage_of


class Chain:
    """Keys of a role that expire, as a session finds them; each refresh gives others."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.given = 0

    async def refreshed(self) -> dict[str, str]:
        self.given += 1
        expiry = self.now + timedelta(hours=1)
        return {
            "access_key": f"AKID{self.given}",
            "secret_key": "s",
            "token": f"token{self.given}",
            "expiry_time": expiry.isoformat(),
        }

    async def load_credentials(self) -> AioRefreshableCredentials:
        return AioRefreshableCredentials(
            "AKID0",
            "s",
            "token0",
            self.now + timedelta(hours=1),
            self.refreshed,
            "test",
            time_fetcher=lambda: self.now,
        )


@pytest.mark.parametrize("endpoint_url", ["nonsense", "ftp:/x", "http://ex ample"])
async def test_an_endpoint_that_is_no_address_is_a_fault_of_the_configuration(
    storage: Storage, endpoint_url: str
) -> None:
    with pytest.raises(ConfigFault):
        await storage.head(
            StorageConfig(endpoint_url=endpoint_url, access_key_id="a", secret_access_key=Secret("b")), "b", "k"
        )


async def test_missing_credentials_are_a_fault_of_the_configuration_until_there_are_some(
    storage: Storage, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    config = StorageConfig(endpoint_url=server.endpoint_url)
    with pytest.raises(ConfigFault, match=r"neither s3\.access_key_id nor the AWS chain"):
        await storage.head(config, "bucket", "key")
    assert server.asked == []

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDLATER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    await storage.head(config, "bucket", "key")
    assert "AKIDLATER/" in (server.asked_for("authorization", "HEAD")[-1] or "")


async def test_half_a_credential_is_a_fault_of_the_configuration(storage: Storage, server: FaultyS3) -> None:
    with pytest.raises(ConfigFault, match="Partial credentials"):
        await storage.head(StorageConfig(endpoint_url=server.endpoint_url, access_key_id="a"), "bucket", "key")


async def test_the_environment_changes_neither_the_address_nor_the_road(
    server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyS3(b"elsewhere") as elsewhere, storage_of() as storage:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, elsewhere.endpoint_url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
        server.on_get += [Act(status=503, code="SlowDown")] * 3

        with pytest.raises(StorageThrottled):
            await read(storage, server)

        assert elsewhere.asked == []
    assert len(server.asked_for("range")) == QUICK.throttle_attempts


@pytest.mark.parametrize("key", ["", "\ud800", "k" * 1025])
async def test_a_key_no_object_can_have_is_missing(storage: Storage, server: FaultyS3, key: str) -> None:
    with pytest.raises(ObjectMissing):
        await storage.head(server.config, "bucket", key)
    assert server.asked == []


@pytest.mark.parametrize(
    "bucket",
    [
        "",
        "..",
        "a..b",
        "a/b",
        "a\nb",
        "ü",
        "\ud800",
        "b" * 256,
        "?x",
        "arn:aws:s3:eu-west-3:123456789012:accesspoint/x",
    ],
)
async def test_a_bucket_no_server_can_have_is_a_fault_of_the_configuration(
    storage: Storage, server: FaultyS3, bucket: str
) -> None:
    with pytest.raises(ConfigFault, match="no bucket can have this name"):
        await storage.head(server.config, bucket, "key")
    assert server.asked == []


@pytest.mark.parametrize(
    ("change", "knob"),
    [
        ({"region": ""}, "region"),
        ({"region": "eu-west-3\n"}, "region"),
        ({"access_key_id": "AKID\n"}, "access_key_id"),
        ({"secret_access_key": Secret("secret\n")}, "secret_access_key"),
        ({"session_token": Secret("token\r\nX-Evil: 1")}, "session_token"),
    ],
)
async def test_a_setting_that_cannot_stand_in_a_header_is_named(
    storage: Storage, server: FaultyS3, change: dict[str, Any], knob: str
) -> None:
    with pytest.raises(ConfigFault, match=rf"^s3\.{knob} ") as raised:
        await storage.head(replace(server.config, **change), "bucket", "key")
    assert "ecret\n" not in str(raised.value)
    assert server.asked == []


@pytest.mark.parametrize(
    "trouble",
    [
        lambda server: server.on_get.append(Act(status=403, code="InvalidAccessKeyId")),
        lambda server: server.on_get.append(Act(status=403, code="SignatureDoesNotMatch")),
        lambda server: server.on_get.extend([Act(cut_after=1)] * 3),
        lambda server: server.on_get.extend([Act(raw=b"HTTP/1.1 abc\r\n\r\n")] * 3),
    ],
)
async def test_no_message_and_no_cause_shows_a_key(
    storage: Storage, server: FaultyS3, trouble: Callable[[FaultyS3], None]
) -> None:
    trouble(server)

    with pytest.raises(HashmillError) as raised:
        await read(storage, server)

    error: BaseException | None = raised.value
    while error is not None:
        shown = f"{error!r} {error} {vars(error)}"
        assert SECRET_KEY not in shown
        assert SESSION_TOKEN not in shown
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def test_keys_that_expire_in_mid_run_are_refreshed(server: FaultyS3) -> None:
    chain = Chain()
    session = AioSession()
    session.register_component("credential_provider", chain)
    storage = Storage(QUICK, ByteBudget(64 << 20), session=session, random=lambda: 0.0)
    config = StorageConfig(endpoint_url=server.endpoint_url)
    try:
        for _ in range(3):
            async with storage.open(config, "bucket", "key"):
                pass
            chain.now += timedelta(minutes=55)
    finally:
        await storage.close()

    assert server.asked_for("x-amz-security-token") == ["token0", "token1", "token2"]
    assert [f"AKID{n}/" in (said or "") for n, said in enumerate(server.asked_for("authorization"))] == [True] * 3


@pytest.mark.parametrize(
    ("style", "endpoint_url", "bucket", "root"),
    [
        ("path", "http://s3.example.org:9000", "a.b", "http://s3.example.org:9000/a.b/"),
        ("virtual", "http://s3.example.org:9000", "bucket", "http://bucket.s3.example.org:9000/"),
        ("auto", "https://s3.example.org/gate", "bucket", "https://s3.example.org/gate/bucket/"),
        ("virtual", None, "bucket", "https://bucket.s3.eu-west-3.amazonaws.com/"),
        ("path", None, "a.b", "https://s3.eu-west-3.amazonaws.com/a.b/"),
    ],
)
async def test_a_bucket_is_where_the_rules_of_botocore_say(
    style: Any, endpoint_url: str | None, bucket: str, root: str
) -> None:
    config = StorageConfig(
        endpoint_url=endpoint_url,
        region="eu-west-3",
        addressing_style=style,
        access_key_id="AKIDEXAMPLE",
        secret_access_key=Secret(SECRET_KEY),
    )
    async with open_link(SESSION, config, QUICK) as link:
        address = await link.address(bucket)

        assert (address.root, address.region, address.service) == (root, "eu-west-3", "s3")
        with pytest.raises(ConfigFault, match="directory buckets"):
            await link.address("bucket--euw3-az1--x-s3")
