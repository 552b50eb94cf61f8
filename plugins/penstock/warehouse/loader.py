"""Rows of a page -> a staging table: what changed is written, what did not change is not touched.

The keys' stored hashes are asked for first. New rows go straight into the table by binary COPY; rows that changed go
through one upsert. So an unchanged page costs an index look-up per row and writes nothing: an upsert with a WHERE would
lock every row, which writes 59 bytes of WAL each, and whole page images after a checkpoint.

A record that Postgres cannot hold (NUL, half a surrogate pair, a number that is none, a key too long for an index) is
handed back as `Rejected`; all others land.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import marshal
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import psycopg
from psycopg import sql

from penstock.core.errors import PenstockError, UnreadableRecord, error
from penstock.sources.stream import Record, Row, UnreadRecord
from penstock.warehouse.session import Connection

SCHEMA = "staging_ingest"
MAX_KEY_BYTES = 2_000
"""Of a record key. A B-tree entry of an 8 kB page holds 2,704 bytes, and the key shares it with account and report."""
MAX_DEPTH = 250  # orjson writes 254 levels
MAX_REASON_CHARACTERS = 500

_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + struct.pack("!ii", 0, 0)
_COPY_TRAILER = struct.pack("!h", -1)
_NULL = struct.pack("!i", -1)
_LENGTH = struct.Struct("!i").pack
_FOUR_BYTES = struct.Struct("!ii").pack
_POSTGRES_DAY_ZERO = 730_120  # date(2000, 1, 1).toordinal()
# Infinity, NaN, and both with a minus, as marshal writes them.
_NOT_FINITE = tuple(struct.pack("<d", value) for value in (math.inf, math.nan, -math.inf, -math.nan))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that was not stored, as `rejected_records` keeps it.

    code: MISSING_KEY, WRONG_TYPE, FORBIDDEN_CHARACTER or SCHEMA_MISMATCH. payload: the record as ASCII JSON.
    """

    record_key: str | None
    code: str
    reason: str
    payload: str

    @classmethod
    def of(cls, record: Any, failure: PenstockError, record_key: str | None = None) -> Rejected:
        """The record with the error that `Stream.row` raised."""
        return cls(record_key, failure.code, failure.message, _as_ascii(record))


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of a page: its rows are written + unchanged + duplicates + rejected."""

    written: int = 0
    unchanged: int = 0
    duplicates: int = 0
    rejected: list[Rejected] = field(default_factory=list)


class Entry(NamedTuple):
    """A row ready for the wire; the record that it was made of is not kept."""

    record_key: str
    key: bytes
    record_date: dt.date | None
    cursor: bytes | None
    payload: bytes
    digest: bytes


@dataclass(slots=True)
class Prepared:
    """Rows ready for the wire, and the records that will not get there."""

    entries: list[Entry] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, rows: Iterable[Row]) -> None:
        """Take the rows in; a row that Postgres cannot hold is rejected."""
        append = self.entries.append
        for row in rows:
            try:
                append(prepare(row))
            except UnreadableRecord as failure:
                self.rejected.append(Rejected.of(row.payload, failure, row.record_key))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the rows go, and what is the same for all of them."""

    table: str
    run_id: UUID
    slice_no: int
    connection_id: UUID
    report_key: str


def stage(
    connection: Connection,
    *,
    table: str,
    run_id: UUID | str,
    slice_no: int,
    connection_id: UUID | str,
    report_key: str,
    prepared: Prepared,
    page_no: int,
    track_keys: bool,
) -> StageResult:
    """Store the rows of a page or of several, in one transaction (a savepoint when one is open).

    Parameters
    ----------
    table: staging table without schema.
    prepared: the rows; of several with one key the last one counts.
    track_keys: remember their keys in `penstock.slice_keys`, so that rows the vendor withdrew can be told.

    Raises psycopg.Error when the database fails; then nothing of them is stored.
    """
    target = _Target(table, UUID(str(run_id)), slice_no, UUID(str(connection_id)), report_key)
    entries = {entry.record_key: entry for entry in prepared.entries}
    with connection.transaction():
        changed, any_known = _changed(connection, target, entries)
        refused = _write(connection, target, changed, straight=not any_known)
        if track_keys:
            # A record that came but cannot be read was not withdrawn: what is stored of it stays.
            unreadable = [r.record_key for r in prepared.rejected if r.record_key and not _forbidden(r.record_key)]
            _remember_keys(connection, target, page_no, [*entries, *unreadable])
    return StageResult(
        written=len(changed) - len(refused),
        unchanged=len(entries) - len(changed),
        duplicates=len(prepared.entries) - len(entries),
        rejected=prepared.rejected + refused,
    )


def reject(
    connection: Connection,
    *,
    run_id: UUID | str,
    slice_no: int,
    connection_id: UUID | str,
    source: str,
    stream: str,
    rejected: Sequence[Rejected],
) -> None:
    """Keep rejected records with their reason; one that was seen before is counted, not stored again."""
    if not rejected:
        return
    counted: dict[str, tuple[Rejected, int]] = {}
    for record in rejected:
        digest = hashlib.blake2b(_storable(record.payload).encode(), digest_size=16).hexdigest()
        counted[digest] = (record, counted[digest][1] + 1 if digest in counted else 1)
    order = sorted(counted)
    records = [counted[digest][0] for digest in order]
    parameters = {
        "run_id": UUID(str(run_id)),
        "slice_no": slice_no,
        "connection_id": UUID(str(connection_id)),
        "source": source,
        "stream": stream,
        "keys": [None if record.record_key is None else _storable(record.record_key) for record in records],
        "codes": [record.code for record in records],
        "reasons": [_storable(record.reason)[:MAX_REASON_CHARACTERS] for record in records],
        "payloads": [_storable(record.payload) for record in records],
        "hashes": order,
        "counts": [counted[digest][1] for digest in order],
    }
    connection.execute(_REJECT, parameters)


_REJECT = """
insert into staging_ingest.rejected_records as r (
    run_id, slice_no, connection_id, source, stream, record_key, reason_code, reason, payload, payload_hash, seen
)
select
    %(run_id)s, %(slice_no)s, %(connection_id)s, %(source)s, %(stream)s,
    n.record_key, n.reason_code, n.reason, n.payload, n.payload_hash, n.seen
from unnest(
    %(keys)b::text[], %(codes)b::text[], %(reasons)b::text[],
    %(payloads)b::text[], %(hashes)b::text[], %(counts)b::int[]
) as n (record_key, reason_code, reason, payload, payload_hash, seen)
order by n.payload_hash
on conflict (connection_id, stream, payload_hash) do update set
    run_id = excluded.run_id,
    slice_no = excluded.slice_no,
    record_key = excluded.record_key,
    reason_code = excluded.reason_code,
    reason = excluded.reason,
    last_seen_at = now(),
    seen = r.seen + excluded.seen
"""


# -- one row ------------------------------------------------------------------------------------------------------


def read_record(record: Record | UnreadRecord) -> Record:
    """A page's record, read now if it is still text. Raises UnreadableRecord when that is no JSON."""
    if not isinstance(record, UnreadRecord):
        return record
    read: Record
    try:
        read = orjson.loads(record)
    except orjson.JSONDecodeError as refused:
        try:  # 1e999 is JSON all the same; `prepare` names its field
            read = json.loads(bytes(record))
        except (ValueError, RecursionError):
            raise error("SCHEMA_MISMATCH", f"the record is no JSON: {refused}") from refused
    return read


def prepare(row: Row) -> Entry:
    """The row as it goes to the database. Raises UnreadableRecord with the field and its value."""
    try:
        payload = orjson.dumps(row.payload, option=orjson.OPT_SORT_KEYS)
        key = row.record_key.encode()
        cursor = row.cursor_value.encode() if row.cursor_value is not None else None
    except (TypeError, UnicodeEncodeError) as refused:
        raise _problem(row) or error("SCHEMA_MISMATCH", f"the record cannot be written as JSON: {refused}") from refused
    # Each test below is a search in a byte string, true for few rows; the exact look follows only then. orjson
    # writes NaN and Infinity as null.
    suspicious = (
        len(key) > MAX_KEY_BYTES
        or b"\x00" in key
        or (b"\\" in payload and b"\\u0000" in payload)  # one character alone is looked for five times as fast
        or (b"null" in payload and _has_null_for_number(row.payload))
        or (cursor is not None and b"\x00" in cursor)
    )
    if suspicious and (problem := _problem(row)):
        raise problem
    digest = hashlib.blake2b(payload, digest_size=16).digest()
    return Entry(row.record_key, key, row.record_date, cursor, payload, digest)


def _has_null_for_number(payload: Any) -> bool:
    """Whether a null in the JSON may stand for a number that is none. marshal is the fastest way to look at every
    float of a record (1.5 microseconds, a walk in Python takes 20); it is not read back."""
    try:
        image = marshal.dumps(payload)
    except ValueError:  # a type that marshal does not know
        return True
    return any(pattern in image for pattern in _NOT_FINITE)


def _problem(row: Row) -> PenstockError | None:
    """What is wrong with the row, with the field's path and value; None when nothing is."""
    size = len(row.record_key.encode(errors="replace"))
    if size > MAX_KEY_BYTES:
        return error("SCHEMA_MISMATCH", f"the record key has {size} bytes, {MAX_KEY_BYTES} are allowed")
    for name, text in (("record key", row.record_key), ("cursor value", row.cursor_value or "")):
        if character := _forbidden(text):
            return error("FORBIDDEN_CHARACTER", f"the {name} holds {character}: {_short(text)}")
    return _problem_in(row.payload)


def _problem_in(payload: Any) -> PenstockError | None:
    """The first value that Postgres cannot hold. Walks with a stack of its own: a deep record must not end ours."""
    waiting: list[tuple[str, int, Any]] = [("", 0, payload)]
    while waiting:
        path, depth, value = waiting.pop()
        if depth > MAX_DEPTH:
            return error("SCHEMA_MISMATCH", f"the record is nested more than {MAX_DEPTH} levels deep")
        if isinstance(value, str):
            if character := _forbidden(value):
                return error("FORBIDDEN_CHARACTER", f"{path or 'the record'} holds {character}: {_short(value)}")
        elif isinstance(value, dict):
            for name, inner in value.items():
                if not isinstance(name, str) or (character := _forbidden(name)):
                    reason = f"a key that holds {character}" if isinstance(name, str) else "a key that is no text"
                    return error("FORBIDDEN_CHARACTER", f"{path or 'the record'} has {reason}: {_short(name)}")
                waiting.append((f"{path}.{name}" if path else name, depth + 1, inner))
        elif isinstance(value, list | tuple):
            waiting.extend((f"{path}[{index}]", depth + 1, inner) for index, inner in enumerate(value))
        elif problem := _problem_of_scalar(value):
            return error("WRONG_TYPE", f"{path or 'the record'} {problem}: {_short(value)}")
    return None


def _problem_of_scalar(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else "is not a finite number"
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else "is an integer beyond 64 bits"
    return f"has the type {type(value).__name__}"


def _forbidden(text: str) -> str | None:
    if "\x00" in text:
        return "a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "half a surrogate pair"
    return None


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _as_ascii(record: Any) -> str:
    try:
        return json.dumps(record, default=_as_text)
    except (TypeError, ValueError):  # keys of a wrong type, circles
        return _short(record)
    except RecursionError:
        return f"a record of type {type(record).__name__}, nested too deeply to be written"


def _as_text(value: Any) -> str:
    return str(value, errors="replace") if isinstance(value, UnreadRecord) else repr(value)


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\x00", "\\u0000")


# -- the database -------------------------------------------------------------------------------------------------


def _changed(connection: Connection, target: _Target, entries: dict[str, Entry]) -> tuple[list[Entry], bool]:
    """The entries whose hash is not the stored one, and whether any of them is stored with another."""
    if not entries:
        return [], False
    # A scalar subquery, because the planner has no choice but one look-up in the primary key per row. A join or
    # `= any (...)` is read through another index or the whole table when the statistics are old: 100 times slower.
    statement = sql.SQL(
        """
        with compared as materialized (
            select
                n.record_key,
                n.payload_hash,
                (
                    select t.payload_hash from {} as t
                    where t.connection_id = %(connection_id)s and t.report_key = %(report_key)s
                        and t.record_key = n.record_key
                ) as stored_hash
            from unnest(%(keys)b::text[], %(hashes)b::bytea[]) as n (record_key, payload_hash)
        )
        select record_key, stored_hash is not null from compared where stored_hash is distinct from payload_hash
        """
    ).format(sql.Identifier(SCHEMA, target.table))
    parameters = {
        "connection_id": target.connection_id,
        "report_key": target.report_key,
        "keys": list(entries),
        "hashes": [entry.digest for entry in entries.values()],
    }
    # Never a kept plan: one made while the table was empty reads the whole table for each row for ever.
    differing = connection.execute(statement, parameters, prepare=False).fetchall()
    return [entries[key] for key, _ in differing], any(is_known for _, is_known in differing)


def _write(connection: Connection, target: _Target, entries: Sequence[Entry], *, straight: bool) -> list[Rejected]:
    """Store the entries; those the server itself refuses come back. They are found by halving."""
    if not entries:
        return []
    try:
        with connection.transaction():
            (_copy if straight else _upsert)(connection, target, entries)
        return []
    except psycopg.errors.UniqueViolation:
        if not straight:
            raise
        return _write(connection, target, entries, straight=False)  # another writer was here first
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex) as refused:
        if len(entries) == 1:
            reason = refused.diag.message_primary or "the database refuses the record"
            record = orjson.loads(entries[0].payload)
            return [Rejected.of(record, error("SCHEMA_MISMATCH", reason), entries[0].record_key)]
        middle = len(entries) // 2
        halves = (entries[:middle], entries[middle:])
        return [each for half in halves for each in _write(connection, target, half, straight=straight)]


def _copy(connection: Connection, target: _Target, entries: Sequence[Entry]) -> None:
    statement = sql.SQL(
        "copy {} (run_id, slice_no, connection_id, report_key, record_key, record_date, cursor_value,"
        " payload, payload_hash) from stdin (format binary)"
    ).format(sql.Identifier(SCHEMA, target.table))
    # The same order in all writers: two that hold keys the other wants would wait for each other for ever.
    ordered = sorted(entries, key=lambda entry: entry.key)
    with connection.cursor().copy(statement) as copy:
        copy.write(b"".join([_COPY_HEADER, *_encoded(target, ordered), _COPY_TRAILER]))


def _encoded(target: _Target, entries: Iterable[Entry]) -> Iterable[bytes]:
    """The rows in COPY's binary format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS"""
    report_key = target.report_key.encode()
    start = b"".join(
        [
            struct.pack("!h", 9),
            *(_LENGTH(16), target.run_id.bytes),
            *(_LENGTH(4), _LENGTH(target.slice_no)),
            *(_LENGTH(16), target.connection_id.bytes),
            *(_LENGTH(len(report_key)), report_key),
        ]
    )
    digest_length = _LENGTH(16)
    for entry in entries:
        date = entry.record_date
        yield start
        yield _LENGTH(len(entry.key))
        yield entry.key
        yield _NULL if date is None else _FOUR_BYTES(4, date.toordinal() - _POSTGRES_DAY_ZERO)
        if entry.cursor is None:
            yield _NULL
        else:
            yield _LENGTH(len(entry.cursor))
            yield entry.cursor
        yield _LENGTH(len(entry.payload) + 1)
        yield b"\x01"  # version of jsonb's binary form
        yield entry.payload
        yield digest_length
        yield entry.digest


def _upsert(connection: Connection, target: _Target, entries: Sequence[Entry]) -> None:
    statement = sql.SQL(
        """
        insert into {} as t (
            run_id, slice_no, connection_id, report_key, record_key, record_date, cursor_value, payload, payload_hash
        )
        select
            %(run_id)s, %(slice_no)s, %(connection_id)s, %(report_key)s,
            n.record_key, n.record_date, n.cursor_value, convert_from(n.payload, 'UTF8')::jsonb, n.payload_hash
        from unnest(
            %(keys)b::text[], %(dates)b::date[], %(cursors)b::text[], %(payloads)b::bytea[], %(hashes)b::bytea[]
        ) as n (record_key, record_date, cursor_value, payload, payload_hash)
        order by n.record_key collate "C"
        on conflict (connection_id, report_key, record_key) do update set
            run_id = excluded.run_id,
            slice_no = excluded.slice_no,
            record_date = excluded.record_date,
            cursor_value = excluded.cursor_value,
            payload = excluded.payload,
            payload_hash = excluded.payload_hash,
            ingested_at = now()
        where t.payload_hash <> excluded.payload_hash
        """
    ).format(sql.Identifier(SCHEMA, target.table))
    parameters = {
        "run_id": target.run_id,
        "slice_no": target.slice_no,
        "connection_id": target.connection_id,
        "report_key": target.report_key,
        "keys": [entry.record_key for entry in entries],
        "dates": [entry.record_date for entry in entries],
        "cursors": [entry.cursor and entry.cursor.decode() for entry in entries],
        "payloads": [entry.payload for entry in entries],
        "hashes": [entry.digest for entry in entries],
    }
    connection.execute(statement, parameters)


def _remember_keys(connection: Connection, target: _Target, page_no: int, keys: Sequence[str]) -> None:
    if not keys:
        return
    connection.execute(
        """
        insert into penstock.slice_keys (run_id, slice_no, page_no, key_hashes)
        select %s, %s, %s, array_agg(hashtextextended(k.record_key, 0)) from unnest(%b::text[]) as k (record_key)
        on conflict (run_id, slice_no, page_no) do update set key_hashes = excluded.key_hashes
        """,
        [target.run_id, target.slice_no, page_no, keys],
    )
