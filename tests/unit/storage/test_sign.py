"""What we sign is what botocore would have signed."""

from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest, prepare_request_dict
from botocore.serialize import create_serializer
from botocore.session import Session
from yarl import URL

from hashmill.storage import sign
from hashmill.storage.sign import BucketAddress, signed_get

CASES = 10_000
ODD_PIECES = [
    *("a", "Z", "0", "-", ".", "_", "~", "/", "//", "..", "./", " ", "  ", "+", "%", "%2F", "%00", "?", "#", "&", "="),
    *(
        "é",
        "e\u0301",
        "文件",
        "🗄",
        "\t",
        "\n",
        "\x7f",
        "'",
        '"',
        "<",
        "\\",
        "|",
        "^",
        "`",
        "{",
        "[",
        "*",
        "!",
        "$",
        "(",
    ),
    *(",", ":", ";", "@"),
]
REGIONS = ["us-east-1", "eu-west-3", "default", "x"]
HOSTS = ["127.0.0.1", "[::1]", "s3.example.org", "S3.Example.ORG", "s3.dualstack.eu-west-3.amazonaws.com"]
PORTS = ["", ":80", ":443", ":9000"]
TOKENS = [None, "", "token//+==", "t" * 1500]


@dataclass(frozen=True)
class SomeKeys:
    access_key: str
    secret_key: str
    token: str | None


def a_key(random: Random) -> str:
    pieces = random.choices(ODD_PIECES, k=random.choice([1, 2, 5, 20]))
    key = random.choice(["", "/", "dir/"]) + "".join(pieces) + random.choice(["", "", "/"])
    if random.random() < 0.05:
        key += "x" * 1024
    return key.encode()[:1024].decode(errors="ignore") or "k"


def a_root(random: Random) -> str:
    scheme, host, port = random.choice(["http", "https"]), random.choice(HOSTS), random.choice(PORTS)
    if random.random() < 0.4 and host[0] not in "[1":
        return f"{scheme}://the.bucket.{host}{port}/"
    return f"{scheme}://{host}{port}{random.choice(['', '/gateway', '/a//b'])}/the.bucket/"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time botocore signs at, in seconds."""
    now_s = [0.0]
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(now_s[0], UTC))
    return now_s


def test_ten_thousand_random_requests_are_signed_as_botocore_signs_them(clock: list[float]) -> None:
    random = Random(4)
    for number in range(CASES):
        key, root, region = a_key(random), a_root(random), random.choice(REGIONS)
        keys = SomeKeys(f"AKID{random.randrange(9)}", f"secret{random.randrange(9)}/+", random.choice(TOKENS))
        version_id = random.choice([None, None, "v7", "a/b+c=~ é", "3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY_MTRCxf3vjVBH40"])
        if_match = random.choice([None, '"one"', '"d41d8cd98f00b204e9800998ecf8427e-17"', '"two  blanks"'])
        start_byte = random.choice([0, 1, 5 << 40])
        end_byte = random.choice([None, start_byte + 1, 6 << 40])
        checksums = random.random() < 0.5
        clock[0] = random.uniform(1.7e9, 1.9e9)

        address = BucketAddress.of(root, region=region, service="s3")
        ours = signed_get(
            address,
            key,
            keys,
            at_s=clock[0],
            version_id=version_id,
            if_match=if_match,
            start_byte=start_byte,
            end_byte=end_byte,
            checksums=checksums,
        )

        theirs = AWSRequest(method="GET", url=ours.url)
        if if_match is not None:
            theirs.headers["If-Match"] = if_match
        if start_byte or end_byte is not None:
            theirs.headers["Range"] = f"bytes={start_byte}-{'' if end_byte is None else end_byte - 1}"
        if checksums:
            theirs.headers["x-amz-checksum-mode"] = "ENABLED"
        S3SigV4Auth(keys, "s3", region).add_auth(theirs)
        told = f"case {number}: {root} {key!r} {version_id!r} {if_match!r} {start_byte} {end_byte} {checksums}"
        assert ours.headers["Authorization"] == theirs.headers["Authorization"], told
        assert ours.headers["x-amz-date"] == theirs.headers["X-Amz-Date"]
        assert ours.headers["x-amz-content-sha256"] == theirs.headers["X-Amz-Content-SHA256"]
        assert ours.headers.get("x-amz-checksum-mode") == ("ENABLED" if checksums else None)
        assert ours.headers.get("x-amz-security-token") == theirs.headers.get("X-Amz-Security-Token")


def test_the_url_sent_is_the_one_botocore_would_write_byte_for_byte() -> None:
    random = Random(5)
    model = Session().get_service_model("s3").operation_model("GetObject")
    serializer = create_serializer("rest-xml")
    keys = SomeKeys("AKID", "secret", None)
    for _ in range(2_000):
        key, version_id = a_key(random), random.choice([None, "v7", "a/b+c=~ é&%"])
        root = a_root(random)
        asked = {"Bucket": "the.bucket", "Key": key} | ({"VersionId": version_id} if version_id else {})
        theirs = serializer.serialize_to_request(asked, model)
        # A client takes the bucket away here, and has the rules of the endpoint put it where it belongs.
        theirs["url_path"] = theirs["url_path"].removeprefix("/the.bucket")
        prepare_request_dict(theirs, endpoint_url=root[:-1])

        ours = signed_get(
            BucketAddress.of(root, region="r", service="s3"), key, keys, at_s=1.8e9, version_id=version_id
        )

        assert ours.url == theirs["url"], (root, key, version_id)
        sent = URL(ours.url, encoded=True)
        split = urlsplit(ours.url)
        assert sent.raw_path_qs == split.path + (f"?{split.query}" if split.query else "")


def test_a_key_is_derived_once_a_day_and_few_are_kept() -> None:
    sign._day_key.cache_clear()
    address = BucketAddress.of("http://h/b/", region="r", service="s3")

    for second in range(1000):
        signed_get(address, "k", SomeKeys("AKID", "secret", None), at_s=1_800_000_000 + second)
    assert sign._day_key.cache_info().misses == 1

    for number in range(1000):
        signed_get(address, "k", SomeKeys("AKID", f"secret{number}", None), at_s=1.8e9)
    assert sign._day_key.cache_info().currsize <= 256


@pytest.mark.parametrize("change", [{"secret": "b"}, {"day": "20260102"}, {"region": "q"}, {"service": "q"}])
def test_a_day_key_is_of_one_secret_day_region_and_service(change: dict[str, str]) -> None:
    one = {"secret": "a", "day": "20260101", "region": "r", "service": "s3"}

    assert sign._day_key(**one) != sign._day_key(**(one | change))
