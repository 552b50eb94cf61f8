"""The trigger that starts the queue's DAG."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from penstock.triggers.postgres_listen import PostgresListenTrigger

pytestmark = [pytest.mark.dags, pytest.mark.db]

CHANNEL = "penstock_etl_runs"
SOON = 5.0


@pytest.fixture
def trigger(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> PostgresListenTrigger:
    monkeypatch.setenv("SUPABASE_DB_URL", fresh_database)
    return PostgresListenTrigger("warehouse", CHANNEL, quiet_seconds=0.3)


async def notify(dsn: str, times: int = 1) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for _ in range(times):
            await connection.execute(f"notify {CHANNEL}")


async def next_event(events: AsyncIterator[Any], seconds: float = SOON) -> Any:
    return await asyncio.wait_for(anext(events), seconds)


async def is_silent(events: AsyncIterator[Any], seconds: float = 1.0) -> bool:
    """Whether nothing comes for so long. It ends the iterator: a cancelled one cannot go on."""
    try:
        await next_event(events, seconds)
    except TimeoutError:
        return True
    return False


def test_it_fires_when_it_starts_and_for_every_notification(
    trigger: PostgresListenTrigger, fresh_database: str
) -> None:
    async def scenario() -> list[Any]:
        events = trigger.run()
        fired = [await next_event(events)]
        await notify(fresh_database)
        fired.append(await next_event(events))
        return fired

    assert [event.payload for event in asyncio.run(scenario())] == [{"channel": CHANNEL}] * 2


def test_a_row_in_the_queue_fires_it(trigger: PostgresListenTrigger, fresh_database: str) -> None:
    insert = (
        "insert into core_warehouse.etl_runs (shop_id, status, job_type, platform) "
        "values ('aurora', 'QUEUED', 'INCREMENTAL', 'META')"
    )

    async def scenario() -> Any:
        events = trigger.run()
        await next_event(events)
        async with await psycopg.AsyncConnection.connect(fresh_database, autocommit=True) as connection:
            await connection.execute(insert)
        return await next_event(events)

    assert asyncio.run(scenario()).payload == {"channel": CHANNEL}


def test_a_burst_is_one_event_or_two_and_the_last_notification_is_never_lost(
    trigger: PostgresListenTrigger, fresh_database: str
) -> None:
    async def scenario() -> int:
        events = trigger.run()
        await next_event(events)
        await notify(fresh_database, times=200)
        count = 0
        while not await is_silent(events):
            count += 1
        return count

    count = asyncio.run(scenario())
    assert 1 <= count <= 2


def test_it_goes_on_after_the_server_dropped_its_connection(
    trigger: PostgresListenTrigger, fresh_database: str
) -> None:
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where application_name = 'penstock-listen' and datname = current_database()"
    )

    async def scenario() -> int:
        events = trigger.run()
        await next_event(events)
        async with await psycopg.AsyncConnection.connect(fresh_database, autocommit=True) as connection:
            row = await (await connection.execute(kill)).fetchone()
        # One event for the reconnect, because nobody knows what was notified meanwhile; then it listens again.
        await next_event(events)
        await notify(fresh_database)
        await next_event(events)
        return int(row[0]) if row else 0

    assert asyncio.run(scenario()) == 1


def test_it_waits_for_a_connection_that_does_not_exist_yet(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = PostgresListenTrigger("warehouse", CHANNEL)

    async def scenario() -> Any:
        events = trigger.run()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.3)
        assert not first.done()
        monkeypatch.setenv("SUPABASE_DB_URL", fresh_database)
        return await asyncio.wait_for(first, SOON)

    assert asyncio.run(scenario()).payload == {"channel": CHANNEL}


def test_it_serialises_without_any_secret() -> None:
    path, kwargs = PostgresListenTrigger("warehouse", CHANNEL, quiet_seconds=2.0).serialize()
    assert path == "penstock.triggers.postgres_listen.PostgresListenTrigger"
    assert kwargs == {"conn_id": "warehouse", "channel": CHANNEL, "quiet_seconds": 2.0}
