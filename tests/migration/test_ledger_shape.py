"""The migrations build exactly the tables the code knows, forwards, backwards, again, and by one at a time."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from hashmill.assemble import migrations_home, require_head
from hashmill.domain.errors import ConfigFault
from hashmill.ledger import migrate
from hashmill.ledger.engine import Ledger
from hashmill.ledger.tables import metadata
from hashmill.ledger.tables import shape as shape_table
from tests.helpers.ledger import MIGRATIONS, accept_run, get_run

INSERT_ONLY = ("entries", "positions")


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty database: no table yet."""
    opened = Ledger(ledger_url)
    yield opened
    opened.close()


def upgrade(ledger: Ledger, revision: str = "head") -> tuple[str | None, str | None]:
    return migrate.upgrade(ledger.engine, MIGRATIONS, revision)


def downgrade(ledger: Ledger, revision: str) -> None:
    def down(connection: sa.Connection) -> None:
        command.downgrade(migrate.alembic_config(MIGRATIONS, connection), revision)

    ledger.write_now(down)


def tables(ledger: Ledger) -> set[str]:
    return set(sa.inspect(ledger.engine).get_table_names())


def shape(ledger: Ledger) -> dict[str, object]:
    """Return what the database says of itself: columns, keys, indexes, triggers."""
    inspector = sa.inspect(ledger.engine)
    told: dict[str, object] = {}
    for table in sorted(inspector.get_table_names()):
        told[table] = (
            [(column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(
                (index["name"], str(index["column_names"]), index["unique"]) for index in inspector.get_indexes(table)
            ),
            sorted(str(unique) for unique in inspector.get_unique_constraints(table)),
            sorted(str(key) for key in inspector.get_foreign_keys(table)),
        )
    told["triggers"] = triggers(ledger)
    return told


def triggers(ledger: Ledger) -> list[str]:
    def named(connection: sa.Connection) -> list[str]:
        statement = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if connection.dialect.name == "postgresql":
            statement = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
        return sorted(connection.execute(sa.text(statement)).scalars())

    return ledger.read_now(named)


def head() -> str:
    newest = migrate.head(MIGRATIONS)
    assert newest is not None
    return newest


def test_the_newest_revision_is_what_the_code_says_the_tables_are(ledger: Ledger) -> None:
    upgrade(ledger)

    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, metadata)

    assert differences == []


def test_partial_indexes_have_the_conditions_the_code_says(ledger: Ledger) -> None:
    """Alembic does not compare them."""
    upgrade(ledger)
    dialect = ledger.engine.dialect.name

    def plain(condition: object) -> list[str]:
        words = re.findall(r"[a-z_]+|[<>]|[0-9]+", str(condition).casefold())
        return sorted(set(words) - {"text", "character", "varying", "any", "array", "in"})

    found = {
        index["name"]: plain(index["dialect_options"][f"{dialect}_where"])
        for table in tables(ledger)
        for index in sa.inspect(ledger.engine).get_indexes(table)
        if index.get("dialect_options", {}).get(f"{dialect}_where") is not None
    }
    wanted = {
        index.name: plain(index.dialect_options[dialect]["where"])
        for table in metadata.tables.values()
        for index in table.indexes
        if index.dialect_options[dialect]["where"] is not None
    }
    assert found == wanted


def test_upgrading_says_from_where_to_where_and_twice_is_once(ledger: Ledger) -> None:
    assert upgrade(ledger) == (None, head())
    before = shape(ledger)

    assert upgrade(ledger) == (head(), head())
    assert shape(ledger) == before


def test_down_to_nothing_and_up_again_is_the_same(ledger: Ledger) -> None:
    upgrade(ledger)
    before = shape(ledger)

    downgrade(ledger, "base")
    between = tables(ledger) - {"alembic_version"}
    upgrade(ledger)

    assert between == set()
    assert shape(ledger) == before


@pytest.mark.parametrize(
    "revision", [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]
)
def test_each_revision_can_be_stepped_back_from_and_onto_again(ledger: Ledger, revision: str) -> None:
    upgrade(ledger, revision)
    before = shape(ledger)

    downgrade(ledger, "-1")
    upgrade(ledger, revision)

    assert shape(ledger) == before


def test_an_upgrade_keeps_what_is_written(ledger: Ledger) -> None:
    upgrade(ledger)
    run = accept_run(ledger)

    upgrade(ledger)

    assert get_run(ledger, run.run_id) == run


def test_upgrades_started_together_take_turns(ledger: Ledger, ledger_url: str) -> None:
    def start(_: int) -> tuple[str | None, str | None]:
        own = Ledger(ledger_url)
        try:
            return upgrade(own)
        finally:
            own.close()

    with ThreadPoolExecutor(4) as pool:
        answers = sorted(pool.map(start, range(4)), key=str)

    assert answers == [(head(), head())] * 3 + [(None, head())]


def test_an_upgrade_that_fails_in_the_middle_leaves_nothing_behind(ledger: Ledger) -> None:
    ledger.write_now(lambda connection: connection.execute(sa.text("CREATE TABLE secrets (x INTEGER)")))

    with pytest.raises(Exception, match="already exists"):
        upgrade(ledger)

    assert tables(ledger) == {"secrets"}


def test_a_ledger_that_is_not_at_this_versions_shape_is_refused_with_what_to_do(ledger: Ledger) -> None:
    with pytest.raises(ConfigFault, match=r"is at nothing.*hashmill ledger upgrade"):
        require_head(ledger)

    upgrade(ledger)
    require_head(ledger)
    ledger.write_now(lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'")))

    with pytest.raises(ConfigFault, match=rf"is at 0000.*needs {head()}.*hashmill ledger upgrade"):
        require_head(ledger)


def test_both_databases_refuse_changes_of_what_is_insert_only(ledger: Ledger) -> None:
    upgrade(ledger)

    for table in INSERT_ONLY:
        assert len([name for name in triggers(ledger) if name.startswith(table)]) >= 2


def test_revisions_are_numbered_in_order_without_a_fork() -> None:
    revisions = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]

    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    assert Path(MIGRATIONS) == migrations_home()


def test_a_migration_imports_nothing_that_will_change() -> None:
    for path in (MIGRATIONS / "versions").glob("*.py"):
        assert "hashmill" not in path.read_text().replace("hashmill_insert_only", "")


def test_an_older_process_may_work_on_a_newer_ledger_that_says_so(ledger: Ledger, tmp_path: Path) -> None:
    """Old and new processes work side by side while they are replaced; a new one never on an old ledger."""
    older = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, older, ignore=shutil.ignore_patterns("__pycache__", f"{head()}_*"))
    upgrade(ledger, migrate.head(older) or "")

    assert ledger.read_now(migrate.fits, older)
    assert not ledger.read_now(migrate.fits, MIGRATIONS)

    upgrade(ledger)
    assert ledger.read_now(migrate.fits, older)
    assert ledger.read_now(migrate.fits, MIGRATIONS)

    ledger.write_now(lambda connection: connection.execute(sa.update(shape_table).values(works_from=head())))
    assert not ledger.read_now(migrate.fits, older)
    assert ledger.read_now(migrate.fits, MIGRATIONS)


def test_the_newest_revision_is_found_without_alembic() -> None:
    scripts = ScriptDirectory.from_config(migrate.alembic_config(MIGRATIONS))

    assert migrate.head(MIGRATIONS) == scripts.get_current_head()
    assert all(Path(script.path).stem.startswith(f"{script.revision}_") for script in scripts.walk_revisions())
