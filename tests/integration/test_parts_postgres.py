"""PostgreSQL as a child process."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy

from hashmill.parts.postgres import Databases, Postgres, start_postgres
from tests.helpers.servers import work_folder


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """Not the one of the test run, which may have come from outside."""
    with work_folder("pg") as folder, start_postgres(folder) as server:
        yield server


def value(url: str, statement: str) -> object:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def test_a_ledger_url_is_an_empty_database(ledger_url: str) -> None:
    assert value(ledger_url, "SELECT 1") == 1


def test_two_fresh_databases_do_not_see_each_other(postgres: Databases) -> None:
    one, other = postgres.fresh_database(), postgres.fresh_database()

    value(one, "CREATE TABLE seen AS SELECT 1 AS x")

    assert value(one, "SELECT to_regclass('seen')::text") == "seen"
    assert value(other, "SELECT to_regclass('seen')::text") is None
    postgres.drop_database(one)
    postgres.drop_database(other)


def test_committed_rows_are_there_after_a_kill_and_a_restart(own: Postgres) -> None:
    url = own.fresh_database()
    value(url, "CREATE TABLE kept AS SELECT 7 AS x")
    own.kill()
    own.restart()

    assert value(url, "SELECT x FROM kept") == 7


def test_nobody_gets_in_without_the_password(own: Postgres) -> None:
    at = urlsplit(own.url)

    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=at.hostname, port=at.port, user="postgres", password="guess", dbname="postgres")
