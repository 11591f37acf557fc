"""What a read of one object produced."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_ALGORITHMS: tuple[str, ...] = ("md5", "sha1", "sha256")
"""known: the three algorithms of the seed's sample, in its order."""

KNOWN_ALGORITHMS: tuple[str, ...] = (
    "md5",
    "sha1",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "sha3-224",
    "sha3-256",
    "sha3-384",
    "sha3-512",
    "blake2b",
    "blake3",
    "xxh3-128",
    "crc32",
    "crc32c",
    "crc64nvme",
)
"""Names accepted in `function_params.algorithms`; lower case, as `set_hash` takes them (known for the first three)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedObject:
    """Every digest of one object, from one read.

    `failures` says of algorithms that could not be computed why, and they stand nowhere else;
    `digests` maps the algorithm's name to lower-case hex, in the order asked for;
    `backends` maps it to the library that computed it (`hashlib/OpenSSL 3.0.17`, `blake3/1.0.11`).
    """

    size_bytes: int
    digests: Mapping[str, str]
    backends: Mapping[str, str]
    failures: Mapping[str, str] = field(default_factory=dict)
