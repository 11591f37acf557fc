"""The intake as its callers see it: post an event, ask how its run stands."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from yarl import URL

from hashmill.cli.progress import Standing
from hashmill.domain.errors import ConfigFault, LedgerUnavailable, Transient
from hashmill.domain.job import RunState
from hashmill.domain.origin import origin_of

TIMEOUT_S: Final = 60.0
ANSWER_MAX_BYTES: Final = 4_194_304


class IntakeRefused(Exception):
    """The intake understood and said no; `faults` are (path, problem), `document` is the problem document."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {document.get('title', '')}: {document.get('detail', '')}")
        self.document = {"status": status, **document}
        given = document.get("faults")
        self.faults = [
            (str(fault.get("path", "$")), str(fault.get("problem", "")))
            for fault in (given if isinstance(given, list) else ())
            if isinstance(fault, dict)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The run an event became; `made` is false when the event had made it before. `status_url` is absolute."""

    run_id: str
    status_url: str
    made: bool


class IntakeClient:
    """One intake; opened with `async with`. Its token goes nowhere else, and no redirect is followed.

    Every method raises `Transient` when the intake cannot be reached, `LedgerUnavailable` when it cannot reach its
    ledger (503), and `IntakeRefused` for any other answer that is not what was asked for.
    """

    def __init__(self, url: str, token: str) -> None:
        try:
            self._origin = origin_of(url)
        except ValueError as error:
            raise ConfigFault(f"the intake's address {error}") from None
        if not all("\x21" <= char <= "\x7e" for char in token):
            raise ConfigFault("the intake's token must be visible ASCII characters without blanks")
        # A function's address, as platforms are given it, will do as well.
        self._base = URL(url.rstrip("/").removesuffix("/v1/events") + "/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), trust_env=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post_event(self, body: bytes, *, idempotency_key: str | None = None) -> Accepted:
        """Return the run of the event in `body`."""
        headers = {"Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        status, document = await self._ask("POST", self._base / "v1" / "events", headers=headers, body=body)
        try:
            address = self._base.join(URL(document["status_url"]))
            return Accepted(run_id=str(document["run_id"]), status_url=str(address), made=status == 202)
        except (KeyError, TypeError, ValueError) as error:
            raise self._stranger(status) from error

    async def standing(self, status_url: str) -> Standing:
        """Return how far the run behind `status_url` is."""
        if origin_of(status_url) != self._origin:
            raise ConfigFault(f"the status is at {origin_of(status_url)}, not at the intake {self._origin}: not asked")
        status, run = await self._ask("GET", URL(status_url))
        try:
            progress = run["progress"]
            return Standing(
                run_id=str(run["run_id"]),
                state=RunState(run["state"]),
                files_total=int(progress["files_total"]),
                files_done=int(progress["files_done"]),
                files_failed=int(progress["files_failed"]),
                bytes_total=int(progress["bytes_total"]),
                bytes_done=int(progress["bytes_done"]),
                reports_owed=int(run["outbox"]["owed"]),
                error_class=run["error_class"],
                error_detail=run["error_detail"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._stranger(status) from error

    async def _ask(
        self, method: str, url: URL, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, Any]]:
        if self._session is None:
            raise RuntimeError("IntakeClient is used outside its `async with`")
        try:
            async with self._session.request(
                method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                status = response.status
                raw = await response.content.read(ANSWER_MAX_BYTES)
                while not response.content.at_eof() and len(raw) < ANSWER_MAX_BYTES:
                    raw += await response.content.read(ANSWER_MAX_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Transient(
                f"the intake at {self._origin} does not answer ({type(error).__name__}): is `hashmill intake` running "
                "there? --intake names another one"
            ) from error
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._stranger(status)
        if status == 503:
            raise LedgerUnavailable(f"the intake at {self._origin} says: {document.get('detail', 'not now')}")
        if status not in (200, 202):
            raise IntakeRefused(status, document)
        return status, document

    def _stranger(self, status: int) -> ConfigFault:
        return ConfigFault(
            f"{self._origin} answered {status} in a way no intake of this version does: --intake names the right one"
        )
