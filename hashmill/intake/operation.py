"""What is known of one route."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp.typedefs import Handler
from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route. `answers` maps a status to its model, or to the media type of what has none.

    `problems` are the statuses of problem documents besides 401 and 500. `open` routes need no token: they tell
    nothing about anybody's data.
    """

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    answers: Mapping[int, type[BaseModel] | str]
    problems: Sequence[int] = ()
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    headers: Sequence[str] = ()
    open: bool = False
