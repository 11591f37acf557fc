"""Which bucket and key a file's bytes are under, and the client that reads them."""

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, InvalidS3AddressingStyleError, ProfileNotFound

from libnova import _table
from libnova.errors import SettingMissing
from libnova.Labdrive.Api import Container
from libnova.Labdrive.Api.File import File

__all__ = ["Storage"]

CONNECT_S: Final = 10
READ_S: Final = 60
TRIES: Final = 5
REGION: Final = "us-east-1"
"""What servers other than AWS take, when nobody names a region (assumed)."""


class Storage:
    """The S3 server of a request's files; `bucket` is that of the files (known).

    Nothing is asked before the first file is read.
    """

    def __init__(
        self,
        *,
        bucket: str = "",
        endpoint_url: str = "",
        report: Callable[[File, str], None] | None = None,
    ) -> None:
        """LIBNOVA_S3_BUCKET and LIBNOVA_S3_ENDPOINT_URL win. `report` is told of each file that could not be read."""
        self.bucket = os.environ.get("LIBNOVA_S3_BUCKET") or bucket
        self.endpoint_url = os.environ.get("LIBNOVA_S3_ENDPOINT_URL") or endpoint_url
        self.report = report
        self._storage_ids: dict[str, str] = {}
        self._asked_for: set[str] = set()

    def __repr__(self) -> str:
        """Return bucket and address, never a key."""
        return f"Storage(bucket={self.bucket!r}, endpoint_url={self.endpoint_url!r})"

    @cached_property
    def client(self) -> Any:
        """The S3 client. Raises `SettingMissing` for an address, style or profile that is none."""
        try:
            return self._made()
        except ProfileNotFound as error:
            raise SettingMissing(
                f"There is no S3 client to be had: {error}. AWS_PROFILE names a profile of ~/.aws: set it to one "
                "that is there, or unset it and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from error
        except InvalidS3AddressingStyleError as error:
            raise SettingMissing("LIBNOVA_S3_ADDRESSING is one of path, virtual, auto.") from error
        except (BotoCoreError, ValueError) as error:
            raise SettingMissing(
                f"There is no S3 client to be had: {error}. LIBNOVA_S3_ENDPOINT_URL is http://host:port or https://host."
            ) from error

    def _made(self) -> Any:
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": TRIES},
            s3={"addressing_style": os.environ.get("LIBNOVA_S3_ADDRESSING") or "auto"},
            # The bytes are for the reader to judge; a checksum that the server stores is no reason to read them twice.
            response_checksum_validation="when_required",
            request_checksum_calculation="when_required",
        )
        session = botocore.session.get_session()
        region = session.get_config_variable("region") or REGION
        return session.create_client("s3", endpoint_url=self.endpoint_url or None, region_name=region, config=config)

    def raise_if_missing(self, bucket: str) -> None:
        """Raise `SettingMissing` when the server says that there is no such bucket; asked once for each.

        LABDRIVE's keys may not be allowed to ask (assumed): then nothing is raised.
        """
        if bucket in self._asked_for:
            return
        try:
            self.client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                raise SettingMissing(
                    f"There is no bucket {bucket} in the S3 server ({self.endpoint_url or 'AWS'}). Are "
                    "LIBNOVA_S3_BUCKET and LIBNOVA_S3_ENDPOINT_URL right? Ask who runs your LABDRIVE for both."
                ) from error
        except BotoCoreError:
            return  # the network went; the object was missing all the same
        self._asked_for.add(bucket)

    def place_of(self, file: File) -> tuple[str, str]:
        """Return bucket and key of the file, by the lines [objects] of the table.

        Raises `SettingMissing` when a line asks for the bucket and none was named; else what a call raises.
        """
        table = _table.table()
        needed = table.places("objects.bucket") | table.places("objects.key")
        values = {"bucket": self.bucket, "container_id": file.container_id, "path": file.path, "file_id": file.id}
        if "bucket" in needed and not self.bucket:
            raise SettingMissing(
                "There is no bucket: set LIBNOVA_S3_BUCKET. Buckets cannot be listed with LABDRIVE's keys; ask who "
                "runs your LABDRIVE for the name of the storage's bucket."
            )
        if "storage_id" in needed:
            values["storage_id"] = self._storage_id(file.container_id)
        return table.filled("objects.bucket", values), table.filled("objects.key", values)

    def _storage_id(self, container_id: str) -> str:
        if container_id not in self._storage_ids:
            field = _table.table().value("container.storage_id")
            self._storage_ids[container_id] = str(Container.get(container_id).get(field, ""))
        return self._storage_ids[container_id]
