"""
The event's keys at rest: sealed with AES-256-GCM, bound to their run, in a table of their own.

The run's id is the associated data, so a sealed row moved to another run does not open.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Mapping

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hashmill.domain.errors import ConfigFault, SecretExpired
from hashmill.domain.job import RunState
from hashmill.domain.secret import Secret
from hashmill.ledger.engine import now_ms
from hashmill.ledger.tables import runs, secrets

KEY_BYTES = 32
NONCE_BYTES = 12


def new_key() -> str:
    """Return a fresh sealing key in the form the knob `secrets.seal_key` takes."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode("ascii")


class Sealer:
    """Seals and opens the keys of events with one sealing key."""

    def __init__(self, key: Secret) -> None:
        try:
            raw = base64.b64decode(key.reveal(), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != KEY_BYTES:
            raise ConfigFault(
                "secrets.seal_key must be 32 bytes in base64: make one with `hashmill secrets new-key` and set "
                "HASHMILL_SECRETS__SEAL_KEY to it, the same for intake and workers"
            )
        self._cipher = AESGCM(raw)
        self.key_id = hashlib.sha256(b"hashmill seal key" + raw).hexdigest()[:16]
        self._mark = hashlib.sha256(b"hashmill fingerprint" + raw).digest()

    def fingerprint(self, key: Secret) -> str:
        """Return 16 letters that are the same for the same key; without the sealing key they tell nothing about it."""
        return hmac.new(self._mark, key.reveal().encode(), hashlib.sha256).hexdigest()[:16]

    def put(self, connection: sa.Connection, run_id: str, keys: Mapping[str, Secret]) -> None:
        """Seal `keys` for `run_id`."""
        plain = json.dumps({name: key.reveal() for name, key in keys.items()}).encode()
        nonce = os.urandom(NONCE_BYTES)
        connection.execute(
            sa.insert(secrets).values(
                run_id=run_id,
                key_id=self.key_id,
                nonce=nonce,
                sealed=self._cipher.encrypt(nonce, plain, run_id.encode()),
            )
        )

    def open(self, connection: sa.Connection, run_id: str) -> dict[str, Secret]:
        """Return the keys of `run_id`, or raise `SecretExpired` when they were wiped or altered.

        Keys sealed with another sealing key are no fault of the run: `ConfigFault`, and the run waits.
        """
        row = connection.execute(sa.select(secrets).where(secrets.c.run_id == run_id)).one_or_none()
        if row is None:
            raise SecretExpired(f"run {run_id}: its keys were wiped; post the event again")
        if row.key_id != self.key_id:
            raise ConfigFault(_another_key(row.key_id, self.key_id))
        try:
            plain = self._cipher.decrypt(bytes(row.nonce), bytes(row.sealed), run_id.encode())
        except InvalidTag as error:
            raise SecretExpired(f"run {run_id}: its sealed keys were altered; post the event again") from error
        return {name: Secret(value) for name, value in json.loads(plain).items()}


def require_own(connection: sa.Connection, sealer: Sealer) -> None:
    """Raise `ConfigFault` when a run that has not ended has keys that were sealed with another key than `sealer`'s."""
    other = connection.execute(
        sa.select(secrets.c.key_id)
        .join(runs, runs.c.run_id == secrets.c.run_id)
        .where(secrets.c.key_id != sealer.key_id, runs.c.state.in_([state for state in RunState if not state.ended]))
        .limit(1)
    ).scalar_one_or_none()
    if other is not None:
        raise ConfigFault(_another_key(other, sealer.key_id))


def _another_key(theirs: str, ours: str) -> str:
    return (
        f"the ledger holds keys sealed with sealing key {theirs}, this process has {ours}: set secrets.seal_key to the "
        "key they were sealed with, the same for intake and workers"
    )


def replace(connection: sa.Connection, run_id: str, sealer: Sealer, keys: Mapping[str, Secret]) -> None:
    """Seal `keys` in place of what `run_id` had."""
    wipe(connection, run_id)
    sealer.put(connection, run_id, keys)


def wipe(connection: sa.Connection, run_id: str) -> None:
    """Delete the keys of a run: nothing can need them any more."""
    connection.execute(sa.delete(secrets).where(secrets.c.run_id == run_id))


def keep_for(connection: sa.Connection, run_id: str, *, days: int) -> None:
    """Let the keys of a failed run live `days` more, for a replay."""
    connection.execute(
        sa.update(secrets).where(secrets.c.run_id == run_id).values(wipe_after_ms=now_ms() + days * 86_400_000)
    )


def keep(connection: sa.Connection, run_id: str) -> None:
    """Let the keys of a run live until it ends: it is being replayed."""
    connection.execute(sa.update(secrets).where(secrets.c.run_id == run_id).values(wipe_after_ms=None))


def wipe_expired(connection: sa.Connection) -> int:
    """Delete the keys whose time is over; return how many rows."""
    return connection.execute(sa.delete(secrets).where(secrets.c.wipe_after_ms < now_ms())).rowcount


def kept(connection: sa.Connection, run_id: str, *, key_id: str | None = None) -> bool:
    """Return whether the keys of a run are still there, and sealed with the key `key_id` when it is given."""
    found = connection.execute(sa.select(secrets.c.key_id).where(secrets.c.run_id == run_id)).scalar_one_or_none()
    return found is not None and key_id in (None, found)
