"""The container's health check tells a living worker from a dead one."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashmill.ledger import leases
from hashmill.ledger.engine import Ledger
from tests.helpers.ledger import fresh_ledger
from worker import health


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    monkeypatch.setenv("HASHMILL_LEDGER__URL", url)
    with fresh_ledger(url) as opened:
        yield opened


def present(ledger: Ledger, *, host: str, lease_s: float = 60) -> None:
    ledger.write_now(
        leases.take, f"{leases.PROCESS}{host}:1:ab", f"{host}:1:ab", lease_s=lease_s, detail={"host": host}
    )


def test_a_host_whose_process_renewed_its_lease_is_healthy(ledger: Ledger) -> None:
    present(ledger, host=socket.gethostname())

    assert health.main() == 0


def test_a_host_whose_lease_ran_out_is_not(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    present(ledger, host=socket.gethostname(), lease_s=-1)

    assert health.main() == 1
    assert "no process of" in capsys.readouterr().err


def test_somebody_elses_worker_is_no_help(ledger: Ledger) -> None:
    present(ledger, host="another-host")

    assert health.main() == 1


def test_a_ledger_that_cannot_be_read_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HASHMILL_LEDGER__URL", f"sqlite:///{tmp_path / 'nowhere' / 'ledger.sqlite3'}")

    assert health.main() == 1
    assert "ledger is not available" in capsys.readouterr().err
