"""One claimed file of a run that is for a researcher's function: run for this file alone, in a process of its own."""

import hashlib
import logging
from typing import Any

from hashmill.domain.errors import ConfigFault, ErrorClass
from hashmill.domain.function import Function, Order, Ran
from hashmill.domain.job import FileState
from hashmill.domain.text import one_line
from hashmill.domain.verdict import Verdict
from hashmill.domain.work import ClaimedFile, FileOutcome
from hashmill.flow import words
from hashmill.flow.access import access_of
from hashmill.flow.tools import ObjectPlace, WorkTools
from hashmill.functions.runner import run as run_function
from hashmill.ledger import functions, runs
from hashmill.ledger.runs import Run
from hashmill.storage.config import StorageConfig

log = logging.getLogger(__name__)

KIND = "file_processed"
ORDERS_MAX = 16
"""So many runs' functions are remembered; a source has 8 MiB at most."""
EXECUTED_MAX_BYTES = 4 * 1024 * 1024
"""A notebook that ran is kept up to this size; of a larger one only its SHA-256 is told."""


async def work(tools: WorkTools, run: Run, file: ClaimedFile, place: ObjectPlace) -> FileOutcome:
    """Return the outcome of running the run's function for one file; raises what prevented that."""
    order = await _order(tools, run)
    access = await access_of(tools, run)
    block = {**order.event["labdrive"], "files": {"ids": [file.file_id], "paths": []}}
    event = {
        "api": {"url": run.api_url, "key_user": access.key.reveal(), "key_root": ""},
        "labdrive": block,
        "function_params": order.event["function_params"],
    }
    reach = environ_of(place.config, place.bucket, wire=tools.rules.wire_path)
    environ = {**tools.rules.function_environ, **reach, "LIBNOVA_API_URL": run.api_url}
    async with tools.functions_at_once:
        ran = await run_function(order.function, event, environ=environ, limits=tools.rules.function_limits)
    return _outcome(tools, run, file, order.function, ran)


def environ_of(config: StorageConfig, bucket: str, *, wire: str) -> dict[str, str]:
    """Return what the library needs to reach the bytes, as its environment."""
    given = {
        "LIBNOVA_S3_ENDPOINT_URL": config.endpoint_url,
        "LIBNOVA_S3_BUCKET": bucket,
        "LIBNOVA_S3_ADDRESSING": config.addressing_style,
        "LIBNOVA_TABLE": wire,
        "AWS_DEFAULT_REGION": config.region,
        "AWS_ACCESS_KEY_ID": config.access_key_id,
        "AWS_SECRET_ACCESS_KEY": config.secret_access_key and config.secret_access_key.reveal(),
        "AWS_SESSION_TOKEN": config.session_token and config.session_token.reveal(),
    }
    return {name: value for name, value in given.items() if value}


async def _order(tools: WorkTools, run: Run) -> Order:
    """Return what the run's function is told; read once in a process, as an event may name a million files."""
    if (known := tools.orders.get(run.run_id)) is not None:
        return known
    function = await tools.ledger.read(functions.get, run.function_name or "", run.function_sha256 or "")
    if function is None:
        raise ConfigFault(f"function {run.function_name}: the version this run is for is not in the ledger any more")
    told = await tools.ledger.read(runs.event_of, run.run_id)
    block = {
        "container": {"id": run.container_id},
        "user": {"id": run.user_id},
        "job": {"id": run.job_id},
        "trigger": {"id": told["trigger_id"], "type": told["trigger_type"], "regex": told["trigger_regex"]},
        "function": {"id": told["function_id"], "key": function.name},
    }
    order = Order(function=function, event={"labdrive": block, "function_params": told["function_params"]})
    while len(tools.orders) >= ORDERS_MAX:
        tools.orders.pop(next(iter(tools.orders)))
    tools.orders[run.run_id] = order
    return order


def _outcome(tools: WorkTools, run: Run, file: ClaimedFile, function: Function, ran: Ran) -> FileOutcome:
    digests = dict(ran.hashes.get(file.file_id, {}))
    detail = one_line(f"function {function.name}: {ran.fault}", max_chars=1000) if ran.fault else None
    if detail:
        log.warning("function_failed", extra={"run_id": run.run_id, "file_no": file.file_no, "reason": detail})
    executed = ran.executed
    entry: dict[str, Any] = {
        "job_id": run.job_id,
        "container_id": run.container_id,
        "file_no": file.file_no,
        "file_id": file.file_id,
        "path": file.path,
        "function": {"name": function.name, "sha256": function.sha256, "kind": function.kind},
        "digests": digests,
        "messages": len(ran.messages),
        "output_sha256": hashlib.sha256(ran.output.encode()).hexdigest(),
        "took_ms": int(1000 * ran.wall_s),
        "generation": file.generation,
        "attempt": file.attempts + 1,
        "fence": file.fence,
        "process": tools.process,
    }
    if executed is not None:
        entry["executed_sha256"] = hashlib.sha256(executed).hexdigest()
    if detail:
        entry |= {"error_class": ErrorClass.INTERNAL, "error_detail": detail}
    return FileOutcome(
        file_no=file.file_no,
        fence=file.fence,
        state=FileState.FAILED if detail else FileState.DONE,
        error_class=ErrorClass.INTERNAL if detail else None,
        error_detail=detail,
        digests=digests,
        verdict=Verdict.NO_BASELINE,
        kind=KIND,
        entry=entry,
        executed=executed if executed is not None and len(executed) <= EXECUTED_MAX_BYTES else None,
        reports=words.worked(
            file.file_no,
            file.file_id,
            file.path,
            messages=[(message.text, message.level, message.file_id) for message in ran.messages],
            output=ran.output,
            hashes=ran.hashes,
            fault=detail,
        ),
    )
