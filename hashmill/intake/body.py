"""Reading what was posted: the right type, not too large, not too slow."""

import asyncio

from aiohttp import web

from hashmill.intake.door import DOOR
from hashmill.intake.problem import Problem

READ_TIMEOUT_S = 60.0


async def read_json_body(request: web.Request) -> bytes:
    """Return the bytes of a JSON body, or raise a 400, 408, 413 or 415 problem."""
    charset = (request.charset or "utf-8").lower()
    if request.content_type != "application/json" or charset not in {"utf-8", "utf8", "us-ascii"}:
        raise Problem(
            415,
            "unsupported-type",
            "send the body as Content-Type: application/json, in UTF-8",
            headers={"Accept-Post": "application/json"},
        )
    max_bytes = request.app[DOOR].config.body_max_bytes
    too_large = Problem(413, "too-large", f"the body has more than {max_bytes} bytes (intake.body_max_bytes)")
    if request.content_length is not None and request.content_length > max_bytes:
        raise too_large
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except TimeoutError:
        raise Problem(408, "too-slow", f"the body did not arrive within {READ_TIMEOUT_S:.0f} s") from None
    except (web.RequestPayloadError, ConnectionError) as error:
        raise Problem(400, "broken-body", "the body broke off, or its encoding is broken") from error
