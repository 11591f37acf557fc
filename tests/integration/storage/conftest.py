"""A storage with little patience, and the double that it reads."""

from collections.abc import AsyncIterator

import pytest

from hashmill.storage.client import Storage
from tests.helpers.faulty_s3 import FaultyS3
from tests.helpers.storage_reads import BODY, IMPATIENT, storage_of


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with storage_of() as storage:
        yield storage


@pytest.fixture
async def impatient() -> AsyncIterator[Storage]:
    async with storage_of(IMPATIENT) as storage:
        yield storage


@pytest.fixture
async def server() -> AsyncIterator[FaultyS3]:
    async with FaultyS3(BODY) as server:
        yield server
