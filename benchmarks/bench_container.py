"""
How long does one container take, and how much memory does each process need?

    .venv/bin/python -m benchmarks.bench_container [--files 20000] [--file-bytes 4096] [--big-bytes 2147483648]

One event for a container of many small files and one big one, through the whole service: intake, two workers, ledger
(SQLite), reports to the sandbox LABDRIVE. Everything shares one machine, the S3 server too, which is named in the
result. Peak memory is the kernel's high-water mark of each process (VmHWM).
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import circumstances
from hashmill.ledger import entries, runs
from hashmill.ledger.engine import Ledger
from hashmill.parts.collection import Sample, upload
from hashmill.parts.service import LocalService, local_service

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--file-bytes", type=int, default=4096)
    options.add_argument("--big-bytes", type=int, default=2 << 30)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--slots", type=int, default=32)
    options.add_argument("--messages", default="per_digest", choices=["per_digest", "per_file", "summary"])
    asked = options.parse_args()
    environ = {"HASHMILL_REPORT__MESSAGES": asked.messages}
    with (
        tempfile.TemporaryDirectory(prefix="hm-") as folder,
        local_service(Path(folder), workers=asked.workers, slots=asked.slots, environ=environ) as service,
    ):
        result = measure(service, asked)
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    name = f"container-{asked.files}x{asked.file_bytes}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n")


def measure(service: LocalService, asked: argparse.Namespace) -> dict[str, object]:
    """Fill the container, post its event, and return what it took."""
    client = service.s3.client()
    body = os.urandom(asked.file_bytes)

    def put(number: int) -> None:
        key = f"1/small/{number % 100:02}/{number:06}.bin"
        client.put_object(Bucket=service.bucket, Key=key, Body=number.to_bytes(8, "big") + body[8:])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(asked.files)))
    if asked.big_bytes:
        upload(client, service.bucket, [Sample(path="big.bin", size_bytes=asked.big_bytes, seed=1)], prefix="1/")
    service.ask_sandbox("POST", "/sandbox/containers/1/scan")
    job_id = str(service.ask_sandbox("POST", "/api/job", {"container_id": "1", "name": "bench"})["id"])
    ledger = Ledger(service.ledger_url)
    processes = {"intake": service.intake.pid} | {
        f"worker-{n}": child.pid for n, child in enumerate(service.workers, 1)
    }
    cpu_before = {name: cpu_s(pid) for name, pid in processes.items()}
    began = time.monotonic()
    run_id = service.post(service.event(job_id))["run_id"]
    hashed_s = 0.0
    while True:
        run = ledger.read_now(runs.get, run_id)
        assert run is not None
        if not hashed_s and run.settled_at_ms is not None:
            hashed_s = time.monotonic() - began
        if run.state.ended:
            break
        time.sleep(0.2)
    took_s = time.monotonic() - began
    verification = ledger.read_now(entries.verify)
    ledger.close()
    assert run.state == "completed", (run.state, run.error_class, run.error_detail)
    assert not verification.faults, verification.faults
    job = service.ask_sandbox("GET", f"/api/job/{job_id}")
    return {
        "question": "one container: wall, CPU and peak memory of each process",
        "files": run.files_total,
        "size_bytes": run.bytes_done,
        "messages": asked.messages,
        "wall_s": round(took_s, 2),
        "until_hashed_s": round(hashed_s, 2),
        "files_per_s": round(run.files_total / took_s, 1),
        "cpu_s": {name: round(cpu_s(pid) - cpu_before[name], 2) for name, pid in processes.items()},
        "peak_rss_mib": {name: round(peak_rss_bytes(pid) / 2**20, 1) for name, pid in processes.items()},
        "labdrive_job": job["status"],
        "s3": service.s3.backend,
        "n": 1,
        **circumstances(),
    }


def peak_rss_bytes(pid: int) -> int:
    """Return the largest resident set the process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(pid)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds the process has used, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
