"""One S3 server and one set of keys: aiobotocore's client, the wire beneath it, and what it takes to sign a GET."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError

from hashmill.domain.errors import ConfigFault
from hashmill.domain.secret import Secret
from hashmill.storage.config import StorageConfig, StoragePace
from hashmill.storage.sign import BucketAddress, Keys
from hashmill.storage.wire import Body, WireSession

ADDRESSES_MAX: Final = 4096
"""So many buckets' addresses are kept; finding one again costs about a millisecond."""

_WORD: Final = r"[!-~]*"
_SAMPLE: Final = "k"
_CREDENTIAL: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=.*/\d{8}/(?P<region>[^/,]+)/(?P<service>s3)/aws4_request, "
)


class Link:
    """What is open to one server. `client` asks what is asked seldom; objects are read through `wire`."""

    def __init__(self, client: Any, wire: WireSession, credentials: Any, *, checksums: bool) -> None:
        self.client = client
        self.wire = wire
        self.checksums = checksums
        self.tls: bool = client.meta.endpoint_url.startswith("https:")
        self._credentials = credentials
        self._addresses: dict[str, BucketAddress] = {}
        self._writing = asyncio.Lock()
        self._written: Any = None
        client.meta.events.register_last("before-parameter-build.s3", _stay_here)
        client.meta.events.register_first("before-send.s3.GetObject", self._keep)

    async def keys(self) -> Keys:
        """Return what to sign with now; keys of a profile or a role are refreshed before they expire.

        Lets the errors of the libraries through.
        """
        credentials = self._credentials
        if not isinstance(credentials, ReadOnlyCredentials):
            credentials = await credentials.get_frozen_credentials()
        return cast(Keys, credentials)

    async def address(self, bucket: str) -> BucketAddress:
        """Return where the bucket's objects are, and for which region requests to them are signed.

        botocore's rules decide, with all that the settings and AWS's own files say of endpoints and styles: it writes a
        GET of some key, which is read and not sent. Raises `ConfigFault`; lets the errors of the libraries through.
        """
        if (known := self._addresses.get(bucket)) is not None:
            return known
        if bucket.endswith("--x-s3"):  # known: S3 user guide, directory buckets; they have session keys of their own
            raise ConfigFault(f"s3://{bucket}: directory buckets (S3 Express) are not supported")
        async with self._writing:
            await self.client.get_object(Bucket=bucket, Key=_SAMPLE)
            address = _address_in(self._written, bucket)
        while len(self._addresses) >= ADDRESSES_MAX:
            del self._addresses[next(iter(self._addresses))]
        return self._addresses.setdefault(bucket, address)

    def _keep(self, request: Any, **_: object) -> AioAWSResponse:
        self._written = request
        return AioAWSResponse(request.url, 200, {}, Body(b""))


@asynccontextmanager
async def open_link(session: AioSession, config: StorageConfig, pace: StoragePace) -> AsyncIterator[Link]:
    """Open a client that does what we say and nothing of its own accord; raise `ConfigFault` when it cannot be."""
    _check_words(config)
    wires: list[WireSession] = []

    def open_wire(**facts: Any) -> WireSession:
        wires.append(WireSession(**facts))
        return wires[-1]

    ours = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": config.addressing_style},
        connect_timeout=pace.connect_timeout_s,
        read_timeout=pace.idle_timeout_s,
        max_pool_connections=pace.connections,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,  # the settings are the allow-list
        http_session_cls=open_wire,
        warm_up_loader_caches=True,
    )
    explicit = ReadOnlyCredentials(
        config.access_key_id or None, _revealed(config.secret_access_key), _revealed(config.session_token)
    )
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(
                session.create_client(
                    "s3",
                    endpoint_url=config.endpoint_url or None,
                    region_name=config.region,
                    aws_access_key_id=explicit.access_key,
                    aws_secret_access_key=explicit.secret_key,
                    aws_session_token=explicit.token,
                    config=ours,
                )
            )
            # Without a key of ours the client has taken the session's own, and so do we.
            credentials = explicit if explicit.access_key else await session.get_credentials()
        except (BotoCoreError, ValueError, OSError) as error:  # ValueError: an endpoint that is no address
            raise ConfigFault(f"no S3 client for {config.endpoint_url or config.region}: {error}") from error
        if credentials is None:  # and not kept so: the next question looks for them again
            raise ConfigFault(
                f"no keys for {config.endpoint_url or config.region}: neither s3.access_key_id nor the AWS chain of "
                "this machine (environment, profile, instance role) gives any"
            )
        yield Link(client, wires[0], credentials, checksums=config.provider_checksums)


def _address_in(request: Any, bucket: str) -> BucketAddress:
    """Read the address out of the GET of `_SAMPLE` that botocore wrote."""
    said = request.headers.get("Authorization", "")
    scope = _CREDENTIAL.match(said.decode() if isinstance(said, bytes) else said)
    if scope is None or not request.url.endswith(f"/{_SAMPLE}"):
        raise ConfigFault(
            f"s3://{bucket}: no plain signed GET leads to objects there; check s3.endpoint_url and the AWS "
            "configuration of this machine"
        )
    return BucketAddress.of(request.url.removesuffix(_SAMPLE), region=scope["region"], service=scope["service"])


def _check_words(config: StorageConfig) -> None:
    """Refuse what could not stand in a header: most often a line break at the end of a mounted secret."""
    words = {
        "region": config.region,
        "access_key_id": config.access_key_id or "",
        "secret_access_key": _revealed(config.secret_access_key) or "",
        "session_token": _revealed(config.session_token) or "",
    }
    for name, word in words.items():
        if not re.fullmatch(_WORD, word):
            raise ConfigFault(f"s3.{name} holds a space, a line break or a letter outside ASCII")
    if not config.region:
        raise ConfigFault("s3.region is empty; write the region your S3 server expects, us-east-1 if it has none")


def _revealed(secret: Secret | None) -> str | None:
    return secret.reveal() if secret else None


def _stay_here(context: dict[str, Any], **_: object) -> None:
    """Tell botocore that it has followed its one redirect already: else it would look up the bucket's region itself."""
    context.setdefault("s3_redirect", {})["redirected"] = True
