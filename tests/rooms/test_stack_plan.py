from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from stack import accounts, plan
from stack.settings import SettingsError

META = next(vendor for vendor in plan.VENDORS if vendor.conn_id == "meta_ads")
CREDENTIALS = {
    "slack": {"token": "xoxb-1", "channels": {"C1": "alerts", "C2": "reports"}},
    "nivoda": {"username": "reader@example.com", "password": "hush"},
    "google": {"client_id": "app", "client_secret": "GOCSPX-1"},
}


def test_with_nothing_set_everything_stands_in_and_says_so() -> None:
    decided = plan.make({})

    assert decided.real == ()
    assert decided.warehouse_dsn is None
    assert decided.lines() == [
        "warehouse: embedded Postgres (WAREHOUSE_URL is not set)",
        *(f"{vendor.title}: sandbox ({vendor.credential} is not set)" for vendor in plan.VENDORS),
    ]
    assert {"Meta Ads: sandbox (META_ACCESS_TOKEN is not set)", "Steam: sandbox (STEAM_BASE_URL is not set)"} <= set(
        decided.lines()
    )


def test_a_vendor_with_credentials_is_called_itself_and_the_others_stay_in_the_sandbox() -> None:
    decided = plan.make({"META_ACCESS_TOKEN": "EAAB-secret", "AIRFLOW_CONN_KLAVIYO": "klaviyo://:pk@example.com"})

    assert [vendor.conn_id for vendor in decided.real] == ["meta_ads", "klaviyo"]
    assert set(decided.real) | set(decided.sandboxed) == set(plan.VENDORS)
    assert {"ga4", "slack"} <= {vendor.conn_id for vendor in decided.sandboxed}
    lines = decided.lines()
    assert "Meta Ads: https://graph.facebook.com (from META_ACCESS_TOKEN)" in lines
    assert "Klaviyo: as AIRFLOW_CONN_KLAVIYO says" in lines
    assert not any("EAAB" in line for line in lines)


def test_values_for_the_settings_point_only_the_sandboxed_at_the_sandbox() -> None:
    decided = plan.make({"META_ACCESS_TOKEN": "EAAB", "META_BASE_URL": "http://proxy.example/meta"})
    sandbox = plan.sandbox_values(decided, "http://127.0.0.1:9000", CREDENTIALS)

    values = decided.settings_values(
        warehouse_dsn="host=127.0.0.1 port=5433 user=penstock password=p dbname=warehouse",
        vault_keys="generated",
        sandbox=sandbox,
    )

    assert values["META_BASE_URL"] == "http://proxy.example/meta"
    assert values["GA4_BASE_URL"] == "http://127.0.0.1:9000/ga4"
    assert values["KLAVIYO_BASE_URL"] == "http://127.0.0.1:9000/klaviyo"
    assert values["GOOGLE_ADS_BASE_URL"] == "http://127.0.0.1:9000/google_ads"
    assert values["GOOGLE_ADS_TOKEN_URL"] == "http://127.0.0.1:9000/google/token"
    assert (values["GOOGLE_CLIENT_ID"], values["GOOGLE_CLIENT_SECRET"]) == ("app", "GOCSPX-1")
    assert values["GOOGLE_CALENDAR_TOKEN_URL"] == "http://127.0.0.1:9000/google/token"
    assert values["SLACK_BASE_URL"] == "http://127.0.0.1:9000/slack/api/"
    assert values["NIVODA_ENDPOINT"] == "http://127.0.0.1:9000/nivoda/api/diamonds"
    assert (values["NIVODA_USERNAME"], values["NIVODA_PASSWORD"]) == ("reader@example.com", "hush")
    assert (values["SLACK_BOT_TOKEN"], values["PENSTOCK_ALERT_CHANNEL"]) == ("xoxb-1", "C1")
    assert values["PENSTOCK_ENCRYPTION_KEYS"] == "generated"
    assert values["WAREHOUSE_PORT"] == "5433"
    assert values["WAREHOUSE_SCHEMA"] == "warehouse"
    assert values["WAREHOUSE_EXTRA"] == ""


def test_keys_of_the_environment_win_over_ours() -> None:
    decided = plan.make({"PENSTOCK_ENCRYPTION_KEYS": "theirs"})

    values = decided.settings_values(warehouse_dsn="host=h dbname=d", vault_keys="ours")

    assert values["PENSTOCK_ENCRYPTION_KEYS"] == "theirs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WAREHOUSE_URL", "postgresql://me:p%40ss@db.example:6543/shop?sslmode=require"),
        ("SUPABASE_DB_URL", "postgres://me:p%40ss@db.example:6543/shop?sslmode=require"),
        ("DATABASE_URL", "postgresql://me:p%40ss@db.example:6543/shop?sslmode=require"),
        ("AIRFLOW_CONN_WAREHOUSE", "postgres://me:p%40ss@db.example:6543/shop?sslmode=require"),
        (
            "AIRFLOW_CONN_WAREHOUSE",
            '{"conn_type": "postgres", "host": "db.example", "port": 6543, "login": "me", "password": "p@ss",'
            ' "schema": "shop", "extra": {"sslmode": "require", "cursor": "dictcursor"}}',
        ),
    ],
)
def test_a_warehouse_is_found_under_every_name(name: str, value: str) -> None:
    decided = plan.make({name: value})

    assert decided.warehouse_dsn is not None
    assert conninfo_to_dict(decided.warehouse_dsn) == {
        "host": "db.example",
        "port": "6543",
        "user": "me",
        "password": "p@ss",
        "dbname": "shop",
        "sslmode": "require",
    }
    assert decided.lines()[0] == f"warehouse: db.example:6543/shop (from {name})"


def test_made_up_numbers_in_a_real_warehouse_are_announced() -> None:
    values = {"WAREHOUSE_URL": "postgresql://db/x"}
    real = {vendor.credential: "set" for vendor in plan.VENDORS}

    assert any("made-up numbers" in line for line in plan.make(values).lines())
    assert not any("made-up numbers" in line for line in plan.make(values).lines(has_sandbox=False))
    assert not any("made-up numbers" in line for line in plan.make(values | real).lines())


def test_our_own_name_for_the_warehouse_comes_before_the_old_ones() -> None:
    decided = plan.make({"DATABASE_URL": "postgresql://old/x", "WAREHOUSE_URL": "postgresql://new/x"})

    assert decided.warehouse_from == "WAREHOUSE_URL"


def test_parameters_of_the_url_become_the_connections_extra() -> None:
    values = plan.warehouse_values("postgresql://me@db/shop?sslmode=require&application_name=x")

    assert values["WAREHOUSE_EXTRA"] == '{"application_name": "x", "sslmode": "require"}'


def test_a_broken_url_is_refused_without_quoting_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        plan.make({"WAREHOUSE_URL": "postgresql://me:hunter2@db/shop?nonsense"})

    assert "WAREHOUSE_URL is not a Postgres URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_accounts_of_the_environment_have_plain_ids_and_no_credentials_of_their_own() -> None:
    decided = plan.make(
        {"META_ACCESS_TOKEN": "EAAB", "META_AD_ACCOUNT_ID": "act_12, 34,", "SHOP_ID": "shop", "GA4_PROPERTY_ID": "5"}
    )

    found = list(accounts.of_environment(decided))

    assert [(item.vendor.conn_id, item.account_id, item.shop_id) for item in found] == [
        ("meta_ads", "12", "shop"),
        ("meta_ads", "34", "shop"),
    ]
    assert all(item.credentials is None and item.time_zone is None for item in found)


def test_accounts_of_the_sandbox_are_taken_for_sandboxed_vendors_alone() -> None:
    answer = [
        {
            "platform": platform,
            "shop_id": "aurora",
            "shop_name": "Aurora",
            "account_id": "1",
            "account_name": "Aurora",
            "credentials": {"access_token": "t"},
            "time_zone": "Europe/Zurich",
            "currency": "CHF",
            "settings": {},
        }
        for platform in ("META", "GA4", "SHOPIFY")
    ]

    found = list(accounts.of_sandbox(plan.make({"META_ACCESS_TOKEN": "EAAB"}), answer))

    assert [item.vendor.conn_id for item in found] == ["ga4"]
    assert "access_token" not in repr(found)
