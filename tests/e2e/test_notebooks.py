"""The example notebooks run headless from their first cell to the last against the running service, and are right."""

import re
from pathlib import Path
from random import Random
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from hashmill.domain.job import RunState
from hashmill.ledger.engine import Ledger
from hashmill.parts.service import LocalService
from tests.helpers.road import digests, ended_run, fill, job_messages, job_status, new_job, stored_hashes

EXAMPLES = Path(__file__).parents[2] / "notebook" / "examples"
BODIES = {
    "raw/run-1.h5": Random(1).randbytes(700_000),
    "raw/run-2.h5": Random(2).randbytes(3_000_000),
    "readme ü.txt": "über".encode(),
    "empty": b"",
}

# What Jupyter's own libraries warn of at this version is not ours to mend.
pytestmark = [
    pytest.mark.parametrize("shared_service", ["sqlite"], indirect=True),  # the notebooks see no ledger, only its API
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def ids(service: LocalService, container: str) -> dict[str, str]:
    return fill(service, BODIES, container_id=container)


@pytest.fixture
def job_id(service: LocalService, container: str) -> str:
    return new_job(service, container_id=container)


@pytest.fixture
def in_jupyter(
    service: LocalService, container: str, job_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment that LABDRIVE's notebooks have, which the kernel takes over."""
    for name, value in {
        **service.researcher_environ(job_id, container_id=container),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
    }.items():
        monkeypatch.setenv(name, value)


def executed(name: str, folder: Path) -> list[Any]:
    """Run a notebook as Jupyter would, and return its cells of code with their outputs."""
    (path,) = EXAMPLES.glob(f"{name}*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cell: Any) -> str:
    """Return what a cell printed or shows as text."""
    found = []
    for output in cell.outputs:
        found.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(found)


def checked(service: LocalService, ledger: Ledger, container: str, job_id: str) -> Any:
    return ended_run(ledger, service.post(service.event(job_id, container_id=container))["run_id"])


@pytest.mark.usefixtures("in_jupyter")
def test_a_selection_is_hashed_and_told(
    service: LocalService, ids: dict[str, str], job_id: str, tmp_path: Path
) -> None:
    cells = executed("1", tmp_path)

    assert text(cells[1]) == f"4 files, {sum(map(len, BODIES.values()))} bytes\n"
    assert f"job {job_id} is COMPLETED - unread: none" in text(cells[-1])
    assert all(path in text(cells[-1]) for path in ids)
    assert any("application/vnd.jupyter.widget-view+json" in out.get("data", {}) or "files" in out.get("text", "")
               for out in cells[2].outputs), "going through the files shows progress"  # fmt: skip
    assert {path: stored_hashes(service, ids[path]) for path in BODIES} == {
        path: digests(body) for path, body in BODIES.items()
    }
    assert job_status(service, job_id) == "COMPLETED"
    assert [one["message"] for one in job_messages(service, job_id)] == ["Hashed: md5, sha1, sha256"] * len(BODIES)


@pytest.mark.usefixtures("in_jupyter")
def test_a_new_algorithm_is_tried_and_stored(service: LocalService, ids: dict[str, str], tmp_path: Path) -> None:
    def fletcher(body: bytes) -> str:
        first = second = 0
        for value in body:
            first = (first + value) % 65535
            second = (second + first) % 65535
        return f"{second:04x}{first:04x}"

    cells = executed("2", tmp_path)

    assert text(cells[0]) == "agrees with the book\n"
    for path, body in BODIES.items():
        assert stored_hashes(service, ids[path]) == {"fletcher32": fletcher(body)}
        assert f"{path} {fletcher(body)}" in text(cells[-1])


@pytest.mark.usefixtures("in_jupyter")
def test_a_container_s_fixity_is_a_table_and_plots(
    service: LocalService, ledger: Ledger, ids: dict[str, str], container: str, job_id: str, tmp_path: Path
) -> None:
    client = service.s3.client()
    client.delete_object(Bucket=service.bucket, Key=f"{container}/empty")
    client.close()
    run = checked(service, ledger, container, job_id)
    assert run.state is RunState.FAILED
    fill(service, {"later": b"later"}, container_id=container)
    again = new_job(service, container_id=container)
    part = service.event(again, container_id=container, ids=[ids["readme ü.txt"]])
    newest = ended_run(ledger, service.post(part)["run_id"])

    cells = executed("3", tmp_path)

    assert text(cells[1]) == (
        f"run {newest.run_id}: completed, 1 files, 0 failed\n4 of 5 files that LABDRIVE lists were ever checked\n"
    )
    table = text(cells[2])
    assert re.search(r"done +no_baseline +3 +3700005", table), table
    assert re.search(r"failed +unreadable +1", table), table
    (plot,) = [out for out in cells[3].outputs if "image/png" in out.get("data", {})]
    assert len(plot["data"]["image/png"]) > 10_000
    assert "s3.not_found" in text(cells[4])


@pytest.mark.usefixtures("in_jupyter")
def test_without_a_check_the_container_s_notebook_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match=r"has no finished check of container .*: post an event for it first"):
        executed("3", tmp_path)


@pytest.mark.usefixtures("in_jupyter")
@pytest.mark.parametrize("name", ["1", "2", "3", "4"])
def test_no_example_takes_a_container_or_job_that_nobody_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("EXAMPLE_CONTAINER")
    monkeypatch.delenv("EXAMPLE_JOB")

    with pytest.raises(CellExecutionError, match=r"Write the ids? of a container .*here, or set EXAMPLE_CONTAINER"):
        executed(name, tmp_path)


@pytest.mark.usefixtures("in_jupyter")
def test_what_nothing_was_compared_of_is_not_called_verified(
    service: LocalService,
    ledger: Ledger,
    ids: dict[str, str],
    container: str,
    job_id: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    event = service.event(job_id, container_id=container, ids=[ids["empty"]], params={"algorithms": ["crc32c"]})
    assert ended_run(ledger, service.post(event)["run_id"]).state is RunState.COMPLETED

    monkeypatch.setenv("LIBNOVA_PROGRESS", "0")  # where a bar's text stands among the lines is not told

    cells = executed("4", tmp_path)

    assert text(cells[3]) == "0 verified\nNOT COMPARED: empty - hashlib computes none of crc32c\n"


@pytest.mark.usefixtures("in_jupyter")
def test_downloads_are_verified_and_one_that_was_changed_is_found(
    service: LocalService, ledger: Ledger, ids: dict[str, str], container: str, job_id: str, tmp_path: Path
) -> None:
    assert checked(service, ledger, container, job_id).state is RunState.COMPLETED
    cells = executed("4", tmp_path)
    assert text(cells[2]) == f"{len(ids)} files have an entry\n"
    assert f"{len(ids)} verified\n" in text(cells[3])

    client = service.s3.client()
    client.put_object(Bucket=service.bucket, Key=f"{container}/raw/run-1.h5", Body=b"something else")
    client.close()
    cells = executed("4", tmp_path)
    assert f"{len(ids) - 1} verified\n" in text(cells[3])
    assert "NOT VERIFIED: raw/run-1.h5 - md5 differs, sha1 differs, sha256 differs" in text(cells[3])
