import pytest

from hashmill.domain.errors import ConfigFault, OriginRefused
from hashmill.labdrive.origins import check_origin, normal_origins

ALLOWED = normal_origins(["https://Labdrive.example.org:443/", "http://127.0.0.1:8080", "https://bücher.example"])


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://labdrive.example.org", "https://labdrive.example.org"),
        ("https://LABDRIVE.example.org:443/api/", "https://labdrive.example.org"),
        ("https://labdrive.example.org/archive/api", "https://labdrive.example.org/archive"),
        ("http://127.0.0.1:8080/api", "http://127.0.0.1:8080"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_a_listed_origin_is_let_through_in_any_spelling(url: str, base: str) -> None:
    assert check_origin(url, ALLOWED) == base


@pytest.mark.parametrize(
    "url",
    [
        "http://labdrive.example.org",
        "https://labdrive.example.org:8443",
        "https://labdrive.example.org.",
        "https://labdrive.example.org.evil.example",
        "https://evil.example/https://labdrive.example.org",
        "http://127.0.0.1",
        "http://127.1:8080",
        "http://0x7f.1:8080",
        "http://2130706433:8080",
        "http://[::ffff:127.0.0.1]:8080",
        "http://localhost:8080",
        "http://169.254.169.254/latest/meta-data",
    ],
)
def test_an_unlisted_origin_is_refused_with_the_knob_to_turn(url: str) -> None:
    with pytest.raises(OriginRefused, match=r"labdrive\.allowed_origins \(HASHMILL_LABDRIVE__ALLOWED_ORIGINS\)"):
        check_origin(url, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "https://labdrive.example.org@evil.example",
        "https://user:word@labdrive.example.org",
        "https://labdrive.example.org\\@evil.example",
        "https://labdrive.example.org/?next=",
        "file:///etc/passwd",
        "",
    ],
)
def test_an_unclear_address_is_refused(url: str) -> None:
    with pytest.raises(OriginRefused, match="address"):
        check_origin(url, ALLOWED)


def test_nothing_is_allowed_unless_listed() -> None:
    with pytest.raises(OriginRefused):
        check_origin("https://labdrive.example.org", normal_origins([]))


def test_a_list_with_something_that_is_no_origin_is_a_fault_of_the_house() -> None:
    with pytest.raises(ConfigFault, match=r"labdrive\.allowed_origins.*'labdrive\.example\.org'"):
        normal_origins(["labdrive.example.org"])
