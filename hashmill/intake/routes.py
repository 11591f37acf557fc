"""The table of routes: what aiohttp serves, and what the OpenAPI document tells, are the same lines."""

from hashmill.domain.event_wire import EventBody
from hashmill.intake import answers, console, health, openapi
from hashmill.intake.events import KEY_HEADERS, post_event
from hashmill.intake.operation import Operation
from hashmill.intake.query import EntriesQuery, FilesQuery, RunsQuery
from hashmill.intake.replays import ReplayBody, post_replay
from hashmill.intake.runs import list_entries, list_files, list_runs, show_run


def operations() -> tuple[Operation, ...]:
    """Return every route there is."""
    event_answers = {202: answers.EventAnswer, 200: answers.EventAnswer}
    event_problems = (400, 408, 409, 413, 415, 422, 503)
    return (
        Operation(
            method="POST",
            path="/v1/events",
            handler=post_event,
            name="postEvent",
            summary="Accept the event of a LABDRIVE trigger: 202 with a new run, 200 with the one it had made before.",
            answers=event_answers,
            problems=event_problems,
            body=EventBody,
            headers=KEY_HEADERS,
        ),
        Operation(
            method="POST",
            path="/",
            handler=post_event,
            name="callFunction",
            summary="The same, where a Nuclio function's address stood.",
            answers=event_answers,
            problems=event_problems,
            body=EventBody,
            headers=KEY_HEADERS,
        ),
        Operation(
            method="GET",
            path="/v1/runs",
            handler=list_runs,
            name="listRuns",
            summary="Runs, newest first.",
            answers={200: answers.RunPage},
            problems=(400, 503),
            query=RunsQuery,
        ),
        Operation(
            method="GET",
            path="/v1/runs/{run_id}",
            handler=show_run,
            name="showRun",
            summary="One run: progress, counts by state, failures by class, what is owed to LABDRIVE.",
            answers={200: answers.RunDetailAnswer},
            problems=(404, 503),
        ),
        Operation(
            method="GET",
            path="/v1/runs/{run_id}/files",
            handler=list_files,
            name="listFiles",
            summary="The files of a run, with digests and verdicts.",
            answers={200: answers.FilePage},
            problems=(400, 404, 503),
            query=FilesQuery,
        ),
        Operation(
            method="GET",
            path="/v1/runs/{run_id}/entries",
            handler=list_entries,
            name="listEntries",
            summary="The ledger entries of a run.",
            answers={200: answers.EntryPage},
            problems=(400, 404, 503),
            query=EntriesQuery,
        ),
        Operation(
            method="POST",
            path="/v1/replays",
            handler=post_replay,
            name="postReplay",
            summary="Read failed files again: 202 with what is opened again, 200 with what would be (dry_run).",
            answers={202: answers.ReplayAnswer, 200: answers.ReplayAnswer},
            problems=(400, 408, 409, 413, 415, 422, 503),
            body=ReplayBody,
        ),
        Operation(
            method="GET",
            path="/v1/workers",
            handler=health.workers,
            name="listWorkers",
            summary="Worker processes by their leases, and the leader.",
            answers={200: answers.WorkersAnswer},
            problems=(503,),
        ),
        Operation(
            method="GET",
            path="/v1/overview",
            handler=health.overview,
            name="showOverview",
            summary="Is work flowing, is anything stuck, why?",
            answers={200: answers.OverviewAnswer},
            problems=(503,),
        ),
        Operation(
            method="GET",
            path="/healthz",
            handler=health.healthz,
            name="healthz",
            summary="The process lives.",
            answers={200: answers.HealthAnswer},
            open=True,
        ),
        Operation(
            method="GET",
            path="/readyz",
            handler=health.readyz,
            name="readyz",
            summary="Events can be accepted.",
            answers={200: answers.ReadyAnswer, 503: answers.ReadyAnswer},
            open=True,
        ),
        Operation(
            method="GET",
            path="/metrics",
            handler=health.metrics,
            name="metrics",
            summary="For Prometheus.",
            answers={200: "text/plain"},
        ),
        Operation(
            method="GET",
            path="/openapi.json",
            handler=openapi.show,
            name="openapi",
            summary="This document.",
            answers={200: "application/json"},
        ),
        Operation(
            method="GET",
            path="/",
            handler=console.file_handler("index.html", "text/html"),
            name="console",
            summary="The console page.",
            answers={200: "text/html"},
            open=True,
        ),
        *(
            Operation(
                method="GET",
                path=f"/page/{name}",
                handler=console.file_handler(name, content_type),
                name=f"console_{name.replace('.', '_')}",
                summary="A part of the console page.",
                answers={200: content_type},
                open=True,
            )
            for name, content_type in console.ASSETS.items()
        ),
    )
