"""The same over TLS, with a certificate authority of the test's own."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from benchmarks.source import make_certificate
from hashmill.domain.errors import ConfigFault
from hashmill.domain.secret import Secret
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import StorageConfig, StoragePace
from tests.helpers.faulty_s3 import Act, FaultyS3

BODY = Random(3).randbytes(3_000_000)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key and a certificate for 127.0.0.1 that signs itself."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture
async def server(certificate: Path) -> AsyncIterator[FaultyS3]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    async with FaultyS3(BODY, tls=tls) as server:
        yield server


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    storage = Storage(StoragePace(), ByteBudget(16 << 20), random=lambda: 0.0)
    yield storage
    await storage.close()


async def test_a_certificate_nobody_vouches_for_is_a_fault_of_the_configuration(
    storage: Storage, server: FaultyS3
) -> None:
    with pytest.raises(ConfigFault, match=r"the certificate of 127\.0\.0\.1:\d+ is not trusted"):
        await storage.head(server.config, "bucket", "key")
    with pytest.raises(ConfigFault, match="is not trusted"):
        async with storage.open(server.config, "bucket", "key"):
            pass
    assert server.asked == []


async def test_an_authority_named_by_aws_ca_bundle_is_trusted_and_cut_streams_are_resumed(
    storage: Storage, server: FaultyS3, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    server.on_get += [Act(cut_after=1_500_000), Act(cut_after=100_000, reset=True)]

    async with storage.open(server.config, "bucket", "key") as opened:
        body = b"".join([bytes(block) async for block in opened.blocks()])

    assert body == BODY
    assert len(server.asked_for("range")) == 3


async def test_a_new_connection_resumes_the_session_of_the_one_before(
    certificate: Path, storage: Storage, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    server.on_get += [Act(cut_after=1_000_000)] * 2

    async with storage.open(server.config, "bucket", "key") as opened:
        assert b"".join([bytes(block) async for block in opened.blocks()]) == BODY

    assert (server.connections, server.sessions_resumed) == (3, 2)


async def test_connections_that_shake_hands_at_once_do_not_meet_in_the_session(
    certificate: Path, storage: Storage, server: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))

    async def size_bytes() -> int:
        async with storage.open(server.config, "bucket", "key") as opened:
            return sum([len(block) async for block in opened.blocks()])

    assert set(await asyncio.gather(*(size_bytes() for _ in range(12)))) == {len(BODY)}


def _send_and_hang_up(listening: socket.socket, tls: ssl.SSLContext, etag: str) -> None:
    """Answer one request with `BODY`, and end the connection behind it without waiting for anybody."""
    with listening, tls.wrap_socket(listening.accept()[0], server_side=True) as link:
        link.recv(65_536)
        head = f"HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {len(BODY)}\r\nConnection: close\r\n\r\n"
        link.sendall(head.encode() + BODY)
        socket.socket.shutdown(link, socket.SHUT_WR)
        with suppress(OSError):
            while link.recv(65_536):
                pass


async def test_what_cannot_be_resumed_is_whole_though_its_server_hangs_up_while_we_hash(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    listening = socket.create_server(("127.0.0.1", 0))
    config = StorageConfig(
        endpoint_url=f"https://127.0.0.1:{listening.getsockname()[1]}",
        access_key_id="AKIDEXAMPLE",
        secret_access_key=Secret("secret"),
    )
    storage = Storage(StoragePace(block_bytes=50_000), ByteBudget(16 << 20), random=lambda: 0.0)
    sending = asyncio.create_task(asyncio.to_thread(_send_and_hang_up, listening, tls, 'W/"one"'))
    body = bytearray()

    async with storage.open(config, "bucket", "key", expected_bytes=len(BODY)) as opened:
        async for block in opened.blocks():
            body += block
            for _ in range(20):  # turns in which the end of the connection is seen
                await asyncio.sleep(0)
    await storage.close()

    assert body == BODY
    await sending
