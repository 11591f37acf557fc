"""What stands behind the question mark: pydantic models, so that the OpenAPI document tells the same."""

from typing import Annotated, TypeVar, get_origin

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hashmill.domain.errors import ErrorClass
from hashmill.domain.job import FileState, RunState
from hashmill.domain.text import unstorable
from hashmill.intake.door import DOOR
from hashmill.intake.problem import Problem, parameter

FILE_NO_MAX = 2**31 - 1
ID_PATTERN = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


def _storable(text: str) -> str:
    if unstorable(text):
        raise ValueError("must hold no NUL and no half of a surrogate pair")
    return text


Text = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_storable)]
Id = Annotated[str, Field(pattern=ID_PATTERN)]


class Query(BaseModel):
    """Parameters of one route; an unknown one is an error, for a filter with a typing error would find everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(100, ge=1, description="Most rows in the answer; intake.page_max is the most there is.")


class RunsQuery(Query):
    limit: int = Field(50, ge=1, description="Most runs in the answer; intake.page_max is the most there is.")
    state: list[RunState] = Field(default_factory=list, description="Only runs in this state; may be repeated.")
    job_id: Text | None = Field(None, description="Only runs of this LABDRIVE job.")
    container_id: Text | None = Field(None, description="Only runs of this container.")
    tenant_id: Text | None = Field(None, description="Only runs of this tenant.")
    error_class: ErrorClass | None = Field(
        None, description="Only runs that failed with this class, or hold a file that did."
    )
    before: Id | None = Field(None, description="Only runs older than this one: where the page before ended.")


class FilesQuery(Query):
    state: list[FileState] = Field(default_factory=list, description="Only files in this state; may be repeated.")
    error_class: ErrorClass | None = Field(
        None, description="Only files that failed with this class; with no state given, failed and dead ones."
    )
    after: int = Field(0, ge=0, le=FILE_NO_MAX, description="Only files behind this number.")


class EntriesQuery(Query):
    after: Id | None = Field(None, description="Only entries behind this one.")


Q = TypeVar("Q", bound=BaseModel)


def read_query(request: web.Request, model: type[Q]) -> Q:
    """Return the parameters of `request`, or raise a 400 problem that names each wrong one."""
    values: dict[str, object] = {}
    for name in request.query:
        given = request.query.getall(name)
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            values[name] = given
        elif len(given) > 1:
            raise parameter(_shown(name), "is given more than once")
        else:
            values[name] = given[0]
    try:
        query = model.model_validate(values)
    except ValidationError as error:
        first, *others = [
            parameter(_shown(str(fault["loc"][0])), _said(fault["type"], fault["msg"]))
            for fault in error.errors(include_input=False, include_url=False)
        ]
        detail = "; ".join(problem.detail for problem in (first, *others))
        faults = [fault for problem in (first, *others) for fault in problem.faults]
        raise Problem(first.status, first.kind, detail, faults=faults) from None
    page_max = request.app[DOOR].config.page_max
    if isinstance(query, Query) and query.limit > page_max:
        if "limit" in values:
            raise parameter("limit", f"must be at most {page_max}")
        return query.model_copy(update={"limit": page_max})
    return query


def _said(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "is not known here"
    return "must be an id" if kind == "string_pattern_mismatch" else message.removeprefix("Value error, ")


def _shown(name: str) -> str:
    return name[:64].encode("utf-8", "replace").decode()
