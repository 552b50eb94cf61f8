"""Accounts that the stack registers, parks and takes back."""

from __future__ import annotations

import datetime as dt
from typing import Any

import psycopg
import pytest

from stack import accounts, plan, report
from tests.sandbox_fixture import Sandbox

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
BOTH = {"META_ACCESS_TOKEN": "EAAB", "META_AD_ACCOUNT_ID": "act_1,act_2"}
ONE = {"META_ACCESS_TOKEN": "EAAB", "META_AD_ACCOUNT_ID": "act_1"}


def register(dsn: str, values: dict[str, str], installation: str = "here") -> list[str]:
    """Register what the variables name; returns what was said."""
    said: list[str] = []
    accounts.register(
        plan.make(values),
        warehouse_dsn=dsn,
        vault_keys=KEY,
        sandbox_url=None,
        installation=installation,
        say=said.append,
    )
    return said


def active(connection: psycopg.Connection[Any]) -> set[str]:
    query = "select account_id from public.platform_connections where is_active is not false"
    return {row[0] for row in connection.execute(query).fetchall()}


@pytest.fixture
def connection(fresh_database: str) -> Any:
    with psycopg.connect(fresh_database, autocommit=True) as opened:
        yield opened


def test_registering_twice_changes_nothing(fresh_database: str, connection: psycopg.Connection[Any]) -> None:
    register(fresh_database, BOTH)
    before = connection.execute("select id, account_id, shop_id from public.platform_connections order by 2").fetchall()

    said = register(fresh_database, BOTH)

    assert (
        connection.execute("select id, account_id, shop_id from public.platform_connections order by 2").fetchall()
        == before
    )
    assert active(connection) == {"1", "2"}
    assert "Meta Ads: 2 accounts registered" in said


def test_an_account_that_is_not_named_any_more_is_parked_and_comes_back(
    fresh_database: str, connection: psycopg.Connection[Any]
) -> None:
    register(fresh_database, BOTH)

    said = register(fresh_database, ONE)

    assert active(connection) == {"1"}
    assert "META 2: parked, because this start does not name it" in said
    register(fresh_database, BOTH)
    assert active(connection) == {"1", "2"}


def test_an_account_that_a_person_switched_off_stays_off(
    fresh_database: str, connection: psycopg.Connection[Any]
) -> None:
    register(fresh_database, BOTH)
    connection.execute("update public.platform_connections set is_active = false where account_id = '2'")

    register(fresh_database, BOTH)

    assert active(connection) == {"1"}


def test_an_account_of_which_nobody_says_whether_it_is_active_is_reported_and_parked(
    fresh_database: str, connection: psycopg.Connection[Any]
) -> None:
    register(fresh_database, BOTH)
    connection.execute("update public.platform_connections set is_active = null")
    reported = report.read_accounts(fresh_database, dt.datetime.now(dt.UTC))

    said = register(fresh_database, ONE)

    assert [each.account_id for each in reported] == ["1", "2"]
    assert "META 2: parked, because this start does not name it" in said
    assert active(connection) == {"1"}


def test_accounts_of_people_and_of_other_installations_are_left_alone(
    fresh_database: str, connection: psycopg.Connection[Any]
) -> None:
    register(fresh_database, ONE, installation="production")
    connection.execute(
        "insert into public.platform_connections (platform, account_id, shop_id) values ('KLAVIYO', 'theirs', 'shop')"
    )

    register(fresh_database, {}, installation="somebody's laptop")

    assert active(connection) == {"1", "theirs"}


def klaviyo_of(sandbox: Sandbox, **more: str) -> dict[str, str]:
    """What an old worker's environment says of Klaviyo: the key, and no account."""
    account = next(each for each in sandbox.accounts() if each["platform"] == "KLAVIYO")
    return {
        "KLAVIYO_API_KEY": account["credentials"]["api_key"],
        "KLAVIYO_BASE_URL": sandbox.base_url("klaviyo"),
        **more,
    }


def test_klaviyos_key_alone_names_its_account(
    fresh_database: str, connection: psycopg.Connection[Any], sandbox: Sandbox
) -> None:
    expected = next(each["account_id"] for each in sandbox.accounts() if each["platform"] == "KLAVIYO")

    said = register(fresh_database, klaviyo_of(sandbox, SHOP_ID="shop"))

    rows = connection.execute("select platform, account_id, shop_id from public.platform_connections").fetchall()
    assert rows == [("KLAVIYO", expected, "shop")]
    assert "Klaviyo: 1 account registered" in said


def test_an_account_that_is_named_is_not_asked_for(
    fresh_database: str, connection: psycopg.Connection[Any], sandbox: Sandbox
) -> None:
    register(fresh_database, klaviyo_of(sandbox, KLAVIYO_ACCOUNT_ID="AbC123"))

    assert active(connection) == {"AbC123"}
    assert sandbox.answered("klaviyo") == 0


@pytest.mark.parametrize("is_active", [True, None])
def test_while_klaviyo_does_not_answer_the_account_of_the_last_start_stays(
    fresh_database: str, connection: psycopg.Connection[Any], sandbox: Sandbox, is_active: bool | None
) -> None:
    register(fresh_database, klaviyo_of(sandbox))
    connection.execute("update public.platform_connections set is_active = %s", (is_active,))
    before = active(connection)

    said = register(fresh_database, klaviyo_of(sandbox, KLAVIYO_API_KEY="pk_of_nobody"))

    assert before
    assert active(connection) == before
    assert any("KLAVIYO_AUTH_ERROR" in line and "pk_of_nobody" not in line for line in said)
