"""
moto's S3 server, as a child process: it stores the checksums that the real parts do not.

What it lacks, as of 5.2: it tells no sizes of parts (`GetObjectAttributes`), a HEAD of an object of parts does not say
that its checksum is over the parts, its CRC32C over parts is a CRC32, and it verifies nothing. `faulty_s3` plays these.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from hashmill.domain.secret import Secret
from hashmill.parts.process import Child, answers, free_ports
from hashmill.storage.config import StorageConfig
from tests.helpers.servers import work_folder

BUCKET = "bucket"
KEY_ID, SECRET_KEY = "key", "secret"


class MotoS3:
    """The running server."""

    def __init__(self, port: int) -> None:
        self.config = StorageConfig(
            endpoint_url=f"http://127.0.0.1:{port}", access_key_id=KEY_ID, secret_access_key=Secret(SECRET_KEY)
        )

    def client(self) -> Any:
        """Return a blocking client that adds no checksum of its own accord."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.config.endpoint_url,
            region_name=self.config.region,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET_KEY,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


@contextmanager
def running_moto() -> Iterator[MotoS3]:
    """Yield the server, with one bucket, and stop it at the end."""
    with work_folder("moto") as folder:
        (port,) = free_ports(1)
        child = Child(
            [Path(sys.executable), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], name="moto", folder=folder
        )
        try:
            child.wait_until(lambda: answers(port))
            server = MotoS3(port)
            client = server.client()
            client.create_bucket(Bucket=BUCKET)
            client.close()
            yield server
        finally:
            child.stop()
