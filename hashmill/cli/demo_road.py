"""What `hashmill demo` does: fill, post, follow, read back, compare."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hashmill.cli.console import coloured, duration, plain, print_json, size, table
from hashmill.ledger import files, runs
from hashmill.ledger.engine import Ledger
from hashmill.ledger.runs import Run
from hashmill.parts.collection import collection, upload
from hashmill.parts.process import PartFailed
from hashmill.parts.service import LocalService, local_service

GIVE_UP_AFTER_S = 300.0
STOP_S = 10.0
CONTAINER = "1"


def road(folder: Path, out: Console, *, keep: bool, then: Sequence[str] = (), workers: int, as_json: bool) -> bool:
    """Start everything below `folder`, show the road, stop everything; return whether all was right."""
    began_s = time.monotonic()
    with ExitStack() as stack, _last_word(out):
        with out.status("Starting …") as status:
            service = stack.enter_context(
                local_service(
                    folder,
                    workers=workers,
                    # A killed worker's files come back after a lease: shorter here than the 30 s of a real one.
                    environ={"HASHMILL_LEASES__FILE_S": "6", "HASHMILL_LOGGING__FORMAT": "text"},
                    on_step=lambda part: status.update(f"Starting: {part} …"),
                )
            )
        out.print(f"S3 is {service.s3.backend} at {service.s3.endpoint_url}")
        out.print(
            f"LABDRIVE (sandbox) is at {service.sandbox_url}, the intake and its console at {service.intake_url}/"
        )
        out.print(f"Workers: {', '.join(f'process {worker.pid}' for worker in service.workers)}. Kill one if you like.")
        expected = _fill(service, out)
        event = service.event(_new_job(service))
        accepted = service.post(event)
        out.print(f"Posted the event of job {event['labdrive']['job']['id']}: run {accepted['run_id']}")
        ledger = Ledger(service.ledger_url)
        stack.callback(ledger.close)
        run = _follow(service, ledger, accepted["run_id"], out)
        verdict = _judge(service, ledger, run, expected, event["labdrive"]["job"]["id"])
        if as_json:
            print_json(verdict)
        else:
            _show(verdict, out)
        out.print(f"All in all {duration(time.monotonic() - began_s)}.")
        if then:
            _then(service, then, out)
        elif keep:
            _keep(service, out)
        else:
            out.print(
                "Stopping everything. `make demo KEEP=1` leaves it up, to look at the console page and post more."
            )
    return bool(verdict["good"])


@contextmanager
def _last_word(out: Console) -> Iterator[None]:
    """Say that everything stops when Ctrl-C or SIGTERM ends the demo: stopping takes a moment."""
    try:
        yield
    except KeyboardInterrupt:
        out.print("Stopping everything …")
        raise


def _then(service: LocalService, command: Sequence[str], out: Console) -> None:
    """Run a command in the environment of a notebook, and wait for its end; Ctrl-C is for it as well."""
    environ = {**os.environ, **service.researcher_environ(_new_job(service))}
    out.print(f"Running {shlex.join(command)}; everything stops when it ends.")
    try:
        child = subprocess.Popen(command, env=environ)  # noqa: S603 - the caller's own words
    except OSError as error:
        raise PartFailed(f"{command[0]} cannot be run: {error.strerror}") from error
    while child.poll() is None:
        try:
            child.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the child too; it may ask whether that was meant
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
            if child.poll() is None:
                child.kill()
    out.print(f"It ended with {child.returncode}. Stopping everything.")


def _fill(service: LocalService, out: Console) -> Mapping[str, Mapping[str, str]]:
    """Upload the collection to the container's place in S3, and let LABDRIVE find it; return digests by path."""
    samples = collection()
    with _bars(out) as progress:
        files_bar = progress.add_task("Uploading", total=len(samples), unit="files")
        expected = upload(
            service.s3.client(),
            service.bucket,
            samples,
            prefix=f"{CONTAINER}/",
            on_done=lambda _: progress.advance(files_bar),
        )
    service.ask_sandbox("POST", f"/sandbox/containers/{CONTAINER}/scan")
    return expected


def _new_job(service: LocalService) -> str:
    job = service.ask_sandbox("POST", "/api/job", {"container_id": CONTAINER, "name": "Fixity check"})
    return str(job["id"])


def _follow(service: LocalService, ledger: Ledger, run_id: str, out: Console) -> Run:
    """Show the run's files and bytes until it ends; a worker that was killed is replaced, as a supervisor would."""
    ends_at_s = time.monotonic() + GIVE_UP_AFTER_S
    with _bars(out) as progress:
        by_files = progress.add_task("Hashing files", total=None, unit="files")
        by_bytes = progress.add_task("Hashing bytes", total=None, unit="bytes")
        while True:
            run = ledger.read_now(runs.get, run_id)
            if run is None:
                raise PartFailed(f"run {run_id} is gone from the ledger")
            if run.expanded_at_ms is not None:
                progress.update(by_files, total=run.files_total, completed=run.files_total - run.files_open)
                progress.update(by_bytes, total=run.bytes_total, completed=run.bytes_done)
            if run.state.ended:
                return run
            for worker in [worker for worker in service.workers if not worker.running]:
                service.workers.remove(worker)
                fresh = service.start_worker()
                progress.console.print(f"Worker {worker.pid} is gone; process {fresh.pid} takes its place.")
            if time.monotonic() > ends_at_s:
                raise PartFailed(f"the run is still {run.state} after {GIVE_UP_AFTER_S:g} s; see {service.folder}")
            time.sleep(0.1)


def _judge(
    service: LocalService, ledger: Ledger, run: Run, expected: Mapping[str, Mapping[str, str]], job_id: str
) -> dict[str, Any]:
    """Read everything back from LABDRIVE and compare each digest with the one computed at upload."""
    known = {row.file_id: row for row in ledger.read_now(files.of_run, run.run_id, limit=10_000)}
    rows = []
    for file in service.ask_sandbox("GET", f"/api/container/{CONTAINER}/file/list?limit=1000&offset=0"):
        if file["type"] != "FILE":
            continue
        path = file["fullpath"].removeprefix("/")
        stored = service.ask_sandbox("GET", f"/api/file/{file['id']}/hash")
        row = known.get(str(file["id"]))
        rows.append(
            {
                "path": path,
                "size_bytes": int(file["size"]),
                **{name: stored.get(name) for name in ("md5", "sha1", "sha256")},
                "verdict": row.verdict if row else None,
                "as_computed_apart": stored == expected.get(path),
            }
        )
    job = service.ask_sandbox("GET", f"/api/job/{job_id}")
    told = service.ask_sandbox("GET", f"/api/job/{job_id}/message?limit=10000&offset=0")
    # A worker that was killed may have told a thing twice.
    messages = len({(message["file_id"], message["message"]) for message in told})
    # One for each digest, and the closing one.
    messages_expected = sum(map(len, expected.values())) + 1
    right = sum(row["as_computed_apart"] for row in rows)
    return {
        "run_id": run.run_id,
        "run_state": run.state,
        "files": sorted(rows, key=lambda row: row["path"]),
        "files_right": right,
        "files_expected": len(expected),
        "job_status": job["status"],
        "job_messages": messages,
        "job_messages_expected": messages_expected,
        "good": right == len(rows) == len(expected)
        and messages == messages_expected
        and job["status"] == "COMPLETED"
        and run.state == "completed",
    }


def _show(verdict: Mapping[str, Any], out: Console) -> None:
    shown = table("File", "Size", "MD5", "SHA-1", "SHA-256", "Verdict", "Computed apart", right=("Size",))
    whole = out.width >= 270
    for row in verdict["files"]:
        digests = [row[name] or "-" for name in ("md5", "sha1", "sha256")]
        shown.add_row(
            plain(row["path"], max_chars=60),
            size(row["size_bytes"]),
            *(digest if whole else f"{digest[:10]}…" for digest in digests),
            row["verdict"] or "-",
            "[green]same[/]" if row["as_computed_apart"] else "[bold red]DIFFERENT[/]",
        )
    out.print(shown)
    if not whole:
        out.print("Digests are cut to fit this terminal; `hashmill demo --json` prints them whole.")
    out.print(
        f"{verdict['files_right']} of {verdict['files_expected']} files have in LABDRIVE the digests computed apart."
    )
    out.print(
        "LABDRIVE says: the job is",
        coloured(verdict["job_status"].lower()),
        f"with {verdict['job_messages']} of {verdict['job_messages_expected']} messages.",
    )


def _keep(service: LocalService, out: Console) -> None:
    """Print how to go on, and wait for Ctrl-C."""
    job_id = _new_job(service)
    event = service.folder / "event.json"
    event.write_text(_json(service.event(job_id)))
    out.print(f"\nThe console page: {service.intake_url}/   LABDRIVE's own page: {service.sandbox_url}/")
    out.print(f"All of it is still running, in {service.folder}. A fresh job {job_id} waits; post its event:")
    out.print(
        f"  curl -sS -H 'Content-Type: application/json' --data-binary @{event} {service.intake_url}/v1/events",
        soft_wrap=True,
    )
    exports = " ".join(f"{name}={value}" for name, value in service.environ.items() if name == "HASHMILL_LEDGER__URL")
    out.print(f"Look at the ledger:  {exports} .venv/bin/hashmill runs list", soft_wrap=True)
    researcher = service.folder / "notebook.env"
    given = service.researcher_environ(_new_job(service))
    researcher.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in given.items()))
    out.print(
        f"For a notebook of your own, with the job {given['EXAMPLE_JOB']}:  . {researcher} && .venv/bin/jupyter lab",
        soft_wrap=True,
    )
    out.print("Ctrl-C stops everything.")
    try:
        while True:
            for worker in [worker for worker in service.workers if not worker.running]:
                service.workers.remove(worker)
                out.print(f"Worker {worker.pid} is gone; process {service.start_worker().pid} takes its place.")
            time.sleep(0.5)
    except KeyboardInterrupt:
        out.print("Stopping everything …")


def _json(document: object) -> str:
    import json

    return json.dumps(document, indent=2)


@contextmanager
def _bars(out: Console) -> Iterator[Progress]:
    with Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(),
        _Done(),
        TimeRemainingColumn(),
        console=out,
    ) as progress:
        yield progress


class _Done(MofNCompleteColumn):
    """Files as `12/72`, bytes as `3.1/120.4 MB`."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = DownloadColumn(binary_units=True)

    def render(self, task: Any) -> Any:
        return self._bytes.render(task) if task.fields.get("unit") == "bytes" else super().render(task)
