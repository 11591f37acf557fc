"""
The signature of one GET, AWS Signature Version 4, with a key that is derived once a day.

known: AWS's reference "Authenticating Requests: Using the Authorization Header"; that each signature is botocore's own,
a test shows over random requests.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from hmac import digest
from typing import Final, Protocol
from urllib.parse import quote, urlsplit

_NO_BODY: Final = sha256(b"").hexdigest()
_DAY_KEYS_MAX: Final = 256
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Keys(Protocol):
    """What requests are signed with; botocore's frozen credentials are such."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketAddress:
    """Where a bucket's objects are: `root` is the URL before the key, and what is signed of it stands beside it."""

    root: str
    path: str
    host: str
    region: str
    service: str

    @classmethod
    def of(cls, root: str, *, region: str, service: str) -> "BucketAddress":
        """Return the address whose URLs begin with `root`, as that is written; it ends before the key."""
        parts = urlsplit(root)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        if parts.port not in (None, _DEFAULT_PORTS.get(parts.scheme)):
            host += f":{parts.port}"
        return cls(root=root, path=parts.path, host=host, region=region, service=service)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedGet:
    """What is sent, byte for byte. Its headers hold keys: never log one."""

    url: str
    headers: dict[str, str]


def signed_get(
    address: BucketAddress,
    key: str,
    keys: Keys,
    *,
    at_s: float,
    version_id: str | None = None,
    if_match: str | None = None,
    start_byte: int = 0,
    end_byte: int | None = None,
    checksums: bool = False,
) -> SignedGet:
    """Return the GET of an object, or of its bytes from `start_byte` to before `end_byte`.

    Signed at `at_s` (seconds since 1970). With `checksums` the answer says which ones the server stores, if it does.
    """
    name = quote(key, safe="/~")
    query = f"versionId={quote(version_id, safe='~')}" if version_id is not None else ""
    at = _moment(int(at_s))
    headers = {"host": address.host}  # in the order of the alphabet, as they are signed
    if if_match is not None:
        headers["if-match"] = if_match
    if start_byte or end_byte is not None:
        headers["range"] = f"bytes={start_byte}-{'' if end_byte is None else end_byte - 1}"
    if checksums:
        headers["x-amz-checksum-mode"] = "ENABLED"
    headers["x-amz-content-sha256"] = _NO_BODY
    headers["x-amz-date"] = at
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    signed_names = ";".join(headers)
    if if_match is not None:  # runs of blanks count as one: known, the reference's Trim; an ETag may have any
        lines = "".join([f"{header}:{' '.join(value.split())}\n" for header, value in headers.items()])
    else:
        lines = "".join([f"{header}:{value}\n" for header, value in headers.items()])
    request = f"GET\n{address.path}{name}\n{query}\n{lines}\n{signed_names}\n{_NO_BODY}"
    scope = f"{at[:8]}/{address.region}/{address.service}/aws4_request"
    said = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    signature = digest(_day_key(keys.secret_key, at[:8], address.region, address.service), said.encode(), "sha256")
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
        f"SignedHeaders={signed_names}, Signature={signature.hex()}"
    )
    url = f"{address.root}{name}"
    return SignedGet(url=f"{url}?{query}" if query else url, headers=headers)


@lru_cache(maxsize=4)
def _moment(at_s: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_s))


@lru_cache(_DAY_KEYS_MAX)
def _day_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, service, "aws4_request"):
        key = digest(key, word.encode(), "sha256")
    return key
