"""Airflow connection `warehouse` -> the warehouse of the jobs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, Connection

from penstock.hooks.connections import FALLBACKS, find_connection, find_connection_async, own_connection, required

if TYPE_CHECKING:
    from penstock.warehouse.session import Warehouse


class WarehouseHook(BaseHook):
    """The Postgres that Penstock writes to.

    :param warehouse_conn_id: a Postgres connection; `SUPABASE_DB_URL` stands in for a missing `warehouse`, and
        the ids of `connections.FALLBACKS` fall back to it.
    """

    conn_name_attr = "warehouse_conn_id"
    default_conn_name = "warehouse"
    conn_type = "postgres"
    hook_name = "Penstock warehouse"

    def __init__(self, warehouse_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.warehouse_conn_id = warehouse_conn_id

    @cached_property
    def warehouse(self) -> Warehouse:
        """The warehouse; no connection is opened before it is used. Raises CREDENTIAL_NOT_FOUND."""
        from penstock.warehouse.session import Warehouse

        return Warehouse(dsn_of(required(self.warehouse_conn_id, find_connection(self.warehouse_conn_id))))

    def get_conn(self) -> Any:
        """The warehouse, under the name that Airflow's hooks use."""
        return self.warehouse

    def test_connection(self) -> tuple[bool, str]:
        """Whether the warehouse answers, and what to do when it does not."""
        import psycopg

        from penstock.core.errors import PenstockError
        from penstock.warehouse.failures import classify

        try:
            with self.warehouse as warehouse, warehouse.connection() as conn:
                row = conn.execute("select current_database(), current_setting('server_version')").fetchone()
        except PenstockError as exc:
            return False, f"{exc} {exc.remedy}"
        except psycopg.Error as exc:
            failure = classify(exc)
            return False, f"{failure} {failure.remedy}"
        database, version = row or ("?", "?")
        return True, f"database {database}, Postgres {version}"


def dsn_of(connection: Connection) -> str:
    """A libpq connection string. Extras that libpq does not know (a hook's own settings) are left out."""
    from psycopg.conninfo import make_conninfo
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    extra = {key: value for key, value in connection.extra_dejson.items() if key in known and value not in (None, "")}
    parts = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema,
    }
    return make_conninfo(**extra, **{key: value for key, value in parts.items() if value})


def databases() -> dict[str, str]:
    """Connection id -> connection string, of the warehouse and of every concern with a database of its own."""
    found = {"warehouse": dsn_of(required("warehouse", find_connection("warehouse")))}
    own = {conn_id: own_connection(conn_id) for conn_id in FALLBACKS}
    return found | {conn_id: dsn_of(connection) for conn_id, connection in own.items() if connection}


async def warehouse_dsn(conn_id: str) -> str:
    """The connection string, read without blocking the triggerer's loop. Raises CREDENTIAL_NOT_FOUND."""
    return dsn_of(required(conn_id, await find_connection_async(conn_id)))
