"""Rotation: all credentials under the newest key, in batches, with bad rows reported and left alone."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Key, Vault, main, rotate

OLD, NEW, LOST = (Key(name, bytes([byte]) * 32) for name, byte in (("old", 1), ("new", 2), ("lost", 3)))
ACCOUNT = "10000000-0000-0000-0000-0000000000"


def bound_to(number: int, name: str = "access_token") -> str:
    return f"platform_connections:{ACCOUNT}{number:02}:{name}"


def store(connection: psycopg.Connection[Any], number: int, credentials: Any) -> None:
    connection.execute(
        "insert into platform_connections (id, platform, account_id, credentials) values (%s, 'META', %s, %s)",
        [f"{ACCOUNT}{number:02}", str(number), Jsonb(credentials)],
    )


def credentials(connection: psycopg.Connection[Any]) -> list[Any]:
    return [row[0] for row in connection.execute("select credentials from platform_connections order by id")]


def test_everything_readable_comes_under_the_newest_key(warehouse: Warehouse) -> None:
    current = Vault([NEW]).encrypt("c", bound_to(3))
    lost = Vault([LOST]).encrypt("l", bound_to(4))
    with warehouse.connection() as connection:
        store(
            connection,
            1,
            {"access_token": Vault([OLD]).encrypt("a", bound_to(1)), "app_secret": "plain", "version": 26},
        )
        store(connection, 2, {"access_token": "plain"})
        store(connection, 3, {"access_token": current})
        store(connection, 4, {"access_token": lost})
        store(connection, 5, ["not", "an", "object"])
        store(connection, 6, None)
        vault = Vault([NEW, OLD])
        outcome = rotate(connection, vault, batch=2)
        assert (outcome.seen, outcome.rewritten) == (4, 2)
        assert len(outcome.problems) == 1
        assert bound_to(4) in outcome.problems[0]
        first, second, third, fourth, *_ = credentials(connection)
        newest = Vault([NEW])
        assert newest.decrypt(first["access_token"], bound_to(1)) == ("a", False)
        assert newest.decrypt(first["app_secret"], bound_to(1, "app_secret")) == ("plain", False)
        assert first["version"] == 26
        assert newest.decrypt(second["access_token"], bound_to(2)) == ("plain", False)
        assert third == {"access_token": current}
        assert fourth == {"access_token": lost}
        assert rotate(connection, vault).rewritten == 0


def test_the_command_rotates_and_reports(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with warehouse.connection() as connection:
        store(connection, 1, {"access_token": "plain"})
        store(connection, 2, {"access_token": Vault([LOST]).encrypt("l", bound_to(2))})
    monkeypatch.delenv("PENSTOCK_WAREHOUSE_DSN", raising=False)
    monkeypatch.setenv("WAREHOUSE_URL", warehouse.dsn)
    monkeypatch.delenv("ENCRYPTION_KEY", raising=False)
    monkeypatch.delenv("PENSTOCK_ENCRYPTION_KEYS", raising=False)
    assert main(["rotate"]) == 2
    assert "PENSTOCK_ENCRYPTION_KEYS" in capsys.readouterr().err
    assert main(["generate"]) == 0
    monkeypatch.setenv("PENSTOCK_ENCRYPTION_KEYS", capsys.readouterr().out.strip())
    assert main(["rotate"]) == 1
    said = capsys.readouterr()
    assert said.out == "2 rows looked at, 1 rewritten\n"
    assert "no encryption key lost" in said.err
