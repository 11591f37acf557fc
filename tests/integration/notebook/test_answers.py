"""Whatever answers in LABDRIVE's place, a call ends well or says what was wrong with the answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from libnova.errors import AnswerUnreadable, ApiRejected, KeyMissing, SettingMissing
from libnova.Labdrive.Api import Container, Driver, File, Job, JobMessage


@dataclass(slots=True, kw_only=True)
class Server:
    """What it answers to every call, and what it was asked."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"success": true, "result": {}}'
    url: str = ""
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def answering(told: Server) -> Iterator[Server]:
    """A real server that answers as told."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.asked.append((self.command, self.path, dict(self.headers), sent))
            self.send_response(told.status)
            for name, value in {"Content-Type": "application/json", **told.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        do_GET = do_PUT = do_POST = answer  # noqa: N815 - the names http.server calls

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        serving = Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield told
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
def labdrive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """What the library takes for LABDRIVE."""
    for name in ("LIBNOVA_API_KEY", "LIBNOVA_TABLE", "LIBNOVA_CAPTURE"):
        monkeypatch.delenv(name, raising=False)
    with answering(Server()) as server:
        monkeypatch.setenv("LIBNOVA_API_URL", server.url)
        monkeypatch.setattr(Driver, "_current", Driver.Driver(key="the-key"))
        yield server


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_call_that_is_sent_on_reaches_nobody_and_says_where_to(labdrive: Server, status: int) -> None:
    with answering(Server()) as other:
        labdrive.status, labdrive.headers = status, {"Location": f"{other.url}/api/job/1?token=secret"}
        for call in (
            lambda: Job.set_status("1", Job.JobStatus.RUNNING),
            lambda: JobMessage.create("1", "hello"),
            lambda: File.set_hash("1", "md5", "00"),
            lambda: File.get("1"),
        ):
            with pytest.raises(AnswerUnreadable, match="LIBNOVA_API_URL") as raised:
                call()
            assert f"{other.url}/api/job/1 " in str(raised.value)
            assert "secret" not in str(raised.value)
    assert other.asked == []
    assert len(labdrive.asked) == 4


def test_a_redirect_that_leads_nowhere_is_said_too(labdrive: Server) -> None:
    labdrive.status, labdrive.headers = 302, {"Location": "http://[half"}

    with pytest.raises(AnswerUnreadable, match="an unclear place"):
        File.get("1")


def test_a_write_is_done_when_success_says_so(labdrive: Server) -> None:
    labdrive.body = b'{"success": true}'

    File.set_hash("5", "md5", "00")
    File.set_metadata("5", {"metadata": [{"iecode": "title", "value": "A title"}]})
    Job.set_status("1", Job.JobStatus.COMPLETED)

    assert [path for _, path, _, _ in labdrive.asked] == ["/api/file/5/hash", "/api/file/5/metadata", "/api/job/1"]
    with pytest.raises(AnswerUnreadable, match="envelope"):
        File.get("5")


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<h1>Something else</h1>"),
        ("application/json", b"null"),
        ("application/json", b'["a"]'),
        ("application/json", b'{"detail": "Not Found"}'),
        ("application/json", b""),
    ],
)
def test_an_answer_of_something_else_is_not_taken_for_labdrive_s(
    labdrive: Server, status: int, kind: str, body: bytes
) -> None:
    labdrive.status, labdrive.headers, labdrive.body = status, {"Content-Type": kind}, body

    for call in (lambda: File.get("1"), lambda: File.set_hash("1", "md5", "00")):
        with pytest.raises(AnswerUnreadable, match=f"{status} with {kind}, .*LABDRIVE's own") as raised:
            call()
        assert ("API key" in str(raised.value)) == (status in (401, 403))


def test_a_write_without_success_in_its_answer_is_not_taken_as_done(labdrive: Server) -> None:
    labdrive.body = b'{"result": {}}'

    with pytest.raises(AnswerUnreadable, match="success"):
        File.set_hash("1", "md5", "00")


def test_a_netrc_is_not_put_in_place_of_the_key(
    labdrive: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    File.set_hash("1", "md5", "00")

    assert [headers["Authorization"] for _, _, headers, _ in labdrive.asked] == ["Bearer the-key"]


def test_a_proxy_of_the_environment_is_gone_through(labdrive: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering(Server()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        File.set_hash("1", "md5", "00")

    assert [path for _, path, _, _ in proxy.asked] == [f"{labdrive.url}/api/file/1/hash"]
    assert labdrive.asked == []


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_setting_does_not_let_the_event_s_win(
    labdrive: Server, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LIBNOVA_API_KEY", value)
    with pytest.raises(KeyMissing, match="LIBNOVA_API_KEY is empty"):
        Driver.Driver(labdrive.url, "the-key")
    monkeypatch.setenv("LIBNOVA_API_URL", value)
    with pytest.raises(SettingMissing, match="LIBNOVA_API_URL is empty"):
        Driver.Driver(labdrive.url, "the-key")


@pytest.mark.parametrize("result", ['"x"', "[1]", "7"])
def test_a_result_of_another_shape_is_said(labdrive: Server, result: str) -> None:
    labdrive.body = b'{"success": true, "result": %s}' % result.encode()

    for call in (
        lambda: File.get("1"),
        lambda: File.get_metadata("1"),
        lambda: File.get_metadata("1", True),
        lambda: File.get_hash("1", "md5"),
        lambda: Job.get("1"),
        lambda: Container.get("1"),
        lambda: list(File.list("1")),
    ):
        with pytest.raises(AnswerUnreadable, match=r"Correct \[calls\."):
            call()


def test_a_file_without_what_makes_it_one_is_said(labdrive: Server) -> None:
    labdrive.body = b'{"success": true, "result": {"name": "x"}}'

    with pytest.raises(AnswerUnreadable, match="without 'fullpath'"):
        File.get("1")
    with pytest.raises(AnswerUnreadable, match="without 'id'"):
        File.get_by_path("1", "x")


def test_what_no_call_can_be_made_of_is_refused_and_not_sent(labdrive: Server) -> None:
    for call in (
        lambda: File.set_metadata_values("5", "[1]"),
        lambda: File.set_metadata_values("5", [{"iecode": "title", "value": []}]),
        lambda: File.set_metadata_values("5", [{"iecode": "title"}]),
        lambda: File.set_metadata("5", '{"metadata": "title"}'),
        lambda: File.set_metadata("5", {"metadata": [{"iecode": "title", "value": {1, 2}}]}),
        lambda: File.set_metadata("5", {"metadata": [{"iecode": "title", "value": float("nan")}]}),
        lambda: File.set_hash("5", "md5", b"aa"),  # type: ignore[arg-type]
        lambda: Job.set_status("1", "DONE"),
        lambda: JobMessage.create("1", "hello", "LOUD"),
    ):
        with pytest.raises(ApiRejected):
            call()
    assert labdrive.asked == []
