"""What a database error means for a run: psycopg's exception -> a `PenstockError`."""

from __future__ import annotations

import psycopg

from penstock.core.errors import PenstockError, error

# Classes and codes of https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNAVAILABLE_CLASSES = frozenset({"08", "53"})  # connection exceptions, insufficient resources
_UNAVAILABLE_CODES = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"})  # shut down, timed out
_PASSING_CLASSES = frozenset({"08", "40", "53"})  # and rolled back: serialization, deadlock
_PASSING_CODES = _UNAVAILABLE_CODES | {"55P03"}  # a lock was not to be had in time
_MISSING_OBJECTS = frozenset({"3F000", "42P01", "42703", "42883", "42P10"})  # schema, table, column, function, key


def classify(exc: psycopg.Error) -> PenstockError:
    """DB_UNAVAILABLE, MIGRATION_PENDING or DB_WRITE_ERROR, with the server's message but never its DETAIL,
    which quotes the rows."""
    state = exc.sqlstate
    message = " ".join((exc.diag.message_primary or str(exc)).split())
    details = {"service": "warehouse", "context": {"sqlstate": state}}
    if _is_unavailable(exc):
        return error("DB_UNAVAILABLE", message, **details)
    if state in _MISSING_OBJECTS:
        return error("MIGRATION_PENDING", message, **details)
    return error("DB_WRITE_ERROR", message, **details)


def is_passing(exc: psycopg.Error) -> bool:
    """Whether the same transaction may succeed when tried again at once or in some seconds."""
    state = exc.sqlstate
    if state is None:
        return _is_unavailable(exc)
    return state[:2] in _PASSING_CLASSES or state in _PASSING_CODES


def _is_unavailable(exc: psycopg.Error) -> bool:
    state = exc.sqlstate
    if state is None:  # the connection broke, or never came to be
        return isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _UNAVAILABLE_CLASSES or state in _UNAVAILABLE_CODES
