import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashmill.domain.origin import api_base, origin_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://labdrive.example.org", "https://labdrive.example.org"),
        ("HTTPS://LabDrive.Example.ORG:443/api/x?y#z", "https://labdrive.example.org"),
        ("http://labdrive.example.org:80", "http://labdrive.example.org"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/api", "http://[::1]:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("http://h/x@y", "http://h"),
    ],
)
def test_one_origin_has_one_spelling(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "",
        "labdrive.example.org",
        "//labdrive.example.org",
        "ftp://labdrive.example.org",
        "file:///etc/passwd",
        "http://",
        "http:///api",
        "http://h:99999",
        "http://[::1",
        "http://labdrive.example.org@elsewhere/",
        "http://user:word@elsewhere/",
        "http://@elsewhere/",
        "http://labdrive.example.org\\@elsewhere/",
        "http://labdrive.example.org\t/",
        "http://labdrive.example.org /",
        "http://labdrive.example.org\r\nHost: x/",
        "http://\u2100.example",
    ],
)
def test_what_leads_somewhere_unclear_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match=r"must|is not"):
        origin_of(url)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://labdrive.libnova.com", "http://labdrive.libnova.com"),
        ("http://labdrive.libnova.com/", "http://labdrive.libnova.com"),
        ("http://labdrive.libnova.com/api", "http://labdrive.libnova.com"),
        ("http://labdrive.libnova.com/api//", "http://labdrive.libnova.com"),
        ("https://h/archive/api/", "https://h/archive"),
        ("https://h/archive", "https://h/archive"),
        ("https://api", "https://api"),
        ("https://h/myapi", "https://h/myapi"),
        ("https://h/api/api", "https://h"),
    ],
)
def test_the_base_has_no_trailing_slash_and_no_trailing_api(url: str, base: str) -> None:
    assert api_base(url) == base


@pytest.mark.parametrize("url", ["http://h/?x=1", "http://h/api?", "http://h/#x"])
def test_a_base_has_no_query_and_no_fragment(url: str) -> None:
    with pytest.raises(ValueError, match="no query"):
        api_base(url)


@given(st.text())
def test_any_text_has_an_origin_that_is_its_own_origin_or_none(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/api"):
        try:
            origin = origin_of(url)
        except ValueError:
            continue

        assert origin_of(origin) == origin


@given(st.text("/api", max_size=30))
def test_a_base_is_its_own_base(path: str) -> None:
    base = api_base(f"https://h/{path}")

    assert api_base(base) == base
