"""docs/reference/tables.md matches the migrations."""

from deploy.documents.pages import REFERENCE, TABLES, parts_of
from deploy.documents.tables import migrated_tables


async def test_the_page_of_tables_matches_the_migrations(fresh_database: str) -> None:
    page = (REFERENCE / "tables.md").read_text()

    assert parts_of(page)[TABLES] == await migrated_tables(fresh_database), "run `make docs`"
