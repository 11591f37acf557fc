"""Whether LABDRIVE has a message already that may have arrived although its answer was lost."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from hashmill.domain.errors import ApiAuth, ApiRejected
from hashmill.domain.job import MessageType, ReportKind
from hashmill.flow.tools import WorkTools
from hashmill.labdrive.client import ApiAccess
from hashmill.ledger import outbox
from hashmill.ledger.outbox import OwedReport
from hashmill.ledger.runs import Run

MESSAGES_MAX = 20_000
"""A job with more messages is not looked through: sending one twice costs less than reading all of them."""

Words = tuple[str, str | None, str | None]
"""Text, type in LABDRIVE's words, file id."""


@dataclass(slots=True, kw_only=True)
class Lookup:
    """What LABDRIVE has of one job: read once for a batch, and only when a report of it is uncertain."""

    tools: WorkTools
    run: Run
    access: ApiAccess
    there: Counter[Words] | None = None
    read: bool = False
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def has(self, report: OwedReport) -> bool:
        """Return whether the message is there, one more than we know to have sent; False when nobody can say.

        A status or a hash is set again instead: twice is the same as once. Raises `ApiUnavailable`.
        """
        if report.kind is not ReportKind.MESSAGE:
            return False
        async with self.reading:
            if not self.read:
                self.there = await self._listed()
                self.read = True
            if self.there is None:
                return False
            body = report.body
            words = (body["text"], self.tools.labdrive.type_name(MessageType(body["type"])), body["file_id"])
            sent = await self.tools.ledger.read(outbox.sent_alike, self.run.run_id, body)
            if self.there[words] <= sent:
                return False
            self.there[words] -= 1
            return True

    async def _listed(self) -> Counter[Words] | None:
        try:
            messages = await self.tools.labdrive.list_messages(self.access, self.run.job_id, most=MESSAGES_MAX)
        except (ApiAuth, ApiRejected):
            return None
        return None if messages is None else Counter((one.text, one.type, one.file_id) for one in messages)
