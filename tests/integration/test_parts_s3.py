"""The S3 server, whichever it is, does what Hashmill's reading of S3 rests on."""

import errno
import hashlib
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from hashmill.parts import swift
from hashmill.parts.process import PartFailed
from hashmill.parts.s3 import S3Server, choose, start_s3
from tests.helpers.wait import wait_until

MIB = 1024 * 1024
ODD_KEYS = [
    "plain.txt",
    "two words & more=%25.txt",
    "ü/日本.tif",
    "e\u0301",
    "a b//c",
    "//",
    "folder/",
    "folder",
    ".hidden",
    "..",
    "../up",
    "./here",
    "q'\"<>",
    "tab\tx",
    "a:b|c?*#",
    "100%",
    "x" * 240,
    "y/" * 200 + "z",
]


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.make_bucket()


@pytest.fixture(scope="module")
def client(s3: S3Server) -> Iterator[Any]:
    client = s3.client()
    yield client
    client.close()


def refusal(error: ClientError) -> tuple[int, str]:
    return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


def test_what_is_put_is_what_is_got(client: Any, bucket: str) -> None:
    body = os.urandom(3 * MIB + 17)
    client.put_object(Bucket=bucket, Key="put", Body=body)

    got = client.get_object(Bucket=bucket, Key="put")
    assert got["Body"].read() == body
    assert got["ContentLength"] == len(body)
    assert got["ETag"] == f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def test_an_empty_object_is_an_object(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="empty", Body=b"")

    assert client.get_object(Bucket=bucket, Key="empty")["Body"].read() == b""


def test_odd_keys_are_kept_as_they_are(s3: S3Server, client: Any) -> None:
    bucket = s3.make_bucket()
    for number, key in enumerate(ODD_KEYS):
        client.put_object(Bucket=bucket, Key=key, Body=str(number).encode())

    read = [client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in ODD_KEYS]
    assert read == [str(number).encode() for number in range(len(ODD_KEYS))]
    assert {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]} == set(ODD_KEYS)


def test_a_multipart_upload_is_one_object(client: Any, bucket: str) -> None:
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB), b"the end"]
    upload = client.create_multipart_upload(Bucket=bucket, Key="multi")["UploadId"]
    done = []
    for number, part in enumerate(parts, start=1):
        sent = client.upload_part(Bucket=bucket, Key="multi", UploadId=upload, PartNumber=number, Body=part)
        done.append({"PartNumber": number, "ETag": sent["ETag"]})
    client.complete_multipart_upload(Bucket=bucket, Key="multi", UploadId=upload, MultipartUpload={"Parts": done})

    got = client.get_object(Bucket=bucket, Key="multi")
    assert got["ETag"].endswith('-3"')
    assert got["Body"].read() == b"".join(parts)
    across = client.get_object(Bucket=bucket, Key="multi", Range=f"bytes={5 * MIB - 3}-{5 * MIB + 2}")["Body"].read()
    assert across == parts[0][-3:] + parts[1][:3]


def test_a_range_is_answered_with_206_and_that_range(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="range", Body=b"0123456789")

    got = client.get_object(Bucket=bucket, Key="range", Range="bytes=3-")
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert got["ContentRange"] == "bytes 3-9/10"
    assert got["Body"].read() == b"3456789"
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=bucket, Key="range", Range="bytes=10-")
    assert refusal(caught.value)[0] == 416


def test_an_object_replaced_meanwhile_is_refused_with_412(client: Any, bucket: str) -> None:
    etag = client.put_object(Bucket=bucket, Key="replaced", Body=b"old")["ETag"]
    client.put_object(Bucket=bucket, Key="replaced", Body=b"new")

    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=bucket, Key="replaced", IfMatch=etag)
    assert refusal(caught.value) == (412, "PreconditionFailed")


def test_a_version_stays_readable(s3: S3Server, client: Any) -> None:
    bucket = s3.make_bucket()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    old = client.put_object(Bucket=bucket, Key="k", Body=b"old")["VersionId"]
    client.put_object(Bucket=bucket, Key="k", Body=b"new")

    assert client.get_object(Bucket=bucket, Key="k", VersionId=old)["Body"].read() == b"old"


def test_what_is_not_there_is_said_to_be_not_there(client: Any, bucket: str) -> None:
    with pytest.raises(ClientError) as no_key:
        client.get_object(Bucket=bucket, Key="none")
    with pytest.raises(ClientError) as no_bucket:
        client.get_object(Bucket=f"{bucket}-none", Key="none")

    assert refusal(no_key.value) == (404, "NoSuchKey")
    assert refusal(no_bucket.value) == (404, "NoSuchBucket")


def test_a_wrong_secret_is_refused(s3: S3Server, bucket: str) -> None:
    client = s3.client(secret_access_key="not the secret")

    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=bucket, Key="none")
    assert refusal(caught.value) == (403, "SignatureDoesNotMatch")
    client.close()


def test_a_signature_of_yesterday_is_refused(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: datetime.now(UTC) - timedelta(days=1))

    status, body = signed_get(s3, f"/{bucket}/none")
    assert status == 403
    assert b"<Code>RequestTimeTooSkewed</Code>" in body


def test_many_open_streams_do_not_keep_others_waiting(s3: S3Server, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="long", Body=bytes(8 * MIB))
    with ExitStack() as stack:
        for _ in range(256):
            connection = connect(s3)
            stack.callback(connection.close)
            connection.connect()
            # A small window, so that the server has to keep the stream open.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            connection.request("GET", f"/{bucket}/long", headers=signature(s3, f"/{bucket}/long"))
            stack.enter_context(connection.getresponse())

        assert client.head_object(Bucket=bucket, Key="long")["ContentLength"] == 8 * MIB


def test_when_its_starter_is_killed_the_server_is_gone(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom hashmill.parts.s3 import start_s3\n"
        "server = start_s3(Path(sys.argv[1]))\nprint(*server.pids, flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        pids = [int(pid) for pid in starter.stdout.readline().split()]
        starter.kill()

    assert len(pids) >= 3
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_backend_nobody_knows_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PartFailed, match="'minio'; it may be auto, radosgw, swift"):
        start_s3(tmp_path, "minio")


def test_swift_keeps_its_data_elsewhere_where_a_folder_has_no_extended_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow = os.setxattr

    def refuse(path: str, *rest: Any) -> None:
        if path.startswith(str(tmp_path / "bare")):
            raise OSError(errno.ENOTSUP, "Operation not supported")
        allow(path, *rest)

    (tmp_path / "bare").mkdir()
    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(swift, "OTHER_FOLDERS", (tmp_path / "bare", tmp_path))

    cluster = swift.Cluster(tmp_path / "bare")
    assert [path.name[:6] for path in tmp_path.iterdir()].count("swift-") == 1
    cluster.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]
    monkeypatch.setattr(swift, "OTHER_FOLDERS", ())
    with pytest.raises(PartFailed, match="extended attributes, and none of these folders has them"):
        swift.Cluster(tmp_path / "bare")


def test_auto_takes_swift_where_there_is_no_radosgw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert choose("auto") == "swift"


def connect(s3: S3Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(s3.endpoint_url).netloc, timeout=30)


def signature(s3: S3Server, path: str) -> dict[str, str]:
    request = AWSRequest(method="GET", url=s3.endpoint_url + path)
    keys = Credentials(s3.access_key_id, s3.secret_access_key)
    botocore.auth.S3SigV4Auth(keys, "s3", s3.region).add_auth(request)
    return dict(request.headers)


def signed_get(s3: S3Server, path: str) -> tuple[int, bytes]:
    connection = connect(s3)
    connection.request("GET", path, headers=signature(s3, path))
    with connection.getresponse() as response:
        status, body = response.status, response.read()
    connection.close()
    return status, body
