"""The real servers of a test run: where they keep their files, and which of them came from outside."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hashmill.parts.postgres import Databases, start_postgres

POSTGRES_VARIABLE = "HASHMILL_TEST_POSTGRES_URL"


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """Yield an empty folder with a short path (a Unix socket's path ends at 107 bytes), and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"hm-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres() -> Iterator[Databases]:
    """Yield the server that HASHMILL_TEST_POSTGRES_URL names, or else one of our own."""
    if named := os.environ.get(POSTGRES_VARIABLE):
        yield Databases(named)
        return
    with work_folder("pg") as folder, start_postgres(folder) as server:
        yield server
