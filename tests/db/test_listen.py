"""LISTEN: every enqueued run wakes the listener, whatever happened to its connection meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from penstock.warehouse.listen import listen
from stack.postgres import EmbeddedPostgres

from .pooler import pooler

CHANNEL = "penstock_etl_runs"
ENQUEUE = (
    "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform)"
    " values (gen_random_uuid()::text, 'QUEUED', 'INCREMENTAL', 'META')"
)


async def following(events: AsyncIterator[str], seconds: float = 10) -> str:
    return await asyncio.wait_for(anext(events), seconds)


async def nothing_follows(events: AsyncIterator[str], seconds: float) -> bool:
    """Ends the generator when true."""
    try:
        await asyncio.wait_for(anext(events), seconds)
    except TimeoutError:
        return True
    return False


def run(dsn: str, statement: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


def test_a_bare_insert_of_a_dashboard_wakes_the_listener_within_a_second(fresh_database: str) -> None:
    async def scenario() -> float:
        events = listen(fresh_database, CHANNEL)
        assert await following(events) == "connected"
        waiting = asyncio.create_task(following(events))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await asyncio.to_thread(run, fresh_database, ENQUEUE)
        assert await waiting == "notified"
        took = time.monotonic() - began
        await events.aclose()  # type: ignore[attr-defined]
        return took

    assert asyncio.run(scenario()) < 1


def test_notifications_that_come_together_are_one_and_none_is_lost_between_two_looks(fresh_database: str) -> None:
    async def scenario() -> None:
        events = listen(fresh_database, CHANNEL)
        await following(events)
        run(fresh_database, "; ".join([ENQUEUE] * 20))  # while nobody looks
        assert await following(events) == "notified"
        assert await nothing_follows(events, 0.3)

    asyncio.run(scenario())


def test_a_run_put_back_into_the_queue_wakes_too_and_other_changes_do_not(fresh_database: str) -> None:
    async def scenario() -> None:
        run(fresh_database, ENQUEUE.replace("QUEUED", "IN_PROGRESS"))
        events = listen(fresh_database, CHANNEL)
        await following(events)
        run(fresh_database, "update core_warehouse.etl_runs set status = 'QUEUED'")
        assert await following(events) == "notified"
        run(fresh_database, "update core_warehouse.etl_runs set heartbeat_at = now()")
        run(fresh_database, "update core_warehouse.etl_runs set status = 'FAILED'")
        assert await nothing_follows(events, 0.3)

    asyncio.run(scenario())


def test_after_a_dropped_connection_it_says_so_and_listens_again(fresh_database: str) -> None:
    async def scenario() -> None:
        events = listen(fresh_database, CHANNEL)
        await following(events)
        waiting = asyncio.create_task(following(events))
        await asyncio.sleep(0.05)
        victims = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'penstock-listen'"
        assert await asyncio.to_thread(run, fresh_database, victims) == [(True,)]
        assert await waiting == "connected"  # what was notified meanwhile is lost: the consumer looks at the table
        await asyncio.to_thread(run, fresh_database, ENQUEUE)
        assert await following(events) == "notified"
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_a_wrong_database_is_told_at_once(postgres_server: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            await following(listen(postgres_server.dsn("nowhere"), CHANNEL))

    asyncio.run(scenario())


def test_a_channel_may_have_any_name(fresh_database: str) -> None:
    async def scenario() -> None:
        events = listen(fresh_database, 'Odd "name"; drop')
        await following(events)
        run(fresh_database, "select pg_notify('Odd \"name\"; drop', '')")
        assert await following(events) == "notified"
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_behind_a_transaction_pooler_it_yields_once_says_why_and_waits(
    fresh_database: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.warehouse.listen.ECHO_SECONDS", 0.3)

    async def scenario(dsn: str) -> None:
        events = listen(dsn, CHANNEL)
        assert await following(events) == "connected"
        run(fresh_database, ENQUEUE)
        assert await nothing_follows(events, 0.5)

    with caplog.at_level(logging.WARNING), pooler(fresh_database, is_transaction_mode=True) as dsn:
        asyncio.run(scenario(dsn))
    assert [record.message for record in caplog.records].count(
        "a transaction pooler passes no notifications from the database: sweep only"
    ) == 1


def test_behind_a_session_pooler_it_listens(fresh_database: str) -> None:
    async def scenario(dsn: str) -> None:
        events = listen(dsn, CHANNEL)
        assert await following(events) == "connected"
        run(fresh_database, ENQUEUE)
        assert await following(events) == "notified"
        await events.aclose()  # type: ignore[attr-defined]

    with pooler(fresh_database, is_transaction_mode=False) as dsn:
        asyncio.run(scenario(dsn))
