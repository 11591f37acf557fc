"""One call as bytes: what is sent, and what the bytes that come back mean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from yarl import URL

from hashmill.domain.errors import ApiAuth, ApiRejected, ApiUnavailable
from hashmill.domain.origin import origin_of
from hashmill.domain.secret import Secret
from hashmill.domain.text import one_line
from hashmill.labdrive.answer import dig, succeeded
from hashmill.labdrive.pace import retry_after_s
from hashmill.labdrive.template import Values, fill, fill_body
from hashmill.labdrive.wire import WireTable

_TRY_LATER = frozenset({408, 425, 429})
_ANSWER_LOST = frozenset({502, 504})
"""A gateway that says it has no answer; the platform may have done what it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request, ready to go. Its headers hold the key."""

    method: str
    url: URL
    headers: Mapping[str, str]
    body: bytes | None

    def __repr__(self) -> str:
        return f"Sent({self.method} {self.url})"


def render(wire: WireTable, call: str, *, base: str, key: Secret, values: Values) -> Sent:
    """Return the request of `call` with `values` put in.

    Raises `ApiRejected` for a path that no address can carry: `.` and `..` as a whole segment are resolved by whoever
    reads the address, and would make this another call.
    """
    line = wire.calls[call]
    path = fill(line.path, values, encode=_in_path)
    if path is None or not {".", ".."}.isdisjoint(path.split("/")):
        raise ApiRejected(f"{call}: a path with the segment . or .. cannot be asked for")
    query = [
        f"{quote(name, safe='')}={text}"
        for name, template in line.query.items()
        if (text := fill(template, values, encode=_in_query)) is not None
    ]
    headers = {wire.auth.header.value: wire.auth.prefix.value + key.reveal()}
    for name, template in line.headers.items():
        if (text := fill(template, values)) is not None:
            headers[name] = text
    body = None
    if line.body is not None:
        filled = fill_body(line.body, values)
        if line.encoding == "form":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(filled).encode()  # type: ignore[arg-type]  # a dict in, a dict out
        else:
            headers["Content-Type"] = "application/json"
            body = json.dumps(filled).encode()
    address = base + wire.base.path.value + path + ("?" + "&".join(query) if query else "")
    return Sent(method=line.method, url=URL(address, encoded=True), headers=headers, body=body)


def judge(wire: WireTable, call: str, *, status: int, headers: Mapping[str, str], body: bytes, key: Secret) -> Any:
    """Return the envelope's result, or raise what the answer means.

    Both the HTTP status and the envelope's success are looked at: a success status can carry a refusal (inferred).
    """
    said = _Said(wire, call, status=status, body=body, key=key)
    if status in {401, 403}:
        raise ApiAuth(said.line("the key was refused"), status=status)
    if status in _TRY_LATER or status >= 500:
        raise ApiUnavailable(
            said.line("try later"),
            retry_after_s=retry_after_s(headers.get("Retry-After")),
            uncertain=status in _ANSWER_LOST,
        )
    if 300 <= status < 400:
        raise ApiRejected(said.line(f"it redirects to {_leads_to(headers)}, which is never followed"), status=status)
    if not 200 <= status < 300:
        raise ApiRejected(said.line("refused"), status=status)
    result = dig(said.envelope, wire.envelope.result.value)
    if not wire.envelope.success.value and (said.envelope is not None or not body.strip()):
        return result
    if not isinstance(said.envelope, dict):
        raise ApiUnavailable(said.line("the answer is not the platform's JSON"), uncertain=True)
    match succeeded(dig(said.envelope, wire.envelope.success.value)):
        case True:
            return result
        case False:
            raise ApiRejected(said.line("refused"), status=status)
        case None:
            raise ApiUnavailable(said.line(f"the answer has no {wire.envelope.success.value!r}"), uncertain=True)


def spoken_by_platform(wire: WireTable, body: bytes) -> bool:
    """Say whether `body` is an envelope as the wire table describes it, whatever it says."""
    envelope = _parsed(body)
    success = wire.envelope.success.value
    return isinstance(envelope, dict) and (not success or succeeded(dig(envelope, success)) is not None)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


class _Said:
    """What the platform said, as far as it can be read."""

    def __init__(self, wire: WireTable, call: str, *, status: int, body: bytes, key: Secret) -> None:
        self._call, self._status, self._key = call, status, key
        self.envelope = _parsed(body)
        self._text = dig(self.envelope, wire.envelope.message.value) if wire.envelope.message.value else None

    def line(self, meaning: str) -> str:
        words = f"{self._call}: LABDRIVE answered {self._status}: {meaning}"
        if isinstance(self._text, str) and self._text.strip():
            # A server that repeats the key in its complaint must not make us repeat it.
            words += f": {one_line(self._text.replace(self._key.reveal(), '***'))}"
        return words


def _leads_to(headers: Mapping[str, str]) -> str:
    location = headers.get("Location", "")
    try:
        return origin_of(location)
    except ValueError:
        return "the same origin" if location.startswith("/") and not location.startswith("//") else "an unclear place"


def _in_path(name: str, text: str) -> str:
    # The one place that is a path itself; slashes in any other value belong to the value.
    return quote(text, safe="/" if name == "path" else "")


def _in_query(_: str, text: str) -> str:
    return quote(text, safe="")
