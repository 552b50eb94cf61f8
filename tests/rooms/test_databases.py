"""Which sets go into which database."""

from __future__ import annotations

import pytest

from penstock.core.databases import (
    ALL_SETS,
    CONCERN_SETS,
    DSN_VARIABLES,
    SHARED_SETS,
    dsn_of_environment,
    sets_by_database,
)
from penstock.jobs.calendar_outbox import __main__ as calendar_outbox
from penstock.jobs.notifications import __main__ as notifications
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


def test_a_command_takes_the_first_variable_that_is_set() -> None:
    assert dsn_of_environment({}) is None
    for number, name in enumerate(DSN_VARIABLES):
        assert dsn_of_environment({each: each for each in DSN_VARIABLES[number:]}) == name
    assert dsn_of_environment({"PENSTOCK_WAREHOUSE_DSN": "", "DATABASE_URL": "old"}) == "old"
    assert dsn_of_environment({"PENSTOCK_WAREHOUSE_DSN": "all", "OWN": "own"}, "OWN") == "own"


@pytest.mark.parametrize("name", DSN_VARIABLES)
def test_the_commands_of_the_queues_know_every_name_of_the_warehouse(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (calendar_outbox.OWN_VARIABLE, *DSN_VARIABLES):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "postgresql://warehouse.example/dwh")
    assert notifications.parse(["health"]).dsn == "postgresql://warehouse.example/dwh"
    assert calendar_outbox.parse(["list"]).dsn == "postgresql://warehouse.example/dwh"
