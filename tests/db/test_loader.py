"""Staging: what changed is written, what did not change is not touched, what cannot be stored is handed back."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from penstock.sources.stream import Row
from penstock.warehouse import loader
from penstock.warehouse.loader import Prepared, Rejected, StageResult, reject, stage
from penstock.warehouse.session import Warehouse

Connection = psycopg.Connection[Any]
DAY = dt.date(2026, 11, 1)
ACCOUNT = uuid.uuid4()
TABLE = "staging_ingest.klaviyo_events"


def row(key: str, value: Any = 1, day: dt.date | None = DAY, cursor: str | None = None) -> Row:
    return Row(key, day, cursor, {"id": key, "value": value})


def load(connection: Connection, rows: list[Row], **changed: Any) -> StageResult:
    settings: dict[str, Any] = {
        "table": "klaviyo_events",
        "run_id": uuid.uuid4(),
        "slice_no": 1,
        "connection_id": ACCOUNT,
        "report_key": "events",
        "page_no": 0,
        "track_keys": False,
    }
    prepared = Prepared()
    prepared.add(rows)
    return stage(connection, prepared=prepared, **{**settings, **changed})


def stored(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(f"select record_key, payload -> 'value' from {TABLE} order by record_key").fetchall()


@pytest.fixture
def connection(warehouse: Warehouse) -> Connection:
    with warehouse.connection() as opened:
        opened.execute(f"alter table {TABLE} set (autovacuum_enabled = false)")
        return opened


def test_new_rows_land_with_everything_the_envelope_has(connection: Connection) -> None:
    run_id = uuid.uuid4()
    result = load(
        connection, [row("a", "ü", cursor="2026-11-01T10:00:00Z"), row("b", None, None)], run_id=run_id, slice_no=7
    )
    assert (result.written, result.unchanged, result.duplicates, result.rejected) == (2, 0, 0, [])
    rows = connection.execute(
        "select run_id, slice_no, connection_id, report_key, record_key, record_date, cursor_value, payload,"
        f" length(payload_hash), ingested_at is not null from {TABLE} order by record_key"
    ).fetchall()
    origin = (run_id, 7, ACCOUNT, "events")
    assert rows == [
        (*origin, "a", DAY, "2026-11-01T10:00:00Z", {"id": "a", "value": "ü"}, 16, True),
        (*origin, "b", None, None, {"id": "b", "value": None}, 16, True),
    ]


@pytest.mark.parametrize("day", [dt.date(1, 1, 1), dt.date(1999, 12, 31), dt.date(2000, 1, 1), dt.date(9999, 12, 31)])
def test_every_date_arrives_as_it_is(connection: Connection, day: dt.date) -> None:
    load(connection, [row("a", day=day)])
    assert connection.execute(f"select record_date::text from {TABLE}").fetchall() == [
        (f"{day:%Y}".zfill(4) + f"{day:-%m-%d}",)
    ]


def test_the_same_page_again_writes_nothing(connection: Connection) -> None:
    page = [row(f"k{number}", number) for number in range(500)]
    load(connection, page)
    connection.execute("checkpoint")
    before = connection.execute(f"select xmin, ctid, ingested_at, run_id from {TABLE} order by record_key").fetchall()
    size, wal = _size_and_wal(connection)
    result = load(connection, page)
    assert (result.written, result.unchanged) == (0, 500)
    assert (
        connection.execute(f"select xmin, ctid, ingested_at, run_id from {TABLE} order by record_key").fetchall()
        == before
    )
    size_after, wal_after = _size_and_wal(connection)
    assert size_after == size
    assert wal_after - wal < 500 * 4  # a commit record or two; an upsert would write 59 bytes a row and the page images


def _size_and_wal(connection: Connection) -> tuple[int, int]:
    row = connection.execute(
        f"select pg_total_relation_size('{TABLE}'), pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_only_changed_rows_are_written_again(connection: Connection) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    load(connection, [row("a", 1), row("b", 1), row("c", 1)], run_id=first)
    result = load(connection, [row("a", 1), row("b", 2), row("d", 1)], run_id=second)
    assert (result.written, result.unchanged) == (2, 1)
    rows = connection.execute(f"select record_key, payload -> 'value', run_id from {TABLE} order by 1").fetchall()
    assert rows == [("a", 1, first), ("b", 2, second), ("c", 1, first), ("d", 1, second)]


def test_rows_of_other_accounts_and_reports_are_told_apart(connection: Connection) -> None:
    load(connection, [row("a", 1)])
    load(connection, [row("a", 2)], report_key="other")
    load(connection, [row("a", 3)], connection_id=uuid.uuid4())
    assert sorted(value for _, value in stored(connection)) == [1, 2, 3]


def test_of_one_key_twice_in_a_page_the_last_counts(connection: Connection) -> None:
    result = load(connection, [row("a", 1), row("b", 1), row("a", 2)])
    assert (result.written, result.duplicates) == (2, 1)
    assert stored(connection) == [("a", 2), ("b", 1)]


def test_a_bad_duplicate_does_not_hide_the_good_one(connection: Connection) -> None:
    result = load(connection, [row("a", 1), row("a", "\x00")])
    assert (result.written, result.duplicates, len(result.rejected)) == (1, 0, 1)
    assert stored(connection) == [("a", 1)]


def test_what_cannot_be_stored_is_handed_back_and_all_others_land(connection: Connection) -> None:
    bad = [
        (row("nul", "a\x00b"), "FORBIDDEN_CHARACTER"),
        (row("surrogate", "\udfff"), "FORBIDDEN_CHARACTER"),
        (row("nan", float("nan")), "WRONG_TYPE"),
        (row("infinite", float("-inf")), "WRONG_TYPE"),
        (row("big", 10**30), "WRONG_TYPE"),
        (row("k" * 3000), "SCHEMA_MISMATCH"),
        (row("key\x00"), "FORBIDDEN_CHARACTER"),
    ]
    good = [row(f"good{number}", number) for number in range(50)]
    page = [each for pair in zip(good, [b for b, _ in bad] + [None] * 50, strict=False) for each in pair if each]
    result = load(connection, page)
    assert result.written == 50
    assert [(rejected.record_key, rejected.code) for rejected in result.rejected] == [
        (each.record_key, code) for each, code in bad
    ]
    assert len(stored(connection)) == 50


def test_what_only_the_server_refuses_is_found_and_all_others_land(connection: Connection) -> None:
    connection.execute(
        f"""
        create function too_odd() returns trigger language plpgsql as $$
        begin
            if (new.payload ->> 'value')::int in (13, 77) then
                raise exception 'odd value %', new.payload ->> 'value' using errcode = '22000';
            end if;
            return new;
        end $$;
        create trigger too_odd before insert or update on {TABLE} for each row execute function too_odd()
        """
    )
    for attempt in ("copy", "upsert"):
        page = [row(f"{number:03}", number if attempt == "copy" else number + 1) for number in range(100)]
        result = load(connection, page)
        assert result.written == 98, attempt
        assert [(each.code, each.reason) for each in result.rejected] == [
            ("SCHEMA_MISMATCH", "odd value 13"),
            ("SCHEMA_MISMATCH", "odd value 77"),
        ]


def find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if other writers stored the rows just after they were looked for."""
    monkeypatch.setattr(loader, "_changed", lambda _connection, _target, entries: (list(entries.values()), False))


def test_a_row_that_another_writer_stored_after_the_look_up_is_updated(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(connection, [row("a", 1), row("b", 1)])
    find_nothing(monkeypatch)
    load(connection, [row("a", 2), row("c", 1)])
    assert stored(connection) == [("a", 2), ("b", 1), ("c", 1)]


def test_an_empty_page_is_no_trouble(connection: Connection) -> None:
    assert load(connection, [], track_keys=True) == StageResult()


def test_keys_of_a_page_are_remembered_also_when_nothing_changed(connection: Connection) -> None:
    run_id = uuid.uuid4()
    load(connection, [row("a"), row("b")])
    load(connection, [row("a"), row("b"), row("c", "\x00")], run_id=run_id, slice_no=3, page_no=5, track_keys=True)
    known = connection.execute(
        "select k.slice_no, k.page_no, s.record_key from penstock.slice_keys as k"
        " cross join lateral unnest(k.key_hashes) as h (key_hash)"
        " left join unnest(array['a', 'b', 'c']) as s (record_key) on hashtextextended(s.record_key, 0) = h.key_hash"
        " where k.run_id = %s order by 3",
        [run_id],
    ).fetchall()
    # The unreadable record was there: it was not withdrawn, and what is stored of it stays.
    assert known == [(3, 5, "a"), (3, 5, "b"), (3, 5, "c")]


def test_a_page_read_again_after_a_crash_replaces_its_keys(connection: Connection) -> None:
    run_id = uuid.uuid4()
    load(connection, [row("a"), row("b")], run_id=run_id, track_keys=True)
    load(connection, [row("c")], run_id=run_id, track_keys=True)
    (count,) = connection.execute("select array_length(key_hashes, 1) from penstock.slice_keys").fetchall()[0]
    assert count == 1


def test_a_page_in_an_open_transaction_goes_with_it(warehouse: Warehouse) -> None:
    with warehouse.transaction() as connection:
        load(connection, [row("a")], track_keys=True)
        raise psycopg.Rollback
    with warehouse.connection() as connection:
        assert stored(connection) == []
        assert connection.execute("select count(*) from penstock.slice_keys").fetchone() == (0,)


@pytest.mark.parametrize("finds", [True, False])
def test_writers_of_the_same_keys_in_opposite_order_do_not_lock_each_other(
    warehouse: Warehouse, finds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not finds:
        find_nothing(monkeypatch)
    results: list[StageResult] = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        page = [row(f"{key:04}", number) for key in range(300)]
        barrier.wait()
        for _ in range(5):
            with warehouse.connection() as connection:
                results.append(load(connection, page[:: 1 if number % 2 else -1]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    with warehouse.connection() as connection:
        assert len(stored(connection)) == 300


def test_the_look_up_of_hashes_reads_the_primary_key_even_when_it_began_on_an_empty_table(warehouse: Warehouse) -> None:
    with warehouse.connection() as connection:
        connection.execute(f"alter table {TABLE} set (autovacuum_enabled = false)")
        for page in range(30):
            load(connection, [row(f"{page:03}-{number:04}", number) for number in range(200)])
        connection.execute("select pg_stat_force_next_flush()")
        before = _table_scans(connection)
        load(connection, [row(f"{page:03}-0000", 0) for page in range(30)])
        connection.execute("select pg_stat_force_next_flush()")
        after = _table_scans(connection)
    assert after[0] == before[0]  # sequential scans
    assert after[1] - before[1] <= 60  # rows fetched through any index: one per key, not the whole report


def test_no_index_but_the_primary_key_can_serve_a_look_up_by_key(connection: Connection) -> None:
    """While a table is new the planner finds all indexes equally cheap: any other would read a report for each key."""
    tables = connection.execute(
        "select c.conrelid::regclass::text, c.conname from pg_constraint as c"
        " where c.contype = 'p' and c.connamespace = 'staging_ingest'::regnamespace"
        " and pg_get_constraintdef(c.oid) like '%(connection_id, report_key, record_key)'"
    ).fetchall()
    assert len(tables) >= 18
    with connection.transaction(force_rollback=True):
        connection.execute("set local enable_seqscan = off")
        for table, primary_key in tables:
            look_up = f"explain select from {table} where connection_id = %s and report_key = '' and record_key = ''"
            assert primary_key in str(connection.execute(look_up, [ACCOUNT]).fetchall())
            connection.execute(f"alter table {table} drop constraint {primary_key}")
            assert "Index" not in str(connection.execute(look_up, [ACCOUNT]).fetchall()), table


def _table_scans(connection: Connection) -> tuple[int, int]:
    found = connection.execute(
        "select seq_scan, coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relid = %s::regclass", [TABLE]
    ).fetchone()
    assert found is not None
    return found[0], found[1]


# -- rejected records ---------------------------------------------------------------------------------------------


def keep(connection: Connection, rejected: list[Rejected], run_id: uuid.UUID | None = None) -> None:
    reject(
        connection,
        run_id=run_id or uuid.uuid4(),
        slice_no=1,
        connection_id=ACCOUNT,
        source="klaviyo",
        stream="events",
        rejected=rejected,
    )


@pytest.fixture
def kept(connection: Connection) -> Callable[[], list[tuple[Any, ...]]]:
    def read() -> list[tuple[Any, ...]]:
        return connection.execute(
            "select record_key, reason_code, reason, payload, seen from staging_ingest.rejected_records order by id"
        ).fetchall()

    return read


def test_a_rejected_record_is_kept_once_and_counted(
    connection: Connection, kept: Callable[[], list[tuple[Any, ...]]]
) -> None:
    first = Rejected("k", "WRONG_TYPE", "a is no number: 'x'", '{"a": "x"}')
    other = Rejected(None, "MISSING_KEY", "id is missing", "{}")
    keep(connection, [first, other, first])
    last_run = uuid.uuid4()
    keep(connection, [Rejected("k", "SCHEMA_MISMATCH", "said better", '{"a": "x"}')], last_run)
    assert sorted(kept(), key=str) == [
        ("k", "SCHEMA_MISMATCH", "said better", '{"a": "x"}', 3),
        (None, "MISSING_KEY", "id is missing", "{}", 1),
    ]
    runs = connection.execute(
        "select run_id, last_seen_at >= first_seen_at from staging_ingest.rejected_records"
    ).fetchall()
    assert (last_run, True) in runs


def test_a_rejected_record_is_kept_however_odd_its_texts(
    connection: Connection, kept: Callable[[], list[tuple[Any, ...]]]
) -> None:
    keep(connection, [Rejected("a\x00\ud800", "WRONG_TYPE", "because\x00 " + "x" * 2000, "p\x00\udfff")])
    ((key, _, reason, payload, _),) = kept()
    assert (key, payload) == ("a\\u0000\\ud800", "p\\u0000\\udfff")
    assert reason.startswith("because\\u0000 xxx")
    assert len(reason) == 500


def test_nothing_rejected_asks_the_database_nothing(connection: Connection) -> None:
    connection.close()
    keep(connection, [])
