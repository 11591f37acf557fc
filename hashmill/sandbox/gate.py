"""What every call of the API passes: it is met by a fault or not, its key is checked, and it is written down."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from hashmill.sandbox.config import UserConfig
from hashmill.sandbox.envelope import Refused, answer, refusal
from hashmill.sandbox.faults import FaultAction, FaultInvalid, FaultRule
from hashmill.sandbox.objects import StorageFault
from hashmill.sandbox.platform import Platform

USER: Final = web.RequestKey("user", UserConfig)

API: Final = "/api/"
CONTROL: Final = "/sandbox/"

_HTML: Final = "<!doctype html><html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"


def make_gate(platform: Platform) -> Middleware:
    """Return the middleware. Only `/api/` is recorded and can be met by faults; `/sandbox/` needs a key too."""

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path.startswith(API):
            return await _witnessed(platform, request, handler, path)
        if path.startswith(CONTROL):
            return await _answered(request, handler, platform.user_of(request.headers.get("Authorization", "")))
        return await handler(request)

    return gate


async def _witnessed(platform: Platform, request: web.Request, handler: Handler, path: str) -> web.StreamResponse:
    at_s = time.time()
    user = platform.user_of(request.headers.get("Authorization", ""))
    rule = platform.faults.next_for(request.method, path)

    def write_down(status: int | None) -> None:
        platform.calls.add(
            at_s=at_s,
            method=request.method,
            path=path,
            user_id=user.id if user else "",
            status=status,
            fault=rule.action if rule else "",
            idempotency_key=request.headers.get("Idempotency-Key", ""),
        )

    if rule is None:
        response = await _answered(request, handler, user)
        write_down(response.status)
        return response
    if rule.delay_s:
        with suppress(TimeoutError):
            await asyncio.wait_for(platform.stopping.wait(), rule.delay_s)
    response = await _answered(request, handler, user) if rule.effective else web.Response()
    if rule.action is FaultAction.HANG:
        write_down(None)
        await platform.stopping.wait()
        return web.Response(status=503)
    if rule.action is not FaultAction.DELAY:
        response = _wrong(rule, response)
    write_down(response.status)
    return await _cut(request, response) if rule.action is FaultAction.CUT else response


async def _answered(request: web.Request, handler: Handler, user: UserConfig | None) -> web.StreamResponse:
    """Carry the call out and return its answer; what goes wrong becomes LABDRIVE's envelope with a status."""
    try:
        if user is None:
            raise Refused(401, "no valid API key")
        if user.rights == "read" and request.method not in ("GET", "HEAD"):
            raise Refused(403, "this key may only read")
        request[USER] = user
        return await handler(request)
    except Refused as error:
        return refusal(error)
    except FaultInvalid as error:
        return refusal(Refused(422, str(error)))
    except StorageFault as error:
        return refusal(Refused(502, str(error)))
    except UnicodeEncodeError as error:
        return refusal(Refused(422, f"text that is no Unicode: {error.reason}"))
    except web.HTTPException as error:
        return refusal(Refused(error.status, error.reason))


def _wrong(rule: FaultRule, right: web.StreamResponse) -> web.StreamResponse:
    """Return what the fault answers in place of the right answer."""
    match rule.action:
        case FaultAction.HTML:
            return web.Response(text=_HTML, status=rule.code, headers=rule.headers, content_type="text/html")
        case FaultAction.NOT_JSON:
            text = '{"success": true, "result": {'
            return web.Response(text=text, status=200, headers=rule.headers, content_type="application/json")
        case FaultAction.STATUS:
            body = (
                rule.body if rule.body is not None else {"success": False, "result": None, "msg": "a fault, as asked"}
            )
            if isinstance(body, str):
                return web.Response(text=body, status=rule.code, headers=rule.headers)
            response = answer(body, status=rule.code)
            response.headers.update(rule.headers)
            return response
        case _:
            return right


async def _cut(request: web.Request, whole: web.StreamResponse) -> web.StreamResponse:
    """Send the head and half of the body that the head promises, and close the connection."""
    body = whole.body if isinstance(whole, web.Response) and isinstance(whole.body, bytes) else b"{}"
    half = web.StreamResponse(status=whole.status, headers={"Content-Type": "application/json"})
    half.content_length = len(body)
    await half.prepare(request)
    await half.write(body[: len(body) // 2])
    half.force_close()
    if request.transport is not None:
        request.transport.close()
    return half
