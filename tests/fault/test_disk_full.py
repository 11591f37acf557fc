"""The disk under a SQLite ledger full in mid-load: 503 at the door, nothing half-written, and all goes on behind it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.figures import Row
from tests.fault.load import Store, say
from tests.fault.poster import posting
from tests.fault.site import fault_site

DISK_BYTES = 96 * 1024 * 1024
CONTAINERS = 1
FULL_S = 20.0
RECOVERY_MAX_S = 30.0
WORKERS = 2


@pytest.mark.timeout(900)
def test_a_full_disk_costs_nobody_an_event(store: Store, table: list[Row]) -> None:
    with (
        small_disk() as disk,
        fault_site(store, ledger_url=f"sqlite:///{disk / 'ledger.sqlite3'}", workers=WORKERS, seed=13) as site,
    ):
        total = site.post_all(CONTAINERS)
        site.wait_for_progress(total // 10)
        with posting(site.load, store) as poster:
            full_s = time.monotonic()
            ends_s = full_s + FULL_S
            while time.monotonic() < ends_s:
                fill(disk)  # again and again: the ledger's own files shrink at times
                time.sleep(0.2)
            site.faults += 1
            refused, lived = poster.refused_since(full_s), site.supervisor.restarts == 0
            (disk / FILLER).unlink()
            over_s = time.monotonic()
            before = site.ended_files()
            site.wait(lambda: poster.accepted_since(over_s), timeout_s=120, what="an event is accepted")
            site.wait(lambda: site.ended_files() > before or site.has_ended(), timeout_s=120, what="a file ends")
            site.recoveries_s.append(time.monotonic() - over_s)
            say(f"recovered after {site.recoveries_s[-1]:.1f} s, intake {poster.told()}")
        late = [f"recovery took {each:.1f} s" for each in site.recoveries_s if each > RECOVERY_MAX_S]
        row, verdict = site.finish(
            "disk-full",
            f"the ledger's disk full for {FULL_S:g} s",
            f"intake says 503; nothing half-written; no process exits; recovery <= {RECOVERY_MAX_S:g} s without hands",
            broken=[*late, *poster.odd(), *([] if lived else ["a process exited over it"])],
            more={"intake_answers": poster.told(), "refused_while_full": refused, "disk_bytes": DISK_BYTES},
        )
        table.append(row)

    assert not row.broken, verdict
    assert refused, "nobody was refused while the disk was full: was it?"


FILLER = "filler"


def fill(disk: Path) -> None:
    """Take all the space that is left, to the last block."""
    with (disk / FILLER).open("ab", buffering=0) as filler:
        for piece_bytes in (1024 * 1024, 4096):
            with contextlib.suppress(OSError):
                while filler.write(bytes(piece_bytes)) == piece_bytes:
                    pass


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """Give a folder on a file system of its own, of `DISK_BYTES`; skips where none may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="hm-disk-"))
    mount = shutil.which("mount")
    options = f"size={DISK_BYTES},mode=0700"
    if os.geteuid() != 0 or mount is None:
        folder.rmdir()
        pytest.skip("only root may mount a small file system for the ledger")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
