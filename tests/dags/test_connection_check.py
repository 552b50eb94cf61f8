"""`python -m penstock.hooks.check`: every connection and account, with what to do."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from penstock.hooks import check
from penstock.hooks.klaviyo import KlaviyoHook
from penstock.jobs.accounts import register_account
from penstock.warehouse.session import Warehouse
from penstock.warehouse.vault import Vault
from tests.sandbox_fixture import Sandbox

pytestmark = [pytest.mark.dags, pytest.mark.db]

VAULT_KEYS = "33" * 32


@pytest.fixture
def deployment(fresh_database: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WAREHOUSE_URL", fresh_database)
    monkeypatch.setenv("PENSTOCK_ENCRYPTION_KEYS", VAULT_KEYS)
    for conn_id, path in {"meta_ads": "meta", "ga4": "ga4", "klaviyo": "klaviyo"}.items():
        fields = {"conn_type": conn_id, "host": sandbox.base_url(path)}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
    return fresh_database


def register(dsn: str, account: dict[str, Any], **changes: Any) -> None:
    names = ("platform", "shop_id", "account_id", "account_name", "credentials", "settings")
    fields = {name: account[name] for name in names} | changes
    with Warehouse(dsn) as warehouse:
        vault = Vault.from_environment({"PENSTOCK_ENCRYPTION_KEYS": VAULT_KEYS})
        register_account(warehouse, vault, time_zone=None, currency=None, **fields)


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {each["what"]: each for each in found}


def test_everything_that_works_is_ok_and_the_exit_code_is_0(
    deployment: str, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = [each for each in sandbox.accounts() if each["shop_id"] == "aurora" and each["account_id"] != "BENCH1"]
    for account in accounts:
        register(deployment, account)
    assert check.main(["--json"]) == 0
    found = lines(capsys)
    assert all(each["is_ok"] for each in found.values())
    for account in accounts:
        assert f"account {account['platform']} {account['account_id']} {account['account_name']}" in found
    assert "not configured" in found["connection slack"]["text"]


def test_a_refused_account_is_named_with_code_and_remedy_and_the_exit_code_is_1(
    deployment: str, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    account = next(each for each in sandbox.accounts() if each["platform"] == "KLAVIYO")
    register(deployment, account, credentials={"api_key": "pk_revoked_long_ago"})
    assert check.main(["--json"]) == 1
    finding = lines(capsys)[f"account KLAVIYO {account['account_id']} {account['account_name']}"]
    assert finding["text"].startswith("KLAVIYO_AUTH_ERROR:")
    assert "What to do: Create a new private API key" in finding["text"]
    assert "pk_revoked_long_ago" not in finding["text"]


def test_a_shared_credential_is_tried_at_once_where_it_needs_no_account(
    deployment: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"conn_type": "klaviyo", "host": sandbox.base_url("klaviyo"), "password": "pk_wrong_from_the_start"}
    monkeypatch.setenv("AIRFLOW_CONN_KLAVIYO", json.dumps(fields))
    assert check.main(["--json"]) == 1
    assert lines(capsys)["connection klaviyo"]["text"].startswith("KLAVIYO_AUTH_ERROR:")


def test_a_warehouse_that_is_away_is_one_finding_and_the_vendors_are_still_tried(
    deployment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", "postgresql://nobody:secret-password@nowhere.invalid:5432/none")
    assert check.main(["--json"]) == 1
    found = lines(capsys)
    assert found["connection warehouse"]["text"].startswith("DB_UNAVAILABLE:")
    assert "secret-password" not in found["connection warehouse"]["text"]
    assert "connection meta_ads" in found


def test_the_connections_of_an_agencys_own_database_are_tried_as_well(
    deployment: str, empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [finding.what for finding in check.findings() if finding.what == "accounts"] == []
    monkeypatch.setenv("AIRFLOW_CONN_AGENCY_DB", empty_database)
    (found,) = [finding for finding in check.findings() if finding.what == "accounts"]
    assert found.text.startswith("MIGRATION_PENDING:")


def test_a_database_without_our_tables_says_that_the_migration_is_pending(
    deployment: str, empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", empty_database)
    assert check.main(["--json"]) == 1
    assert lines(capsys)["accounts"]["text"].startswith("MIGRATION_PENDING:")


def test_a_key_that_cannot_be_sent_is_one_finding_and_everything_after_it_is_tried(
    deployment: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    account = next(each for each in sandbox.accounts() if each["platform"] == "META")
    register(deployment, account)
    fields = {"conn_type": "klaviyo", "host": sandbox.base_url("klaviyo"), "password": "pk_12345\u2026"}
    monkeypatch.setenv("AIRFLOW_CONN_KLAVIYO", json.dumps(fields))

    assert check.main(["--json"]) == 1

    found = lines(capsys)
    assert found["connection klaviyo"]["text"].startswith("CREDENTIAL_INVALID:")
    assert "pk_12345" not in found["connection klaviyo"]["text"]
    assert found[f"account META {account['account_id']} {account['account_name']}"]["is_ok"]


def test_what_nobody_foresaw_is_unknown_tells_no_secret_and_stops_nothing(
    deployment: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    account = next(each for each in sandbox.accounts() if each["platform"] == "META")
    register(deployment, account)

    def fails(*_: Any) -> None:
        raise ValueError("Invalid header value b'pk_secret'")

    monkeypatch.setattr(KlaviyoHook, "credentials_of", fails)

    assert check.main(["--json"]) == 1

    found = lines(capsys)
    assert found["connection klaviyo"]["text"].startswith("UNKNOWN: ValueError in ")
    assert "pk_secret" not in found["connection klaviyo"]["text"]
    assert found[f"account META {account['account_id']} {account['account_name']}"]["is_ok"]


def test_a_shared_credential_that_cannot_be_read_is_no_credential_to_try_later(
    deployment: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"conn_type": "ga4", "host": sandbox.base_url("ga4"), "password": "{'type': 'service_account'}"}
    monkeypatch.setenv("AIRFLOW_CONN_GA4", json.dumps(fields))

    assert check.main(["--json"]) == 1

    assert lines(capsys)["connection ga4"]["text"].startswith("CREDENTIAL_INVALID:")


def test_every_database_with_a_connection_of_its_own_is_tried(
    deployment: str, empty_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = "postgresql://nobody:secret-password@nowhere.invalid:5432/none"
    for conn_id in ("NIVODA_DB", "APPS_DB", "AGENCY_DB"):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id}", dead)
    monkeypatch.setenv("AIRFLOW_CONN_CALENDAR_DB", empty_database)

    assert check.main(["--json"]) == 1

    found = lines(capsys)
    for conn_id in ("nivoda_db", "apps_db", "agency_db"):
        assert found[f"connection {conn_id}"]["text"].startswith("DB_UNAVAILABLE:")
        assert "secret-password" not in found[f"connection {conn_id}"]["text"]
    assert found["connection calendar_db"]["is_ok"]
    assert "connection meta_ads" in found
    assert "accounts" not in found  # those of a database that is away: told already


def test_databases_that_share_the_warehouse_have_no_line(deployment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--json"]) == 0
    assert not any(what.endswith("_db") for what in lines(capsys))


def test_an_account_of_which_nobody_says_whether_it_is_active_is_tried_as_it_is_read(
    deployment: str, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = [each for each in sandbox.accounts() if each["platform"] == "KLAVIYO"][:2]
    for account in (first, second):
        register(deployment, account, credentials={"api_key": "pk_revoked_long_ago"})
    with psycopg.connect(deployment, autocommit=True) as connection:
        for is_active, account in ((None, first), (False, second)):
            values = (is_active, account["account_id"])
            connection.execute("update platform_connections set is_active = %s where account_id = %s", values)

    assert check.main(["--json"]) == 1

    tried = [what for what in lines(capsys) if what.startswith("account ")]
    assert tried == [f"account KLAVIYO {first['account_id']} {first['account_name']}"]
