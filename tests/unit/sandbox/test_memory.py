"""What the sandbox remembers: containers, files, hashes, jobs, messages, calls."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.sandbox.calls import Calls
from hashmill.sandbox.catalog import Catalog, ObjectFound, mime_of
from hashmill.sandbox.database import STATEMENTS_PER_COMMIT, Database
from hashmill.sandbox.jobs import Jobs
from hashmill.sandbox.objects import object_key
from hashmill.sandbox.uploads import path_below

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@pytest.fixture
def database() -> Iterator[Database]:
    with closing(Database(":memory:")) as database:
        yield database


@given(path=NAMES)
def test_a_file_of_any_name_is_found_by_exactly_that_name(path: str) -> None:
    with closing(Database(":memory:")) as database:
        catalog = Catalog(database)
        container_id = catalog.add_container(name="c")
        file_id = catalog.put_file(container_id, "/" + path, 3)

        found = catalog.file_at(container_id, "/" + path)

        assert found is not None
        assert (found.id, found.fullpath, found.size) == (file_id, "/" + path, 3)
        assert found == catalog.file(file_id)


@given(path=NAMES)
def test_a_path_and_its_object_s_key_tell_the_same(path: str) -> None:
    assert object_key("7", "/" + path) == "7/" + path


@pytest.mark.parametrize(
    ("folder", "name", "fullpath"),
    [
        ("", "a", "/a"),
        ("/", "a", "/a"),
        ("x", "a", "/x/a"),
        ("/x/", "a", "/x/a"),
        ("x//", "a", "/x//a"),
        ("//x", "a", "//x/a"),
        (".x/..y", " a ", "/.x/..y/ a "),
    ],
)
def test_a_folder_and_a_name_join_without_losing_a_letter(folder: str, name: str, fullpath: str) -> None:
    assert path_below(folder, name) == fullpath


def test_new_content_forgets_the_hashes_of_the_old_and_a_listing_keeps_them(database: Database) -> None:
    catalog = Catalog(database)
    container_id = catalog.add_container(name="c")
    file_id = catalog.put_file(container_id, "/a", 1)
    catalog.set_hash(file_id, "md5", "00")

    catalog.put_objects(container_id, [ObjectFound(fullpath="/a", size_bytes=2)])
    assert catalog.hashes(file_id) == {"md5": "00"}
    assert catalog.put_file(container_id, "/a", 3) == file_id
    assert catalog.hashes(file_id) == {}


def test_a_hash_replaces_the_older_one_of_its_algorithm_only(database: Database) -> None:
    catalog = Catalog(database)
    file_id = catalog.put_file(catalog.add_container(name="c"), "/a", 1)

    for algorithm, digest in [("sha1", "11"), ("md5", "22"), ("sha1", "33")]:
        catalog.set_hash(file_id, algorithm, digest)

    assert catalog.hashes(file_id) == {"md5": "22", "sha1": "33"}


def test_a_file_below_a_known_folder_has_it_as_its_parent(database: Database) -> None:
    catalog = Catalog(database)
    container_id = catalog.add_container(name="c")
    folder_id = catalog.add_folder(container_id, "/x")
    inside, outside = catalog.put_file(container_id, "/x/a", 1), catalog.put_file(container_id, "/y/a", 1)

    parents = [file.parent for file in map(catalog.file, (inside, outside)) if file]

    assert parents == [folder_id, None]


def test_files_come_in_the_order_of_their_ids_and_page_by_page(database: Database) -> None:
    catalog = Catalog(database)
    container_id = catalog.add_container(name="c")
    # Ids of two and more digits: as text they would sort otherwise.
    catalog.put_objects(container_id, [ObjectFound(fullpath=f"/{at}", size_bytes=at) for at in range(25)])

    pages = [catalog.files(container_id, limit=10, offset=offset) for offset in (0, 10, 20, 30)]

    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert [file.size for page in pages for file in page] == list(range(25))


@pytest.mark.parametrize("no_id", ["", "x", "-1", "1.5", "٣", " 1", "9" * 30])
def test_what_is_no_id_finds_nothing(no_id: str, database: Database) -> None:
    catalog, jobs = Catalog(database), Jobs(database)
    catalog.put_file(catalog.add_container(name="c"), "/a", 1)

    assert catalog.file(no_id) is None
    assert catalog.container(no_id) is None
    assert jobs.job(no_id) is None


def test_metadata_is_replaced_or_added_and_is_apart_for_container_and_file(database: Database) -> None:
    catalog = Catalog(database)
    container_id = catalog.add_container(name="c")
    file_id = catalog.put_file(container_id, "/a", 1)
    for owner, value, replace in [(None, "1", True), (file_id, "2", True), (file_id, "3", False), (None, "4", True)]:
        catalog.set_metadata(container_id, owner, iecode="title", value=value, replace=replace, creator="1")

    assert [entry.value for entry in catalog.metadata(container_id)] == ["4"]
    assert [entry.value for entry in catalog.metadata(container_id, file_id)] == ["2", "3"]


def test_a_job_remembers_each_status_in_order(database: Database) -> None:
    jobs = Jobs(database)
    job_id = jobs.add("1", "check", user_id="2")
    for status in ("RUNNING", "FAILED", "RUNNING", "COMPLETED"):
        jobs.set_status(job_id, status)

    job = jobs.job(job_id)

    assert job is not None
    assert job.statuses == ["PENDING", "RUNNING", "FAILED", "RUNNING", "COMPLETED"]
    assert job.status == "COMPLETED"
    assert [change.date for change in job.history] == sorted(change.date for change in job.history)


def test_messages_come_oldest_first_and_are_counted_by_job(database: Database) -> None:
    jobs = Jobs(database)
    one, other = jobs.add("1", "one"), jobs.add("1", "other")
    for at in range(12):
        jobs.add_message(one if at % 3 else other, type="INFO", message=str(at), file_id=None)

    assert [message.message for message in jobs.messages(other)] == ["0", "3", "6", "9"]
    assert [job.message_count for job in jobs.jobs()] == [4, 8]


def test_calls_are_counted_by_method_path_and_status(database: Database) -> None:
    calls = Calls(database)
    for method, path, status in [("PUT", "/api/file/1/hash", 200), ("PUT", "/api/file/2/hash", None)]:
        calls.add(at_s=1.0, method=method, path=path, user_id="", status=status, fault="", idempotency_key="")

    assert calls.count() == 2
    assert calls.count(path="/api/file/*/hash", method="PUT") == 2
    assert calls.count(status=200) == 1
    assert calls.count(method="GET") == 0
    assert [call.path for call in calls.calls(path="*2*")] == ["/api/file/2/hash"]


def test_a_file_keeps_the_memory_over_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "sandbox.sqlite3")
    database = Database(path)
    Catalog(database).add_container(name="old", id="5")
    database.close()

    database = Database(path)
    catalog = Catalog(database)
    catalog.add_container(name="new", id="5")

    assert [(container.id, container.name) for container in catalog.containers()] == [("5", "old")]
    database.close()


def test_writes_reach_the_disk_in_groups(tmp_path: Path) -> None:
    path = str(tmp_path / "sandbox.sqlite3")
    writer, reader = Database(path), Database(path)
    jobs, seen = Jobs(writer), Jobs(reader)

    counts = []
    for _ in range(STATEMENTS_PER_COMMIT):
        jobs.add("1", "job")  # two statements
        counts.append(seen.count())
    writer.commit()

    assert set(counts) == {0, STATEMENTS_PER_COMMIT // 2, STATEMENTS_PER_COMMIT}
    assert seen.count() == STATEMENTS_PER_COMMIT
    reader.close()
    writer.close()


def test_the_media_type_follows_the_ending() -> None:
    assert [mime_of("/a/b.TXT"), mime_of("/a.d/b"), mime_of("/.png"), mime_of("/x.")] == [
        "text/plain",
        "application/octet-stream",
        "image/png",
        "application/octet-stream",
    ]
