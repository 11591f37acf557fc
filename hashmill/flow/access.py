"""The way back to the platform of one run: its API address and its key, unsealed only here."""

from hashmill.flow.tools import WorkTools
from hashmill.labdrive.client import ApiAccess
from hashmill.ledger.runs import Run


async def access_of(tools: WorkTools, run: Run) -> ApiAccess:
    """Return how to call LABDRIVE for `run`, or raise `SecretExpired`."""
    keys = await tools.ledger.read(tools.sealer.open, run.run_id)
    key = keys.get("root") or keys["user"]
    return ApiAccess(url=run.api_url, key=key)
