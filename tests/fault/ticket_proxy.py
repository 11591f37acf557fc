"""A broker that is bad with messages: a proxy before Redis that drops some, doubles some, and lets some overtake."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.fault.relay import Over, Relay

RELEASE_EVERY_S: Final = 0.25
LOST_KEY: Final = b"lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mischief:
    """The share of messages each thing happens to, one at most. A held one comes within `held_s`, at either end."""

    dropped: float = 0.1
    doubled: float = 0.1
    overtaking: float = 0.2
    held: float = 0.2
    held_s: float = 8.0


class TicketProxy(Relay):
    """Passes every command but the pushes of messages, which it rewrites; every answer is Redis's own.

    A message is pushed with LPUSH and taken from the right (known: kombu's Redis transport): RPUSH lets it overtake
    all that wait. `seen` counts what was done, by name.
    """

    def __init__(self, url: str, mischief: Mischief, *, chance: random.Random, queues: Sequence[str]) -> None:
        super().__init__(url)
        self._mischief, self._chance = mischief, chance
        self._ends = tuple(f":{queue}".encode() for queue in queues)
        self.seen: Counter[str] = Counter()
        self._held: list[tuple[float, bytes, bytes]] = []

    async def begin(self) -> None:
        """Listen, and see to what is held."""
        await super().begin()
        self._releasing = asyncio.create_task(self._release())

    async def end(self) -> None:
        """Hang up on everybody; what is still held is lost."""
        self._releasing.cancel()
        await asyncio.gather(self._releasing, return_exceptions=True)
        await super().end()

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer_port: int) -> None:
        while words := await _command(reader):
            if words[0].upper() == b"LPUSH" and len(words) == 3 and words[1].endswith(self._ends):
                words = self._pushed(words[1], words[2])
            writer.write(_encoded(words))
            await writer.drain()

    def _pushed(self, key: bytes, message: bytes) -> list[bytes]:
        """Return what becomes of one message; whatever it is, the answer is a number, as the sender expects."""
        self.seen["messages"] += 1
        kind = self._chosen()
        self.seen[kind] += 1
        match kind:
            case "dropped":
                return [b"LPUSH", LOST_KEY, b"."]
            case "doubled":
                return [b"LPUSH", key, message, message]
            case "overtaking":
                return [b"RPUSH", key, message]
            case "held":
                due_s = asyncio.get_running_loop().time() + self._chance.uniform(0, self._mischief.held_s)
                self._held.append((due_s, key, message))
                return [b"LPUSH", LOST_KEY, b"."]
        return [b"LPUSH", key, message]

    def _chosen(self) -> str:
        left = self._chance.random()
        for name in ("dropped", "doubled", "overtaking", "held"):
            left -= getattr(self._mischief, name)
            if left < 0:
                return name
        return "passed"

    async def _release(self) -> None:
        """Push what was held and is due."""
        reader, writer = await self.dial()
        try:
            while True:
                await asyncio.sleep(RELEASE_EVERY_S)
                due = [one for one in self._held if one[0] <= asyncio.get_running_loop().time()]
                self._chance.shuffle(due)
                for one in due:
                    self._held.remove(one)
                    writer.write(_encoded([self._chance.choice([b"LPUSH", b"RPUSH"]), *one[1:]]))
                    await reader.readline()
        finally:
            writer.close()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    """Return the next command, none at the end (known: RESP, clients send arrays of bulk strings)."""
    line = await reader.readline()
    if not line:
        raise Over
    assert line.startswith(b"*"), line
    words = []
    for _ in range(int(line[1:])):
        size_bytes = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size_bytes + 2))[:-2])
    return words


def _encoded(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
