"""
An S3 server that costs little: what all the benchmarks read from, the million small objects too.

    python -m benchmarks.source --port 9000 --container 1:64:67108864 [--container ID:OBJECTS:BYTES] [--tls cert.pem]

Every object is a stretch of one ring of random bytes in memory, begun at a place that follows from its number, so
there is nothing to keep or to look up, whatever their number. A thread a connection; plain answers go out by sendfile.
It lists (version 2), and answers HEAD and GET with Range and If-Match; signatures are not checked. An ETag is no MD5,
and looks like none, so that no client takes it for one.
"""

import argparse
import os
import random
import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from hashmill.parts.process import Child, Part, answers, free_ports

HOME: Final = Path(__file__).resolve().parents[1]
RING_BYTES: Final = 134_217_689
"""A prime below 128 MiB: too long for any cache, and no stride meets its own beginning again."""
STRIDE_BYTES: Final = 65_537
DATE: Final = b"Tue, 24 Nov 2026 00:00:00 GMT"
PAGE: Final = 1000
PIECE_BYTES: Final = 1 << 20
SMALL_BYTES: Final = 65_536
"""Up to this an answer is one send."""
SENDFILE_MAX_BYTES: Final = 1 << 30
_RANGE: Final = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_IF_MATCH: Final = re.compile(rb'\r\nif-match: *"?([^"\r\n]*)', re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_KEY: Final = re.compile(r"(\d+)/f(\d{7})\.bin")


@cache
def ring() -> bytes:
    """Return the bytes that every object is a stretch of."""
    chance = random.Random(4)  # noqa: S311 - only has to be the same each time
    return b"".join(chance.randbytes(size) for _, size in stretches(0, RING_BYTES, PIECE_BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The objects of one container, all of one size."""

    container: str
    count: int
    size_bytes: int

    @property
    def word(self) -> str:
        """What names it on a command line."""
        return f"{self.container}:{self.count}:{self.size_bytes}"

    @classmethod
    def of(cls, word: str) -> "Shelf":
        container, count, size_bytes = word.split(":")
        return cls(container=container, count=int(count), size_bytes=int(size_bytes))

    def key(self, number: int) -> str:
        return f"{self.container}/f{number:07}.bin"

    def all_keys(self) -> list[str]:
        """Return the keys of all, in order."""
        return [self.key(number) for number in range(self.count)]

    def start_byte(self, number: int) -> int:
        """Return where in the ring an object begins."""
        return (number * STRIDE_BYTES + int(self.container) * 1_000_003) % RING_BYTES

    def pieces(self, number: int, *, first: int = 0, piece_bytes: int = PIECE_BYTES) -> Iterator[memoryview]:
        """Yield the bytes of an object from `first` on."""
        view = memoryview(ring())
        for at, length in stretches(self.start_byte(number) + first, self.size_bytes - first, piece_bytes):
            yield view[at : at + length]

    def etag(self, number: int) -> str:
        """Return a tag as of an upload in parts, without its quotes."""
        return f"{self.start_byte(number):032x}-2"


def stretches(at: int, left_bytes: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (place in the ring, length) for so many bytes from `at` on, round and round."""
    while left_bytes:
        at %= RING_BYTES
        length = min(left_bytes, RING_BYTES - at, most_bytes)
        yield at, length
        at += length
        left_bytes -= length


class Source(Part):
    """The server as a process of its own, with the face of `hashmill.parts.s3.S3Server` that a service needs."""

    backend = "benchmarks.source"
    region = "us-east-1"
    access_key_id = "source"
    secret_access_key = "source-secret"  # noqa: S105 - of a server that checks none
    bucket = "bench"

    def __init__(self, folder: Path, shelves: Sequence[Shelf], *, certificate: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.certificate = certificate
        self.endpoint_url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        words = [word for shelf in shelves for word in ("--container", shelf.word)]
        if certificate:
            words += ["--tls", str(certificate)]
        self._child = Child(
            [sys.executable, "-m", "benchmarks.source", "--port", str(port), *words],
            name="source",
            folder=folder,
            environ={**os.environ, "PYTHONPATH": str(HOME)},
        )
        self._child.wait_until(lambda: answers(port))

    @property
    def pids(self) -> list[int]:
        return [self._child.pid]

    def make_bucket(self, name: str | None = None) -> str:
        """Return a name; every bucket has the same objects."""
        return name or self.bucket

    def stop(self) -> None:
        self._child.stop()


class Server:
    """Answers connections, one thread each, until the process ends."""

    def __init__(self, shelves: Sequence[Shelf], tls: ssl.SSLContext | None) -> None:
        self._shelves = {shelf.container: shelf for shelf in shelves}
        self._tls = tls
        self._view = memoryview(ring())
        self._file = os.memfd_create("ring")
        left = self._view
        while left:
            left = left[os.write(self._file, left) :]

    def serve(self, listener: socket.socket) -> None:
        """Take connections for ever."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with self._tls.wrap_socket(plain, server_side=True) if self._tls else plain as connection:
                self._converse(connection)
        except OSError:
            return  # hung up, which is the client's right

    def _converse(self, connection: socket.socket) -> None:
        heard = b""
        while True:
            while (end := heard.find(b"\r\n\r\n")) < 0:
                more = connection.recv(65_536)
                if not more:
                    return
                heard += more
            asked, heard = heard[: end + 2], heard[end + 4 :]
            self._answer(connection, asked)
            if _CLOSE.search(asked):
                return

    def _answer(self, connection: socket.socket, asked: bytes) -> None:
        method, target, _ = asked.split(b" ", 2)
        path, _, query = target.decode().partition("?")
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if not key:
            _say(connection, method, *self._of_bucket(bucket, parse_qs(query, keep_blank_values=True)))
            return
        shelf, number = self._find(key)
        if shelf is None:
            _say(connection, method, 404, _error("NoSuchKey"))
            return
        etag = shelf.etag(number)
        wanted = _IF_MATCH.search(asked)
        if wanted and wanted[1].decode() not in {etag, "*"}:
            _say(connection, method, 412, _error("PreconditionFailed"))
            return
        first, length, status, told = 0, shelf.size_bytes, b"200 OK", b""
        if cut := _RANGE.search(asked):
            first = int(cut[1])
            last = min(int(cut[2] or shelf.size_bytes), shelf.size_bytes - 1)
            if first > last:
                _say(connection, method, 416, _error("InvalidRange"))
                return
            length, status = last - first + 1, b"206 Partial Content"
            told = b"Content-Range: bytes %d-%d/%d\r\n" % (first, last, shelf.size_bytes)
        head = (
            b'HTTP/1.1 %b\r\nETag: "%b"\r\nLast-Modified: %b\r\nx-amz-request-id: 1\r\nAccept-Ranges: bytes\r\n'
            b"Content-Type: binary/octet-stream\r\n%bContent-Length: %d\r\n\r\n"
            % (status, etag.encode(), DATE, told, length)
        )
        if method == b"HEAD":
            connection.sendall(head)
        else:
            self._send(connection, head, shelf.start_byte(number) + first, length)

    def _send(self, connection: socket.socket, head: bytes, at: int, length: int) -> None:
        if length <= SMALL_BYTES:
            body = b"".join(self._view[place : place + size] for place, size in stretches(at, length, SMALL_BYTES))
            connection.sendall(head + body)
        elif self._tls:
            connection.sendall(head)
            for place, size in stretches(at, length, PIECE_BYTES):
                connection.sendall(self._view[place : place + size])
        else:
            connection.sendall(head, socket.MSG_MORE)
            for place, size in stretches(at, length, SENDFILE_MAX_BYTES):
                done = 0
                while done < size:
                    done += os.sendfile(connection.fileno(), self._file, place + done, size - done)

    def _find(self, key: str) -> tuple[Shelf | None, int]:
        named = _KEY.fullmatch(key)
        shelf = self._shelves.get(named[1]) if named else None
        if named is None or shelf is None or int(named[2]) >= shelf.count:
            return None, 0
        return shelf, int(named[2])

    def _of_bucket(self, bucket: str, query: dict[str, list[str]]) -> tuple[int, str]:
        if "location" in query:
            return 200, '<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></LocationConstraint>'
        asked = {name: values[0] for name, values in query.items()}
        return 200, self._listed(bucket, asked)

    def _listed(self, bucket: str, asked: dict[str, str]) -> str:
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token") or asked.get("start-after", "")
        most = min(PAGE, int(asked.get("max-keys", PAGE)))
        shelf = self._shelves.get(prefix.partition("/")[0])
        found: list[tuple[str, int, str]] = []
        if shelf and "/" in prefix:
            named = _KEY.fullmatch(after)
            number = int(named[2]) + 1 if named else 0
            while number < shelf.count and len(found) <= most:
                key = shelf.key(number)
                if key.startswith(prefix):
                    found.append((key, shelf.size_bytes, shelf.etag(number)))
                number += 1
        page, more = found[:most], len(found) > most
        inside = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-24T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{etag}&quot;</ETag><Size>{size_bytes}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key, size_bytes, etag in page
        )
        token = f"<NextContinuationToken>{page[-1][0]}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{prefix}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{inside}</ListBucketResult>"
        )


def _error(code: str) -> str:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"


def _say(connection: socket.socket, method: bytes, status: int, text: str) -> None:
    body = text.encode()
    head = b"HTTP/1.1 %d -\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    connection.sendall(head if method == b"HEAD" else head + body)


def make_certificate(path: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 that signs itself into one PEM file, and return its path."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the benchmarks' own authority")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(private + signed.public_bytes(Encoding.PEM))
    return path


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--container", action="append", required=True, type=Shelf.of, metavar="ID:OBJECTS:BYTES")
    options.add_argument("--tls", type=Path, metavar="PEM")
    asked: Any = options.parse_args()
    tls = None
    if asked.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(asked.tls)
    server = Server(asked.container, tls)
    server.serve(socket.create_server(("127.0.0.1", asked.port), backlog=1024))


if __name__ == "__main__":
    main()
