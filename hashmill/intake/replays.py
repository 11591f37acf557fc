"""`POST /v1/replays`: failed files again."""

from typing import Annotated, Literal

from aiohttp import web
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hashmill.domain.errors import ErrorClass, EventFault, ReplayRefused
from hashmill.domain.text import one_line, unstorable
from hashmill.flow.replay import ReplayReport, ReplayRequest, replay
from hashmill.intake.answers import ReplayAnswer, ReplayedRun, SkippedRun, answer
from hashmill.intake.body import read_json_body
from hashmill.intake.door import DOOR
from hashmill.intake.links import run_url
from hashmill.intake.problem import Problem
from hashmill.intake.query import ID_PATTERN

FILE_IDS_MAX = 1000


def _plain(text: str) -> str:
    if unstorable(text):
        raise ValueError("must hold no NUL and no half of a surrogate pair")
    return text


def _spoken(text: str) -> str:
    if not (line := one_line(_plain(text), max_chars=len(text))):
        raise ValueError("must not be blank")
    return line


def _id(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18 else value


LabdriveId = Annotated[str, BeforeValidator(_id), Field(min_length=1, max_length=255), AfterValidator(_plain)]


class ReplayBody(BaseModel):
    """What is to be replayed. At least one of the first four says where to look; together they narrow."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Replay")

    run_id: Annotated[str, Field(pattern=ID_PATTERN)] | None = None
    job_id: LabdriveId | None = Field(None, description="A LABDRIVE job: all its runs.")
    error_class: ErrorClass | None = None
    file_ids: list[LabdriveId] = Field(default_factory=list, max_length=FILE_IDS_MAX)
    mode: Literal["failed", "all"] = Field("failed", description="Failed files only, or the hashed ones as well.")
    reason: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_spoken)] = Field(
        description="Written into the ledger and into the job's message."
    )
    who: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_spoken)] = Field(
        "token", description="Who asks; ledgered. Left out, it is whoever holds the token."
    )
    dry_run: bool = Field(False, description="Only say what would be read again.")
    force: bool = Field(False, description="Also when the run is active.")


async def post_replay(request: web.Request) -> web.Response:
    """Answer 202 with what is read again, or 200 with what would be."""
    body = await read_json_body(request)
    try:
        asked = ReplayBody.model_validate_json(body)
    except ValidationError as error:
        faults = [
            EventFault(path=_path(fault["loc"]), problem=fault["msg"].removeprefix("Value error, "))
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise Problem(422, "replay-invalid", "nothing was replayed", faults=faults) from None
    try:
        report = await replay(request.app[DOOR].tools, _request(asked))
    except ReplayRefused as error:
        raise Problem(409, "replay-refused", str(error)) from error
    return answer(_answer(report), status=200 if report.dry_run else 202)


def _request(asked: ReplayBody) -> ReplayRequest:
    return ReplayRequest(
        run_id=asked.run_id,
        job_id=asked.job_id,
        error_class=asked.error_class,
        file_ids=tuple(asked.file_ids),
        mode=asked.mode,
        reason=asked.reason,
        who=asked.who,
        dry_run=asked.dry_run,
        force=asked.force,
    )


def _answer(report: ReplayReport) -> ReplayAnswer:
    return ReplayAnswer(
        dry_run=report.dry_run,
        files=report.files,
        size_bytes=report.size_bytes,
        runs=[
            ReplayedRun(
                run_id=selection.run_id,
                mode=selection.mode,
                files=selection.files,
                size_bytes=selection.size_bytes,
                by_class=selection.by_class,
                reports_dead=selection.reports_dead,
                status_url=run_url(selection.run_id),
            )
            for selection in report.runs
        ],
        skipped=[SkippedRun(run_id=run_id, reason=reason) for run_id, reason in report.skipped],
    )


def _path(loc: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step[:64]}" for step in loc)
