"""
The health check of a container: `python -m worker.health` ends with 0 when a process of this host is present.

Present means that it renewed its lease in the ledger in time: it has a running loop and reaches the ledger. This is a
check of readiness. While the ledger is away no worker is healthy, and killing one would not help.
"""

import socket
import sys

from hashmill.domain.errors import HashmillError
from hashmill.ledger import leases
from hashmill.ledger.engine import Ledger
from hashmill.settings import Settings, read_settings


def living(settings: Settings, host: str) -> list[str]:
    """Return the processes of `host` whose lease holds; raises `LedgerUnavailable`."""
    ledger = Ledger(settings.ledger.url.get_secret_value(), threads=1, timeout_s=settings.ledger.timeout_s)
    try:
        found = ledger.read_now(leases.listed, leases.PROCESS)
    finally:
        ledger.close()
    return [lease.holder for lease in found if lease.remaining_s > 0 and lease.detail.get("host") == host]


def main() -> int:
    """Say on standard error who lives, or why that is not known; return the exit status."""
    host = socket.gethostname()
    try:
        found = living(read_settings(), host)
    except HashmillError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"{', '.join(found)}\n" if found else f"no process of {host} is present in the ledger\n")
    return 0 if found else 1


if __name__ == "__main__":
    raise SystemExit(main())
