"""What went wrong, as RFC 9457 tells it: `application/problem+json`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from hashmill.domain.errors import EventFault

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:hashmill:problem:"


class FaultAnswer(BaseModel):
    """One thing that is wrong, and where."""

    path: str = Field(description="JSON path of the fault in the body, or the name of a parameter or header.")
    problem: str = Field(description="What is wrong with it.")


class ProblemAnswer(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(description=f"Names the kind of problem: {TYPE_PREFIX}…; stable.")
    title: str
    status: int
    detail: str = Field(description="What happened this time, and what to do about it.")
    faults: list[FaultAnswer] = Field(default_factory=list)


class Problem(Exception):
    """An answer that is not what was asked for; raised by handlers, rendered by the gate.

    `kind` is the last part of the problem's type. It is none of the house's errors: those have reached the door
    when they become one of these.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        faults: Sequence[EventFault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.faults = faults
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        """Return the problem document."""
        answer = ProblemAnswer(
            type=TYPE_PREFIX + self.kind,
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            faults=[FaultAnswer(path=fault.path, problem=fault.problem) for fault in self.faults],
        )
        return web.Response(
            status=self.status,
            body=answer.model_dump_json(exclude_defaults=True).encode(),
            headers={**self.headers, "Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"},
        )


def parameter(name: str, problem: str) -> Problem:
    """Return the problem of one query parameter."""
    return Problem(
        400, "bad-parameter", f"parameter {name}: {problem}", faults=[EventFault(path=name, problem=problem)]
    )
