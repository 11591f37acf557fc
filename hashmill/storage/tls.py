"""What TLS connections to S3 servers share: whom they trust, and the session of the one before."""

import ssl
import sys
from typing import Final

HOSTS_MAX: Final = 64


class ResumingContext(ssl.SSLContext):
    """A client's context whose connections resume the last session with their host.

    So a new connection costs neither the server's signature nor the reading of its certificate anew. A session is only
    ever offered to the host it is of, and a host that does not know it any more shakes hands as with a stranger
    (known: RFC 8446, 2.2; asyncio itself never passes one to `wrap_bio`).
    """

    def __init__(self, _protocol: int) -> None:
        self._last: dict[str, ssl.SSLObject] = {}
        self._sessions: dict[str, ssl.SSLSession] = {}

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        host = str(server_hostname)
        # Asked of the connection before, and only now, because TLS 1.3 servers send their tickets after the handshake.
        # One that still shakes hands has none to be asked for; where there is none, `version` is None (known: ssl).
        if (last := self._last.pop(host, None)) is not None and last.version() and last.session is not None:
            self._sessions[host] = last.session
        for kept in (self._last, self._sessions):
            while len(kept) > HOSTS_MAX:
                del kept[next(iter(kept))]
        opened = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session or self._sessions.get(host))
        self._last[host] = opened
        return opened


def resuming_context(ca_file: str | None) -> ResumingContext:
    """Return a context that trusts `ca_file`, or what the system trusts. Reads files; raises `OSError`.

    As strict as the standard library's own for clients (known: `ssl.create_default_context`, 3.13).
    """
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    else:
        context.load_default_certs()
    return context
