"""Which sets go into which database."""

from __future__ import annotations

from penstock.core.databases import ALL_SETS, CONCERN_SETS, SHARED_SETS, sets_by_database
from penstock.warehouse.queries import sql_root


def test_one_database_holds_everything_in_order() -> None:
    assert sets_by_database({"warehouse": "one"}) == {"one": ALL_SETS}


def test_a_concern_with_a_database_of_its_own_is_set_up_there_and_not_in_the_warehouse() -> None:
    found = sets_by_database({"warehouse": "one", "nivoda_db": "two"})
    assert found["two"] == (*SHARED_SETS, "nivoda")
    assert "nivoda" not in found["one"]
    assert set(found["one"]) == set(ALL_SETS) - {"nivoda"}


def test_two_concerns_that_share_another_database_are_set_up_there_once() -> None:
    found = sets_by_database({"warehouse": "one", "apps_db": "two", "calendar_db": "two"})
    assert found["two"] == (*SHARED_SETS, "apps", "calendar")


def test_every_folder_of_migrations_belongs_to_a_database() -> None:
    folders = {path.parent.name for path in sql_root().glob("*/migrations")}
    assert folders == set(ALL_SETS)
    assert set(CONCERN_SETS) == {"warehouse", "agency_db", "apps_db", "calendar_db", "nivoda_db"}
