"""A function's trigger: a job, an event of exactly the documented shape, and what the intake said to it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from hashmill.sandbox.config import FunctionConfig, IntakeConfig, UserConfig
from hashmill.sandbox.jobs import FAILED, Jobs
from hashmill.sandbox.records import FileRecord

# Known: the sample's trigger is id "0" with an empty type. The name of the upload's trigger is assumed.
ON_DEMAND: Final = ""
ON_UPLOAD: Final = "CREATED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggered:
    """What came of a trigger. `status` is the intake's HTTP status, None when it could not be asked."""

    job_id: str
    accepted: bool
    status: int | None
    answer: str


class Triggers:
    """Runs functions: posts to the intake once, never again; what is refused ends the job as FAILED."""

    def __init__(
        self, *, jobs: Jobs, intake: IntakeConfig, http: aiohttp.ClientSession, api_url: str, key_root: str
    ) -> None:
        self._jobs = jobs
        self._intake = intake
        self._http = http
        self._api_url = api_url
        self._key_root = key_root

    def point_to(self, intake: IntakeConfig) -> None:
        """Post to this intake from now on."""
        self._intake = intake

    async def run(
        self,
        function: FunctionConfig,
        *,
        user: UserConfig,
        container_id: str,
        trigger: str = ON_DEMAND,
        file_ids: Sequence[str] = (),
        file_paths: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
    ) -> Triggered:
        """Create a job, post the event that names it, and return what the intake answered."""
        job_id = self._jobs.add(container_id, function.name or function.key, user_id=user.id)
        event = {
            "api": {"url": self._api_url, "key_user": user.key, "key_root": self._key_root},
            "labdrive": {
                "container": {"id": container_id},
                "user": {"id": user.id},
                "files": {"ids": list(file_ids), "paths": list(file_paths)},
                "job": {"id": job_id},
                "trigger": {
                    "id": "0" if trigger == ON_DEMAND else function.id,
                    "type": trigger,
                    "regex": "" if trigger == ON_DEMAND else function.regex,
                },
                "function": {"id": function.id, "key": function.key},
            },
            "function_params": {**function.params, **(params or {})},
        }
        status, answer = await self._post(event)
        accepted = status is not None and 200 <= status < 300
        if not accepted:
            self._jobs.set_status(job_id, FAILED, f"the function refused the trigger: {status or ''} {answer}"[:1000])
        return Triggered(job_id=job_id, accepted=accepted, status=status, answer=answer)

    async def run_on_upload(self, function: FunctionConfig, *, user: UserConfig, file: FileRecord) -> Triggered | None:
        """Run the function for one uploaded file; None when its `regex` leaves the path out (assumed meaning)."""
        if not re.search(function.regex, file.fullpath):
            return None
        return await self.run(
            function, user=user, container_id=file.container_id, trigger=ON_UPLOAD, file_ids=[file.id]
        )

    async def _post(self, event: Mapping[str, Any]) -> tuple[int | None, str]:
        if not self._intake.url:
            return None, "no intake is configured"
        token = self._intake.bearer_token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=self._intake.timeout_s)
        try:
            async with self._http.post(
                self._intake.url, json=event, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return answer.status, (await answer.read()).decode("utf-8", "replace")
        except (TimeoutError, aiohttp.ClientError) as error:
            return None, f"{type(error).__name__}: {error}"
