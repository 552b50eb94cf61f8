"""Which migration sets a database needs: every concern may have one of its own, and all may share the warehouse."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

WAREHOUSE_VARIABLES = ("WAREHOUSE_URL", "SUPABASE_DB_URL", "DATABASE_URL")
"""Where the environment names the warehouse: our variable first, then those of the old workers."""

DSN_VARIABLES = ("PENSTOCK_WAREHOUSE_DSN", *WAREHOUSE_VARIABLES)
"""Where a command finds its database: the first may be set for commands alone."""

SHARED_SETS = ("ops", "accounts")
"""What every database needs: the ledger of limits and credentials, and the registry of accounts."""

CONCERN_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "warehouse": ("platform_etl",),
        "agency_db": ("agency", "notifications", "metrics", "retention"),
        "apps_db": ("apps",),
        "calendar_db": ("calendar",),
        "nivoda_db": ("nivoda",),
    }
)
"""Airflow connection -> the sets of the concerns that work in its database, in the order of their dependencies."""

ALL_SETS = (*SHARED_SETS, *(name for sets in CONCERN_SETS.values() for name in sets))
"""What a database needs in which all concerns live."""


def dsn_of_environment(environment: Mapping[str, str], *own: str) -> str | None:
    """The database that the environment of a command names.

    own: variables that come before those of the warehouse.
    """
    return next(filter(None, map(environment.get, (*own, *DSN_VARIABLES))), None)


def sets_by_database(database_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Database -> the sets it needs.

    database_of: connection id -> its database, in any notation in which equal means the same one; a connection of
    `CONCERN_SETS` that is left out has no database of its own and shares the warehouse's.
    """
    needed: dict[str, tuple[str, ...]] = {}
    for conn_id, sets in CONCERN_SETS.items():
        database = database_of.get(conn_id, database_of["warehouse"])
        needed[database] = needed.get(database, SHARED_SETS) + sets
    return needed
