"""The platform's API: one method per call, domain types back, every failure one of three errors of ours."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from hashmill.domain.errors import ApiRejected, ApiUnavailable
from hashmill.domain.job import JobStatus, MessageType
from hashmill.domain.remote import FilePage, RemoteContainer, RemoteFile, RemoteMessage
from hashmill.domain.secret import Secret
from hashmill.labdrive.answer import (
    ShapeWrong,
    dig,
    read_container,
    read_file,
    read_files,
    read_messages,
    read_metadata,
)
from hashmill.labdrive.exchange import Sent, judge, render, spoken_by_platform
from hashmill.labdrive.origins import check_origin, normal_origins
from hashmill.labdrive.pace import Pace
from hashmill.labdrive.template import Values
from hashmill.labdrive.wire import WireTable

T = TypeVar("T")

MESSAGES_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiAccess:
    """Which platform a call goes to (as `TriggerEvent.api_url`), and with whose key."""

    url: str
    key: Secret


class LabdriveClient:
    """The platform's API, for every platform on the allow-list; one per process, opened with `async with`.

    Every method raises `OriginRefused` (the address is not on the list), `ApiAuth` (401, 403), `ApiRejected`
    (understood and refused), or `ApiUnavailable` (anything that may pass). Reading calls are tried `pace.attempts`
    times; writing calls once, because their caller owes them until they succeed and keeps their order.

    Redirects are never followed, proxies never taken from the environment, cookies never kept.
    """

    def __init__(self, wire: WireTable, pace: Pace, *, allowed_origins: Iterable[str]) -> None:
        self._wire = wire
        self._pace = pace
        self._allowed = normal_origins(allowed_origins)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=self._pace.timeout_s, sock_connect=self._pace.connect_timeout_s),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def set_job_status(self, access: ApiAccess, job_id: str, status: JobStatus, idempotency_key: str) -> None:
        """Set the job's status; setting it twice is harmless."""
        await self._call(
            access,
            "set_job_status",
            job_id=job_id,
            status=self._wire.status[status].value,
            idempotency_key=idempotency_key,
        )

    async def create_message(
        self,
        access: ApiAccess,
        job_id: str,
        text: str,
        message_type: MessageType,
        file_id: str | None,
        idempotency_key: str,
    ) -> None:
        """Add a message to the job, bound to a file or to none. Sent twice it may stand there twice."""
        await self._call(
            access,
            "create_message",
            job_id=job_id,
            text=text,
            type=self._wire.message_types[message_type].value,
            file_id=file_id,
            idempotency_key=idempotency_key,
        )

    async def list_messages(self, access: ApiAccess, job_id: str, *, most: int) -> list[RemoteMessage] | None:
        """Return the job's messages, or None where they cannot all be read.

        That is so where the wire table has no such call or no `[message]`, and where the job has more than `most`. The
        listing ends as that of files does.
        """
        if "list_messages" not in self._wire.calls or self._wire.message is None:
            return None
        found: list[RemoteMessage] = []
        before: tuple[RemoteMessage, ...] = ()
        page = 1
        while len(found) <= most:
            here = await self._read(
                access,
                "list_messages",
                lambda answer: read_messages(answer, self._wire),
                job_id=job_id,
                limit=MESSAGES_PAGE,
                offset=len(found),
                page=page,
            )
            if not here or here == before:
                return found
            found += here
            before, page = here, page + 1
        return None

    def type_name(self, message_type: MessageType) -> str:
        """Return what the platform calls a message of this type."""
        return self._wire.message_types[message_type].value

    async def set_hash(
        self, access: ApiAccess, file_id: str, algorithm: str, hexdigest: str, idempotency_key: str
    ) -> None:
        """Store the file's digest by one algorithm; an earlier value is replaced (assumed)."""
        await self._call(
            access,
            "set_hash",
            file_id=file_id,
            algorithm=algorithm,
            hexdigest=hexdigest,
            idempotency_key=idempotency_key,
        )

    async def get_file(self, access: ApiAccess, file_id: str) -> RemoteFile:
        """Return the file or folder of that id."""

        def read(answer: Any) -> RemoteFile:
            file = read_file(answer, self._wire)
            if file.file_id != file_id:
                raise ShapeWrong("it is about another file")
            return file

        return await self._read(access, "get_file", read, file_id=file_id)

    async def get_file_by_path(self, access: ApiAccess, container_id: str, path: str) -> RemoteFile:
        """Return the file or folder at `path`, relative to the container, as `RemoteFile.path`."""

        def read(answer: Any) -> RemoteFile:
            return read_file(answer, self._wire, container_id=container_id)

        return await self._read(access, "get_file_by_path", read, container_id=container_id, path=path)

    async def list_files(self, access: ApiAccess, container_id: str, cursor: str | None, limit: int) -> FilePage:
        """Return the part of the container's listing that `cursor` (None at first) asks for.

        The listing ends with an empty part, or with one that repeats the part before it, as a server sends that knows
        no paging. A short part is no end: a server may allow fewer than `limit`, and a file not listed is a file not
        checked.
        """
        offset, page, before = _place(cursor)
        files = await self._read(
            access,
            "list_files",
            lambda answer: read_files(answer, self._wire, container_id=container_id),
            container_id=container_id,
            limit=limit,
            offset=offset,
            page=page,
        )
        here = _fingerprint(files)
        if not files or here == before:
            return FilePage(files=(), next_cursor=None)
        return FilePage(files=files, next_cursor=f"{offset + len(files)}.{page + 1}.{here}")

    async def get_container(self, access: ApiAccess, container_id: str) -> RemoteContainer:
        """Return the container of that id."""

        def read(answer: Any) -> RemoteContainer:
            container = read_container(answer, self._wire)
            if container.container_id != container_id:
                raise ShapeWrong("it is about another container")
            return container

        return await self._read(access, "get_container", read, container_id=container_id)

    async def get_metadata(self, access: ApiAccess, file_id: str) -> list[Any] | None:
        """Return the file's metadata entries as the platform writes them, or None when it has none."""
        return await self._read(access, "get_metadata", read_metadata, file_id=file_id)

    async def probe(self, access: ApiAccess) -> None:
        """Return when the platform answers in its own words and takes the key.

        Whether what the call asks for exists is no matter; an answer that any web server could give is no proof.
        """
        sent = self._sent(access, "probe", {})
        status, headers, body = await self._exchange("probe", sent)
        try:
            judge(self._wire, "probe", status=status, headers=headers, body=body, key=access.key)
        except ApiRejected:
            if not spoken_by_platform(self._wire, body):
                raise

    async def _read(self, access: ApiAccess, call: str, read: Callable[[Any], T], **values: str | int | None) -> T:
        failed = 0
        while True:
            try:
                answer = await self._call(access, call, **values)
                try:
                    return read(answer)
                except ShapeWrong as error:
                    raise ApiUnavailable(f"{call}: the answer is not as labdrive.toml says: {error}") from error
            except ApiUnavailable as error:
                failed += 1
                pause_s = self._pace.pause_s(failed, retry_after_s=error.retry_after_s)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)

    async def _call(self, access: ApiAccess, call: str, **values: str | int | None) -> Any:
        """Ask once; return what the wire table calls the call's answer."""
        sent = self._sent(access, call, values)
        status, headers, body = await self._exchange(call, sent)
        result = judge(self._wire, call, status=status, headers=headers, body=body, key=access.key)
        return dig(result, self._wire.calls[call].answer)

    def _sent(self, access: ApiAccess, call: str, values: Values) -> Sent:
        base = check_origin(access.url, self._allowed)
        return render(self._wire, call, base=base, key=access.key, values=values)

    async def _exchange(self, call: str, sent: Sent) -> tuple[int, Any, bytes]:
        if self._session is None:
            raise RuntimeError("LabdriveClient is used outside its `async with`")
        try:
            async with self._session.request(
                sent.method, sent.url, headers=sent.headers, data=sent.body, allow_redirects=False
            ) as response:
                body = bytearray()
                async for block in response.content.iter_any():
                    body += block
                    if len(body) > self._pace.answer_max_bytes:
                        # Leaving the block closes the connection: the rest is never read.
                        raise ApiUnavailable(
                            f"{call}: the answer is larger than {self._pace.answer_max_bytes} bytes", uncertain=True
                        )
                return response.status, response.headers, bytes(body)
        except aiohttp.ConnectionTimeoutError as error:
            raise ApiUnavailable(f"{call}: no connection within {self._pace.connect_timeout_s:g} s") from error
        except TimeoutError as error:
            raise ApiUnavailable(f"{call}: no answer within {self._pace.timeout_s:g} s", uncertain=True) from error
        except aiohttp.ClientConnectorError as error:
            raise ApiUnavailable(f"{call}: {type(error).__name__}: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiUnavailable(f"{call}: {type(error).__name__}: {error}", uncertain=True) from error


def _fingerprint(files: tuple[RemoteFile, ...]) -> str:
    # Sorted, because a server that ignores paging may ignore order too.
    ids = "\n".join(sorted(file.file_id for file in files))
    return hashlib.sha256(ids.encode()).hexdigest()[:16]


def _place(cursor: str | None) -> tuple[int, int, str]:
    if cursor is None:
        return 0, 1, ""
    offset, page, before = cursor.split(".")
    return int(offset), int(page), before
