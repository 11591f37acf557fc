"""Old and new code side by side, and the ledger migrated under them, over 10,000 files: none fails."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.fault.figures import ROOT, Row
from tests.fault.load import Store, say
from tests.fault.site import FaultSite, fault_site

OLD_COMMIT = "e6137c5"
"""The last commit whose ledger is at revision 0001."""
CONTAINERS = 5


@pytest.mark.timeout(1800)
def test_old_and_new_code_work_side_by_side(
    store: Store, fresh_ledger: str, table: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = unpacked(OLD_COMMIT, tmp_path / "old")
    monkeypatch.setenv("PYTHONPATH", str(old))
    assert home_of_the_code() == old
    # Every process of the site is started in this environment: what starts after the switch below runs the new code.
    with fault_site(store, ledger_url=fresh_ledger, workers=2, seed=8) as site:
        assert revision(site) == "0001"
        total = CONTAINERS * store.files_each
        for number in (1, 2, 3):
            site.load.post_until_accepted(str(number))
        site.wait_for_progress(total // 10)

        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        assert home_of_the_code() == ROOT
        site.service.run_command("ledger", "upgrade")
        migrated = revision(site)
        at_migration = site.ended_files()
        say(f"migrated from 0001 to {migrated} after {at_migration} files of {total}; old code goes on")
        site.load.post_until_accepted("4")  # by the old intake
        site.wait_for_progress(total * 3 // 10)

        site.supervisor.add("worker-new", site.service.start_worker)
        site.wait(lambda: "worker-new" in site.present(), timeout_s=60, what="a new worker is there")
        say(f"a new worker beside the old ones after {site.ended_files()} files")
        site.wait_for_progress(total * 4 // 10)
        for name in ("worker-1", "intake", "worker-2"):
            before = site.supervisor.child(name).pid
            site.supervisor.order(name).send(signal.SIGTERM)
            site.faults += 1
            site.wait(
                lambda: site.supervisor.child(name).pid != before,  # noqa: B023
                timeout_s=90,
                what=f"{name} runs the new code",
            )
            if name == "intake":
                site.load.post_until_accepted("5")  # by the new one
        row, verdict = site.finish(
            "mixed-versions",
            f"upgrade of a process from {OLD_COMMIT}, the ledger migrated before",
            "0 failed",
            more={"migrated": f"0001 to {migrated}", "files_ended_at_migration": at_migration},
        )
        table.append(row)

    assert not row.broken, verdict
    assert verdict.figures["failed"] == verdict.figures["dead"] == 0, verdict
    assert migrated != "0001"
    assert at_migration < total


def unpacked(commit: str, folder: Path) -> Path:
    """Unpack the tree of a commit and return where; skip where this clone does not have it."""
    packed = subprocess.run(["git", "archive", commit], capture_output=True, check=False, cwd=ROOT)
    if packed.returncode:
        pytest.skip(f"commit {commit} is not in this clone: {packed.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tree:
        tree.extractall(folder, filter="data")
    return folder


def home_of_the_code() -> Path:
    """Return from where a process of this environment takes the code."""
    program = "import hashmill; print(hashmill.__path__[0])"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd="/", env=os.environ
    )
    return Path(found.stdout.strip()).parent


def revision(site: FaultSite) -> str:
    query = "SELECT version_num FROM alembic_version"
    return site.ledger.read_now(lambda connection: str(connection.exec_driver_sql(query).scalar_one()))
