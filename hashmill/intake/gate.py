"""What every request passes: the token, the clock, the log line, and errors that become problem documents."""

import hashlib
import hmac
import logging
import time
import traceback
from collections.abc import Set
from types import TracebackType

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from hashmill.domain.errors import LedgerUnavailable
from hashmill.domain.secret import Secret
from hashmill.intake.door import DOOR
from hashmill.intake.problem import Problem

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
GONE = 499
"""Logged as the status of a request whose caller hung up before the answer; nobody is told it."""


def make_gate(open_routes: Set[tuple[str, str]]) -> Middleware:
    """Return the middleware; `open_routes` are (method, path) that need no token."""

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        began_s = time.perf_counter()
        status = GONE
        try:
            response = await _answer(request, handler, open_routes)
            status = response.status
        finally:
            _note(request, status, time.perf_counter() - began_s)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return gate


async def _answer(request: web.Request, handler: Handler, open_routes: Set[tuple[str, str]]) -> web.StreamResponse:
    mishap = _Mishap()
    with mishap:
        try:
            if (_method(request), _route(request)) not in open_routes:
                _check_token(request, request.app[DOOR].config.bearer_token)
            return await handler(request)
        except Problem as problem:
            return problem.response()
        except LedgerUnavailable as trouble:
            return _ledger_away(trouble).response()
        except web.HTTPException as error:
            return _of_aiohttp(request, error).response()
    # The values in an error's text may be anybody's: the places in the code are enough to find it.
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(mishap.traceback)]
    log.error(
        "request_failed",
        extra={"method": request.method, "route": _route(request), "error": mishap.kind, "places": places[-12:]},
    )
    return Problem(500, "internal", "this is a fault of the service; it is in its log").response()


class _Mishap:
    """Holds what a handler raised and nobody had meant: left to aiohttp, it would be logged with all its values."""

    kind = ""
    traceback: TracebackType | None = None

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.kind, self.traceback = type(error).__name__, where
        return True


def _check_token(request: web.Request, token: Secret) -> None:
    if not token:
        return
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    # Compared as digests: of one length whatever came, so that the time tells nothing about the token.
    right = hmac.compare_digest(_digest(given.strip()), _digest(token.reveal()))
    if scheme.lower() != "bearer" or not right:
        raise Problem(
            401,
            "unauthorized",
            "send the header Authorization: Bearer with the token of intake.bearer_token",
            headers={hdrs.WWW_AUTHENTICATE: 'Bearer realm="hashmill"'},
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _ledger_away(trouble: LedgerUnavailable) -> Problem:
    log.warning("ledger_away", extra={"duty": "intake", "reason": str(trouble)})
    return Problem(
        503,
        "ledger-unavailable",
        "the ledger cannot be reached, so nothing was accepted or changed; ask again",
        headers={hdrs.RETRY_AFTER: str(round(trouble.retry_after_s or RETRY_AFTER_S))},
    )


def _of_aiohttp(request: web.Request, error: web.HTTPException) -> Problem:
    """Translate what aiohttp itself answers: no such route, no such method on it."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return Problem(405, "method-not-allowed", f"this address takes {allowed}", headers={hdrs.ALLOW: allowed})
    if error.status == 404:
        return Problem(404, "not-found", "there is nothing at this address; /openapi.json tells what there is")
    return Problem(error.status, "http", error.reason)


def _note(request: web.Request, status: int, took_s: float) -> None:
    route = _route(request)
    method = _method(request)
    request.app[DOOR].metrics.request(method=method, route=route, status=status, took_s=took_s)
    log.info(
        "request",
        extra={
            "method": method,
            # Without the query: nobody knows what a caller puts there.
            "path": request.rel_url.raw_path[:512],
            "status": status,
            "took_s": round(took_s, 6),
            "remote": request.remote,
        },
    )


def _method(request: web.Request) -> str:
    """Return the method as a label: a caller may invent as many methods as he likes."""
    return "GET" if request.method == "HEAD" else request.method if request.method in hdrs.METH_ALL else "other"


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"
