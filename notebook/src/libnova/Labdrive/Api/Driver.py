"""
Calls of LABDRIVE's API, over one connection, with one key.

A `Request` starts the driver that all functions of this package use; code without an event starts one itself:

    Driver.use(Driver.Driver("https://labdrive.example.org", key))
"""

import json
import os
import secrets
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from libnova import _table
from libnova._capture import captured
from libnova.errors import (
    AnswerUnreadable,
    ApiRejected,
    ApiUnavailable,
    KeyMissing,
    KeyRefused,
    NotFound,
    SettingMissing,
)

__all__ = ["Driver", "current", "use"]

CONNECT_S: Final = 10.0
ANSWER_S: Final = 600.0
"""The longest that one query of the API may run (known)."""
TRIES: Final = 5
REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT"})
"""Methods that are repeated when an answer was lost. A POST is not: the message may have been written."""
BACKOFF_S: Final = 0.3
POOL: Final = 16
PAGE: Final = 1000
"""Items asked for in one call of a list."""


class Driver:
    """One LABDRIVE and one user's key. May be used by several threads."""

    def __init__(self, url: str = "", key: str = "") -> None:
        """`url` with or without `/api`; LIBNOVA_API_URL and LIBNOVA_API_KEY win over both arguments.

        Raises `SettingMissing` and `KeyMissing` when there is none, and when one of the two is set and empty: whoever
        sets it means it to win.
        """
        self._table = _table.table()
        address = os.environ.get("LIBNOVA_API_URL", url).strip().rstrip("/")
        if not address and "LIBNOVA_API_URL" in os.environ:
            raise SettingMissing("LIBNOVA_API_URL is empty: set it to the address of LABDRIVE, or unset it.")
        if not address:
            raise SettingMissing(
                "There is no address of LABDRIVE: write it as api.url into the event, or set LIBNOVA_API_URL."
            )
        self._key = os.environ.get("LIBNOVA_API_KEY", key).strip()
        if not self._key and "LIBNOVA_API_KEY" in os.environ:
            raise KeyMissing("LIBNOVA_API_KEY is empty: set it to your API key, or unset it.")
        if not self._key:
            raise KeyMissing(
                "There is no API key. LABDRIVE shows yours under your user name, Access Methods: write it as "
                "api.key_user into the event, or set LIBNOVA_API_KEY."
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise KeyMissing(
                "The API key holds characters that no key has: copy it anew from LABDRIVE, Access Methods."
            )
        base = self._table.value("base.path")
        self.url = address if address.endswith(base) else address + base
        """The address that every path of the table is below."""
        again = Retry(
            total=TRIES,
            backoff_factor=BACKOFF_S,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=REPEATABLE,
            raise_on_status=False,
        )
        self._session = _Session()
        # The key is in a header already; without an auth requests would put what ~/.netrc holds for the host over it.
        self._session.auth = lambda request: request
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=again, pool_maxsize=POOL))

    def __repr__(self) -> str:
        """Return the address, and never the key."""
        return f"Driver({getattr(self, 'url', '')!r})"

    def call(self, name: str, **values: Any) -> Any:
        """Make the call `name` of the table with `values` put in and return its result; None for one that is captured.

        Raises `KeyRefused`, `NotFound`, `ApiRejected`, `ApiUnavailable`, `AnswerUnreadable`, `NotDelivered`, or
        `TableInvalid`.
        """
        if captured(name, values):
            return None
        call = self._table.call(name, {"idempotency_key": secrets.token_hex(16), **values})
        what = f"{call.method} {self.url}{call.path}"
        try:
            answer = self._answer(call)
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
        ) as error:
            raise SettingMissing(
                f"{self.url} is no address: it must begin with http:// or https:// and name a host."
            ) from error
        except requests.RequestException as error:
            raise ApiUnavailable(
                f"LABDRIVE cannot be reached ({what}: {_short(error)}). Is the address right, and the network there?"
            ) from error
        return self._result(answer, what, changes=not _table.only_asks(name))

    def _answer(self, call: _table.Call) -> requests.Response:
        """Return the answer; one that broke off is asked for again where that does no harm."""
        headers = {self._table.value("auth.header"): self._table.value("auth.prefix") + self._key, **call.headers}
        try:
            body = json.dumps(dict(call.body), allow_nan=False).encode() if call.body else None
        except (TypeError, ValueError) as error:
            raise ApiRejected(f"{call.method} {call.path}: what was given is no JSON ({error})") from error
        if body is not None:
            headers["Content-Type"] = "application/json"
        for left in range(TRIES, -1, -1):
            try:
                return self._session.request(
                    call.method,
                    self.url + call.path,
                    params=dict(call.query),
                    headers=headers,
                    data=body,
                    timeout=(CONNECT_S, ANSWER_S),
                )
            except requests.exceptions.ChunkedEncodingError:
                if call.method not in REPEATABLE or not left:
                    raise
        raise AssertionError("the last round returns or raises")

    def _result(self, answer: requests.Response, what: str, *, changes: bool) -> Any:
        table, status = self._table, answer.status_code
        if 300 <= status < 400:
            raise AnswerUnreadable(
                f"{what} was sent on to {_target(answer)} ({status}), which is not followed: nothing was read or "
                "written. If LABDRIVE is there, write that address as api.url into the event, or set LIBNOVA_API_URL; "
                "if it is a login page, something in between wants you to log in first."
            )
        try:
            body: Any = answer.json()
        except ValueError:
            body = _NO_JSON
        envelope = body if isinstance(body, dict) else {}
        said = str(envelope.get(table.value("envelope.message")) or "").strip()
        told = f"{what} gave {status}" + (f": {said}" if said else "")
        if status >= 500 or status == 429:
            raise ApiUnavailable(f"LABDRIVE is out of order or too busy ({told}). Try again later.")
        flag, field = table.value("envelope.success"), table.value("envelope.result")
        if not changes or flag or status >= 400 or answer.content.strip():
            self._raise_if_foreign(answer, body, what)
        if status == 401:
            raise KeyRefused(
                f"LABDRIVE does not know this API key ({told}). Copy it anew: your user name, Access Methods."
            )
        if status == 403:
            raise KeyRefused(f"This API key may not do that ({told}). Ask who owns the container for the right to.")
        if status == 404:
            raise NotFound(f"LABDRIVE has no such thing ({told}). Is the id right, and of this LABDRIVE?")
        if status < 400 and flag and flag not in envelope:
            raise AnswerUnreadable(f"{what} was answered without {flag!r}. Correct [envelope] in labdrive.toml.")
        if status >= 400 or (flag and envelope[flag] not in _YES):
            raise ApiRejected(f"LABDRIVE refused the call ({told}).")
        if changes:  # done, whatever else the answer holds: a write of metadata has no result (seen)
            return envelope.get(field)
        if field and field not in envelope:
            raise AnswerUnreadable(f"{what} was answered without {field!r}. Correct [envelope] in labdrive.toml.")
        return envelope[field] if field else body

    def _raise_if_foreign(self, answer: requests.Response, body: Any, what: str) -> None:
        """Raise `AnswerUnreadable` for an answer that is not in LABDRIVE's envelope, whatever its status says."""
        names = [name for part in ("success", "result", "message") if (name := self._table.value(f"envelope.{part}"))]
        bare = not self._table.value("envelope.result") and body is not _NO_JSON
        if bare or (isinstance(body, dict) and any(name in body for name in names)):
            return
        kind = answer.headers.get("Content-Type", "something without a type")
        asked_for_a_key = answer.status_code in (401, 403)
        raise AnswerUnreadable(
            f"{what} was answered {answer.status_code} with {kind}, not with LABDRIVE's JSON: {_short(answer.text)!r}. "
            "Is the address LABDRIVE's own, and no proxy or login page in between?"
            + (" If it is LABDRIVE, is the API key right, and may it do this?" if asked_for_a_key else "")
        )


_NO_JSON: Final = object()


class _Session(requests.Session):
    """Follows no redirect: on the way a write loses its body, and whoever is named gets what was sent."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


_YES: Final = (True, 1, "1", "true")

_current: Driver | None = None


def use(driver: Driver) -> Driver:
    """Let every function of this package use `driver`, and return it."""
    global _current
    _current = driver
    return driver


def current() -> Driver:
    """Return the driver in use, or start one from LIBNOVA_API_URL and LIBNOVA_API_KEY.

    Raises `SettingMissing` or `KeyMissing` where there is neither.
    """
    return _current or use(Driver())


def _target(answer: requests.Response) -> str:
    """Return where a redirect leads, without what a query may hold."""
    location = answer.headers.get("Location", "")
    try:
        place = urlsplit(urljoin(answer.url, location))
        port = f":{place.port}" if place.port else ""
    except ValueError:
        return "an unclear place"
    return f"{place.scheme}://{place.hostname}{port}{place.path}" if location and place.hostname else "an unclear place"


def _short(what: object) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= 200 else text[:199] + "…"
