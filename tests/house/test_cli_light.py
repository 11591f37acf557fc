"""Asking the command line for help does not open the house."""

import subprocess
import sys

HEAVY = ("sqlalchemy", "alembic", "celery", "kombu", "aiohttp", "aiobotocore", "botocore", "pydantic", "cryptography")


def test_the_commands_names_and_help_need_none_of_the_heavy_libraries() -> None:
    program = f"import sys, hashmill.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout.strip() == "[]"
