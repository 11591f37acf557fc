"""The whole service on one machine: Redis, S3, the sandbox LABDRIVE, intake and workers, as child processes."""

import base64
import contextlib
import itertools
import json
import os
import secrets
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hashmill.parts.process import Child, Part, free_ports
from hashmill.parts.redis import Redis, start_redis
from hashmill.parts.s3 import S3Server, start_s3

COMMAND_TIMEOUT_S: Final = 60.0
USER_KEY: Final = "sandbox-user-key"
ROOT_KEY: Final = "sandbox-root-key"
"""The keys of config/sandbox.toml's first users: made up, and good for nothing but a sandbox."""


class LocalService(Part):
    """A running service on free loopback ports; everything it holds is below `folder`.

    `redis`, `s3` and `ledger_url` may be brought along; what is not is started, and stopped, here. `environ` adds
    or overrides `HASHMILL_…` variables of every process. `seal_key` is this run's own. The sandbox has `containers`
    containers, with the ids from 1 on, all in one storage: `bucket`, or a new one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        slots: int = 8,
        containers: int = 1,
        redis: Redis | None = None,
        s3: S3Server | None = None,
        bucket: str | None = None,
        ledger_url: str | None = None,
        labdrive_url: str | None = None,
        environ: Mapping[str, str] | None = None,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.slots = slots
        self._containers = containers
        self._cell = f"local-{secrets.token_hex(4)}"
        self.workers: list[Child] = []
        self.seal_key = base64.b64encode(secrets.token_bytes(32)).decode()
        self._own = contextlib.ExitStack()
        self._on_step = on_step
        self._extra = dict(environ or {})
        self._numbers = itertools.count(1)
        try:
            self._start(workers, redis, s3, bucket, ledger_url, labdrive_url)
        except BaseException:
            self.stop()
            raise

    def _start(
        self,
        workers: int,
        redis: Redis | None,
        s3: S3Server | None,
        bucket: str | None,
        ledger_url: str | None,
        labdrive_url: str | None,
    ) -> None:
        self._on_step("Redis")
        self.redis = redis or self._own.enter_context(start_redis(self.folder / "redis"))
        self._on_step("S3")
        self.s3 = s3 or self._own.enter_context(start_s3(self.folder / "s3"))
        self.bucket = bucket or self.s3.make_bucket()
        self.ledger_url = ledger_url or f"sqlite:///{self.folder / 'ledger.sqlite3'}"
        intake_port, sandbox_port = free_ports(2)
        self.intake_url = f"http://127.0.0.1:{intake_port}"
        self.sandbox_url = f"http://127.0.0.1:{sandbox_port}"
        self.labdrive_url = labdrive_url or self.sandbox_url
        self._intake_port, self._sandbox_port = intake_port, sandbox_port
        self._on_step("sandbox LABDRIVE")
        self.sandbox = self._start_sandbox()
        self._on_step("ledger")
        self.run_command("ledger", "upgrade")
        self._on_step("intake")
        self.intake = self.start_intake()
        self._on_step("workers")
        for _ in range(workers):
            self.start_worker()

    @property
    def environ(self) -> dict[str, str]:
        """The environment in which every process of this service runs, and any further `hashmill` command can."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HASHMILL_")}
        return {
            **inherited,
            "HASHMILL_BROKER__URL": self.redis.url,
            "HASHMILL_BROKER__CELL": self._cell,
            "HASHMILL_LEDGER__URL": self.ledger_url,
            "HASHMILL_INTAKE__HOST": "127.0.0.1",
            "HASHMILL_INTAKE__PORT": str(self._intake_port),
            "HASHMILL_S3__ENDPOINT_URL": self.s3.endpoint_url,
            "HASHMILL_S3__REGION": self.s3.region,
            "HASHMILL_S3__BUCKET": self.bucket,
            "HASHMILL_S3__ACCESS_KEY_ID": self.s3.access_key_id,
            "HASHMILL_S3__SECRET_ACCESS_KEY": self.s3.secret_access_key,
            "HASHMILL_LABDRIVE__ALLOWED_ORIGINS": json.dumps([self.labdrive_url]),
            "HASHMILL_SECRETS__SEAL_KEY": self.seal_key,
            **self._extra,
        }

    def start_intake(self) -> Child:
        """Start the intake and return it once it answers."""
        child = self._child("intake", "intake")
        child.wait_until(lambda: self.get(f"{self.intake_url}/healthz") is not None)
        return child

    def start_worker(self, *, environ: Mapping[str, str] | None = None) -> Child:
        """Start one more worker process; it is ready a moment later."""
        child = self._child(f"worker-{next(self._numbers)}", "worker", "--slots", str(self.slots), environ=environ)
        self.workers.append(child)
        return child

    def start_dispatcher(self, *, environ: Mapping[str, str] | None = None) -> Child:
        """Start one more `hashmill dispatcher`, which leads when nobody else does."""
        child = self._child(f"dispatcher-{next(self._numbers)}", "dispatcher", environ=environ)
        self.workers.append(child)
        return child

    def run_command(self, *words: str) -> str:
        """Run `hashmill …` in this service's environment to its end and return what it printed.

        Raises `PartFailed` when it ends with anything but 0.
        """
        child = self._child(f"command-{next(self._numbers)}-{words[0]}", *words)
        ends_at = time.monotonic() + COMMAND_TIMEOUT_S
        while child.running:
            if time.monotonic() > ends_at:
                raise child.failure(f"did not end within {COMMAND_TIMEOUT_S:g} s")
            time.sleep(0.02)
        if child.exit_code:
            raise child.failure(f"ended with status {child.exit_code}")
        return child.log_path.read_text(errors="replace")

    def ask_sandbox(self, method: str, path: str, body: Any = None, *, key: str = ROOT_KEY) -> Any:
        """Call the sandbox LABDRIVE and return the `result` of its answer, or the whole answer when it has none."""
        answer = _call(method, f"{self.sandbox_url}{path}", body, {"Authorization": f"Bearer {key}"})
        return answer["result"] if isinstance(answer, dict) and "result" in answer else answer

    def post(self, event: Any, *, headers: Mapping[str, str] | None = None) -> Any:
        """Post an event to the intake and return its answer; an error answer is raised as `urllib.error.HTTPError`."""
        return _call("POST", f"{self.intake_url}/v1/events", event, headers or {})

    def get(self, url: str) -> Any:
        """Return the JSON at `url`, or its text, or None when nobody answers."""
        try:
            return _call("GET", url, None, {})
        except (urllib.error.URLError, OSError):
            return None

    def event(self, job_id: str, *, container_id: str = "1", **more: Any) -> dict[str, Any]:
        """Return an event of exactly the seed's shape for a job of the sandbox; `more` are its files and params."""
        return {
            "api": {"url": self.labdrive_url, "key_user": USER_KEY, "key_root": ROOT_KEY},
            "labdrive": {
                "container": {"id": container_id},
                "user": {"id": "2"},
                "files": {"ids": more.get("ids", []), "paths": more.get("paths", [])},
                "job": {"id": job_id},
                "trigger": {"id": "0", "type": "", "regex": ""},
                "function": {"id": "0", "key": ""},
            },
            "function_params": more.get("params", {}),
        }

    def researcher_environ(self, job_id: str, *, container_id: str = "1") -> dict[str, str]:
        """Return what stands in a notebook's environment: LABDRIVE, the S3 server, the intake, container and job."""
        return {
            "LIBNOVA_API_URL": self.labdrive_url,
            "LIBNOVA_API_KEY": USER_KEY,
            "LIBNOVA_S3_ENDPOINT_URL": self.s3.endpoint_url,
            "LIBNOVA_S3_BUCKET": self.bucket,
            "LIBNOVA_S3_ADDRESSING": "path",
            "AWS_ACCESS_KEY_ID": self.s3.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_access_key,
            "AWS_DEFAULT_REGION": self.s3.region,
            "HASHMILL_URL": self.intake_url,
            "HASHMILL_TOKEN": self.environ.get("HASHMILL_INTAKE__BEARER_TOKEN", ""),
            "EXAMPLE_CONTAINER": container_id,
            "EXAMPLE_JOB": job_id,
        }

    def stop(self) -> None:
        """Stop every process, the workers first so that they can drain."""
        for child in self.workers:
            child.send(signal.SIGTERM)
        for child in self.workers:
            child.stop()
        self._own.close()

    def _start_sandbox(self) -> Child:
        sheet = self.folder / "sandbox.toml"
        sheet.write_text(
            _SANDBOX.format(
                port=self._sandbox_port,
                database=self.folder / "sandbox.sqlite3",
                intake=self.intake_url,
                user_key=USER_KEY,
                root_key=ROOT_KEY,
                endpoint=self.s3.endpoint_url,
                bucket=self.bucket,
                region=self.s3.region,
                access=self.s3.access_key_id,
                secret=self.s3.secret_access_key,
                containers="\n".join(
                    f'[[containers]]\nid = "{number}"\nname = "Collection {number}"\nstorage_id = "1"\n'
                    for number in range(1, self._containers + 1)
                ),
            )
        )
        child = self._child("sandbox", "sandbox", "--config", str(sheet))
        child.wait_until(lambda: self.get(f"{self.sandbox_url}/") is not None)
        return child

    def _child(self, name: str, *words: str, environ: Mapping[str, str] | None = None) -> Child:
        child = Child(
            [sys.executable, "-m", "hashmill", *words],
            name=name,
            folder=self.folder,
            environ={**self.environ, **(environ or {})},
            grace_s=45.0,
        )
        self._own.callback(child.stop)
        return child


@contextlib.contextmanager
def local_service(folder: Path, **options: Any) -> Iterator[LocalService]:
    """Start a `LocalService` and stop it at the end, whatever happens."""
    service = LocalService(folder, **options)
    try:
        yield service
    finally:
        service.stop()


def _call(method: str, url: str, body: Any, headers: Mapping[str, str]) -> Any:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - loopback addresses we made ourselves
        url, data=data, method=method, headers={"Content-Type": "application/json", **headers}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        text = answer.read()
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


_SANDBOX = """\
host = "127.0.0.1"
port = {port}
database = "{database}"

[intake]
url = "{intake}/v1/events"

[[users]]
id = "1"
name = "root"
key = "{root_key}"
root = true

[[users]]
id = "2"
name = "researcher"
key = "{user_key}"

[[storages]]
id = "1"
endpoint_url = "{endpoint}"
bucket = "{bucket}"
region = "{region}"
access_key_id = "{access}"
secret_access_key = "{secret}"

{containers}
[[functions]]
id = "1"
key = "hashmill"
name = "Fixity check"
"""
