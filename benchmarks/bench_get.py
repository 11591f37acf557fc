"""
What does it cost a process to get an object out of S3, beside hashing it?

    .venv/bin/python -m benchmarks.bench_get [--rounds 5] [--objects 1500] [--large-mib 256]

Side by side, in turn, over plain HTTP: HEAD and GET through aiobotocore, `Storage.open`, and the same with bodies taken
from aiohttp piece by piece (`asyncio.Protocol`) and not received into our blocks (`asyncio.BufferedProtocol`). CPU time
of this process (user and system), median of the rounds with the least and the most; 16 small objects are in flight at
once. The server is a small one of asyncio in a child process, which checks no signature and reads no disk; its CPU does
not count.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from benchmarks.machine import circumstances
from hashmill.domain.secret import Secret
from hashmill.storage import ask
from hashmill.storage.budget import ByteBudget
from hashmill.storage.client import Storage
from hashmill.storage.config import StorageConfig, StoragePace

RESULT = Path(__file__).parent / "results" / "get.json"
SMALL_BYTES = 4096
IN_FLIGHT = 16
IN_PIECES = "Storage.open, in aiohttp's pieces"
DIRECT_FROM_BYTES = ask.DIRECT_FROM_BYTES
Read = Callable[[str, int], Awaitable[int]]


class Server(asyncio.Protocol):
    """Answers any request by an object whose size is the last word of its path."""

    piece = bytes(1 << 20)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.heard = transport, b""
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.sending: asyncio.Task[None] | None = None

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        self.heard += data
        while (end := self.heard.find(b"\r\n\r\n")) >= 0:
            method, target, _ = self.heard.split(b" ", 2)
            self.heard = self.heard[end + 4 :]
            size_bytes = int(target.rpartition(b"/")[2])
            self.transport.write(
                b'HTTP/1.1 200 OK\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\n'
                b"Last-Modified: Wed, 21 Oct 2026 07:28:00 GMT\r\nx-amz-request-id: 1\r\n"
                b"Content-Type: binary/octet-stream\r\nContent-Length: %d\r\n\r\n" % size_bytes
            )
            if method == b"GET" and size_bytes <= len(self.piece):
                self.transport.write(memoryview(self.piece)[:size_bytes])
            elif method == b"GET":
                self.sending = asyncio.ensure_future(self.send(size_bytes))

    async def send(self, left_bytes: int) -> None:
        while left_bytes and not self.transport.is_closing():
            await self.may_write.wait()
            self.transport.write(memoryview(self.piece)[:left_bytes])
            left_bytes -= min(left_bytes, len(self.piece))


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def measure(port: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Return what each way took, round by round."""
    url = f"http://127.0.0.1:{port}"
    config = StorageConfig(endpoint_url=url, access_key_id="AKID", secret_access_key=Secret("secret"))
    storage = Storage(StoragePace(), ByteBudget(256 << 20))
    old = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"}, max_pool_connections=96)
    opening = AioSession().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",  # noqa: S106 - of a server that checks none
        config=old,
    )
    async with opening as client:

        async def head_and_get(key: str, size_bytes: int) -> int:
            head = await client.head_object(Bucket="bucket", Key=key)
            answer = await client.get_object(Bucket="bucket", Key=key, IfMatch=head["ETag"])
            got_bytes = 0
            async with answer["Body"]:
                while piece := await answer["Body"].raw_stream.content.readany():
                    got_bytes += len(piece)
            return got_bytes

        async def signed_get(key: str, size_bytes: int) -> int:
            got_bytes = 0
            async with storage.open(config, "bucket", key, expected_bytes=size_bytes) as opened:
                async for block in opened.blocks():
                    got_bytes += len(block)
            return got_bytes

        ways: dict[str, Read] = {
            "aiobotocore HEAD and GET": head_and_get,
            "Storage.open": signed_get,
            IN_PIECES: signed_get,
        }
        small: dict[str, list[float]] = {name: [] for name in ways}
        large: dict[str, list[float]] = {name: [] for name in ways}
        large_bytes = asked.large_mib << 20
        for number in range(asked.rounds + 1):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                with patch.object(ask, "DIRECT_FROM_BYTES", sys.maxsize if name == IN_PIECES else DIRECT_FROM_BYTES):
                    small_s = await _cpu_s(ways[name], SMALL_BYTES, asked.objects)
                    large_s = await _cpu_s(ways[name], large_bytes, 1)
                if number:  # the first round opens connections
                    small[name].append(1000 * small_s / asked.objects)
                    large[name].append(large_s * (1 << 30) / large_bytes)
    await storage.close()
    return {
        "cpu_ms_per_4_kib_object": {name: _told(values) for name, values in small.items()},
        "cpu_s_per_gib_of_a_large_object": {name: _told(values) for name, values in large.items()},
    }


async def _cpu_s(read: Read, size_bytes: int, objects: int) -> float:
    """Read so many objects, `IN_FLIGHT` at once, and return the CPU time that took."""
    keys = iter(range(objects))

    async def some() -> None:
        for number in keys:
            got_bytes = await read(f"{number:06}/{size_bytes}", size_bytes)
            assert got_bytes == size_bytes

    began_s = time.process_time()
    await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))
    return time.process_time() - began_s


def _told(values: list[float]) -> dict[str, float | int]:
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
        "n": len(values),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--objects", type=int, default=1500)
    options.add_argument("--large-mib", type=int, default=256)
    options.add_argument("--serve", action="store_true", help="be the server")
    asked = options.parse_args()
    if asked.serve:
        asyncio.run(serve())
        return
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.bench_get", "--serve"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        result = asyncio.run(measure(int(server.stdout.readline()), asked))
    finally:
        server.terminate()
        server.wait()
    result = {
        **circumstances(),
        "server": "asyncio, plain HTTP, in a child process",
        "small_objects": asked.objects,
        "large_mib": asked.large_mib,
        **result,
    }
    print(json.dumps(result, indent=2))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
