"""Another LABDRIVE: every path, verb, field and name is another, and one file of values is all that changes."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from hashmill.domain.job import RunState
from hashmill.home import app_home
from hashmill.labdrive.wire import MAY_BE_ABSENT
from hashmill.ledger import files
from hashmill.ledger.engine import Ledger
from hashmill.parts.redis import Redis
from hashmill.parts.s3 import S3Server
from hashmill.parts.service import USER_KEY, LocalService, local_service
from tests.helpers.other_labdrive import SHEET, VAULT, OtherLabdrive
from tests.helpers.road import QUICK, assert_whole, digests, ended_run
from tests.helpers.servers import work_folder

BODIES = {name: name.encode() * 1000 for name in ("a.txt", "dir/b ü?.txt", "c//d", "e", "f", "g", "gone")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    service: LocalService
    platform: OtherLabdrive
    ledger: Ledger


@pytest.fixture(scope="module")
def site(redis_server: Redis, s3: S3Server) -> Iterator[Site]:
    with work_folder("other") as folder, OtherLabdrive(USER_KEY, BODIES) as platform:
        sheet = folder / "other.toml"
        sheet.write_text(SHEET, encoding="utf-8")
        environ = {**QUICK, "HASHMILL_LABDRIVE__WIRE": str(sheet)}
        with local_service(
            folder, workers=1, redis=redis_server, s3=s3, labdrive_url=platform.url, environ=environ
        ) as service:
            client = s3.client()
            for name, body in BODIES.items():
                if name != "gone":
                    client.put_object(Bucket=service.bucket, Key=platform.object_key(name), Body=body)
            client.close()
            ledger = Ledger(service.ledger_url)
            yield Site(service=service, platform=platform, ledger=ledger)
            ledger.close()


def test_the_other_table_shares_no_call_and_no_name_with_the_one_that_ships() -> None:
    ours = tomllib.loads((app_home() / "config" / "labdrive.toml").read_text(encoding="utf-8"))
    theirs = tomllib.loads(SHEET)

    # What a platform need not have, the other one does not have.
    assert ours.keys() - {"message"} == theirs.keys()
    assert ours["calls"].keys() - MAY_BE_ABSENT.keys() == theirs["calls"].keys()
    for name, call in theirs["calls"].items():
        assert call["path"] != ours["calls"][name]["path"]
    for section in theirs.keys() - {"calls"}:
        for name, line in ours[section].items():
            # The bucket of a test is the test's own under every table.
            assert line["value"] != theirs[section][name]["value"] or (section, name) == ("objects", "bucket")


def test_named_files_are_found_read_and_reported(site: Site) -> None:
    platform = site.platform
    event = site.service.event(
        "ex-1",
        container_id=VAULT,
        ids=[platform.uids["a.txt"], platform.uids["c//d"]],
        paths=["dir/b ü?.txt", "/nowhere"],
    )

    run = ended_run(site.ledger, site.service.post(event)["run_id"])

    assert (run.state, run.files_total, run.files_failed) == (RunState.FAILED, 4, 1)
    assert site.ledger.read_now(files.failed_by_class, run.run_id) == {"api.rejected": 1}
    for name in ("a.txt", "c//d", "dir/b ü?.txt"):
        assert platform.digests[platform.uids[name]] == digests(BODIES[name])
    assert platform.transitions["ex-1"] == ["at work", "broken"]
    assert platform.strange == []
    assert_whole(site.ledger, run)


def test_a_whole_vault_is_listed_read_and_reported(site: Site) -> None:
    platform = site.platform
    platform.digests.clear()

    run = ended_run(
        site.ledger,
        site.service.post(site.service.event("ex-2", container_id=VAULT, params={"algorithms": ["sha256", "md5"]}))[
            "run_id"
        ],
    )

    hashed = {name: digests(body) for name, body in BODIES.items() if name != "gone"}
    assert (run.state, run.error_class, run.files_total, run.files_failed) == (
        RunState.FAILED,
        "s3.not_found",
        len(BODIES),
        1,
    )
    assert platform.digests == {
        platform.uids[name]: {"md5": made["md5"], "sha256": made["sha256"]} for name, made in hashed.items()
    }
    assert platform.transitions["ex-2"] == ["at work", "broken"]
    notes = [note for note in platform.notes.values() if note["job"] == "ex-2"]
    told = {note["words"] for note in notes if note["about"] == platform.uids["a.txt"]}
    assert told == {
        f"File hash calculated: SHA256 - {hashed['a.txt']['sha256']}",
        f"File hash calculated: MD5    - {hashed['a.txt']['md5']}",
    }
    assert {note["level"] for note in notes if note["about"] == platform.uids["a.txt"]} == {"note"}
    assert [note["level"] for note in notes if note["about"] == platform.uids["gone"]] == ["alarm"]
    [closing] = [note["words"] for note in notes if note["about"] is None]
    assert "1 failed: s3.not_found 1" in closing
    assert platform.strange == []
    assert_whole(site.ledger, run)


def test_a_run_with_nothing_wrong_ends_good(site: Site) -> None:
    platform = site.platform
    event = site.service.event("ex-3", container_id=VAULT, ids=[platform.uids["e"]])

    run = ended_run(site.ledger, site.service.post(event)["run_id"])

    assert run.state is RunState.COMPLETED
    assert platform.transitions["ex-3"] == ["at work", "good"]
    assert_whole(site.ledger, run)
