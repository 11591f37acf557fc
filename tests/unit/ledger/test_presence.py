"""What processes say of themselves, whatever their version, and how an S3 server is named to people."""

from typing import Any

import pytest

from hashmill.ledger.leases import Lease
from hashmill.ledger.presence import AwayStorage, Presence, storage_address


def there(*details: dict[str, Any], remaining_s: float = 3.0) -> Presence:
    return Presence(
        leader=None,
        processes=[
            Lease(name=f"process:{number}", holder="a", fence=1, remaining_s=remaining_s, detail=detail)
            for number, detail in enumerate(details)
        ],
    )


def away(address: str, *, for_s: float = 5.0, reason: str = "gone") -> dict[str, Any]:
    return {"address": address, "for_s": for_s, "reason": reason}


def test_a_server_that_several_find_away_is_told_once_with_the_longest_outage() -> None:
    seen = there(
        {"storages_away": [away("http://b"), away("http://a", for_s=7)]},
        {"storages_away": [away("http://a", for_s=90.5, reason="refused")]},
        {"storages_away": []},
    )

    assert seen.storages_away == [
        AwayStorage(address="http://a", processes=2, for_s=90.5, reason="refused"),
        AwayStorage(address="http://b", processes=1, for_s=5.0, reason="gone"),
    ]


def test_a_lapsed_process_says_nothing() -> None:
    lapsed = there({"slots": 4, "on_trial": True, "storages_away": [away("http://a")]}, remaining_s=-1.0)

    assert (lapsed.slots, lapsed.on_trial, lapsed.storages_away) == (0, 0, [])


@pytest.mark.parametrize(
    "detail",
    [
        {"slots": 4},
        {"slots": 4, "storages_away": None, "on_trial": "some"},
        {"slots": 4, "storages_away": ["http://a", 7, {}, {"address": 1, "for_s": 1, "reason": ""}]},
        {"slots": 4, "storages_away": {"http://a": 1}},
    ],
)
def test_a_process_of_another_version_may_say_less_or_something_else(detail: dict[str, Any]) -> None:
    seen = there(detail, {"slots": 2, "on_trial": True})

    assert (seen.slots, seen.on_trial, seen.storages_away) == (6, 1, [])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://S3.example.org:443/x", "https://s3.example.org"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("eu-central-1", "eu-central-1"),
        ("eu-central-1 AKIDEXAMPLE", "eu-central-1"),
        ("http://127.0.0.1:9000 AKIDEXAMPLE", "http://127.0.0.1:9000"),
        ("https://user:secret@s3.example.org", "an S3 server"),
        ("user:secret@s3", "an S3 server"),
    ],
)
def test_the_name_of_a_server_holds_no_credentials(text: str, address: str) -> None:
    assert storage_address(text) == address
