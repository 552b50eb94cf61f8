"""What every start of the compose file does to Airflow's own settings."""

from __future__ import annotations

import pytest

from stack import deployment
from stack.settings import Connection, Settings


def settings(token: str) -> Settings:
    """The settings of a deployment whose .env holds this token."""
    return Settings(
        connections=(
            Connection("edited_in_the_ui", {"conn_type": "generic", "password": token}),
            Connection("left_alone", {"conn_type": "generic", "password": token}),
        ),
        pools={"edited_pool": {"slots": 4, "description": "", "include_deferred": False}},
        variables={"EDITED_CHANNEL": "#data-alerts"},
    )


def edit_in_the_ui(password: str) -> None:
    """A token, the slots of a pool and the channel of the alerts."""
    from airflow.models.connection import Connection as StoredConnection
    from airflow.models.pool import Pool
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        of_a_person = StoredConnection.conn_id == "edited_in_the_ui"
        session.scalars(select(StoredConnection).where(of_a_person)).one().set_password(password)
        session.scalars(select(Pool).where(Pool.pool == "edited_pool")).one().slots = 2
        session.scalars(select(Variable).where(Variable.key == "EDITED_CHANNEL")).one().set_val("#on-call")


def stored() -> tuple[dict[str, str | None], int, str | None]:
    """The passwords of both connections, the pool's slots, the channel."""
    from airflow.models.connection import Connection as StoredConnection
    from airflow.models.pool import Pool
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        ours = StoredConnection.conn_id.in_(("edited_in_the_ui", "left_alone"))
        passwords = {each.conn_id: each.password for each in session.scalars(select(StoredConnection).where(ours))}
        slots = session.scalars(select(Pool).where(Pool.pool == "edited_pool")).one().slots
        channel = session.scalars(select(Variable).where(Variable.key == "EDITED_CHANNEL")).one().get_val()
        return passwords, slots, channel


@pytest.mark.usefixtures("airflow_metadata")
def test_what_was_edited_in_the_ui_outlives_the_next_start_until_the_settings_change() -> None:
    assert deployment.import_settings(settings("first")) == 0
    edit_in_the_ui("from the vendor's page")

    assert deployment.import_settings(settings("first")) == 0
    edited = {"edited_in_the_ui": "from the vendor's page", "left_alone": "first"}
    assert stored() == (edited, 2, "#on-call")

    assert deployment.import_settings(settings("second")) == 0
    assert stored() == ({"edited_in_the_ui": "second", "left_alone": "second"}, 2, "#on-call")
