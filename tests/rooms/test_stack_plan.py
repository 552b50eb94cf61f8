from __future__ import annotations

from typing import Any

import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from stack import accounts, plan, settings
from stack.home import PROJECT
from stack.settings import SettingsError

META = next(vendor for vendor in plan.VENDORS if vendor.conn_id == "meta_ads")
CREDENTIALS = {
    "slack": {"token": "xoxb-1", "channels": {"C1": "alerts", "C2": "reports"}},
    "nivoda": {"username": "reader@example.com", "password": "hush"},
    "google": {"client_id": "app", "client_secret": "GOCSPX-1"},
}
SETTINGS = PROJECT / "airflow_settings.yaml"
HARMLESS = {
    "META_API_VERSION",
    "KLAVIYO_REVISION",
    "GOOGLE_ADS_API_VERSION",
    "STEAM_STOREFRONT_LIMIT",
    "STEAM_REVIEWS_LIMIT",
    "NIVODA_REQUESTS_PER_SECOND",
    "NIVODA_COUNT_BATCH",
    "NIVODA_WITHOUT_ENUMS",
    "NIVODA_BASE_FILTER",
    "NIVODA_KEY_FIELD",
    "NIVODA_MARKUP",
    "NIVODA_KEEP_PAYLOAD",
    "NIVODA_CONCURRENCY",
}
"""What only paces and shapes the reading: it counts at the sandbox too."""


def filled(values: dict[str, str]) -> settings.Settings:
    """`airflow_settings.yaml` as a start with the sandbox fills it in."""
    decided = plan.make(values)
    sandbox = plan.sandbox_values(decided, "http://127.0.0.1:9000", CREDENTIALS)
    given = decided.settings_values(warehouse_dsn="host=h dbname=d", vault_keys="k", sandbox=sandbox)
    return settings.load(SETTINGS, given, without=decided.given_connections)


def variables(conn_id: str) -> set[str]:
    """The variables that a vendor's connection is made of."""
    found = yaml.safe_load(SETTINGS.read_text())["airflow"]["connections"]
    (connection,) = (item for item in found if item["conn_id"] == conn_id)
    return {match["name"] for match in settings._VARIABLE.finditer(str(connection)) if match["name"]}


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


@pytest.mark.parametrize("vendor", plan.VENDORS, ids=lambda vendor: vendor.conn_id)
def test_a_vendor_on_the_sandbox_has_no_host_login_or_secret_of_the_environment(vendor: plan.Vendor) -> None:
    names = variables(vendor.conn_id) - {vendor.credential} - HARMLESS

    assert filled(dict.fromkeys(names, "https://theirs.example")) == filled({})


def test_the_sandboxs_slack_is_asked_for_its_own_channel() -> None:
    assert filled({"PENSTOCK_ALERT_CHANNEL": "#theirs"}).variables == {"PENSTOCK_ALERT_CHANNEL": "C1"}
    theirs = {"PENSTOCK_ALERT_CHANNEL": "#theirs", "SLACK_BOT_TOKEN": "xoxb-theirs"}
    assert filled(theirs).variables == {"PENSTOCK_ALERT_CHANNEL": "#theirs"}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"META_BASE_URL": "https://graph.facebook.com"},
            "Meta Ads: sandbox (META_BASE_URL is ignored without META_ACCESS_TOKEN)",
        ),
        (
            {"NIVODA_USERNAME": "me", "NIVODA_ENDPOINT": "https://integrations.nivoda.net/api/diamonds"},
            "Nivoda: sandbox (NIVODA_ENDPOINT, NIVODA_USERNAME are ignored without NIVODA_PASSWORD)",
        ),
        (
            {"GOOGLE_CLIENT_ID": "theirs"},
            "Google Calendar: sandbox (GOOGLE_CLIENT_ID is ignored without GOOGLE_CLIENT_SECRET)",
        ),
        (
            {"PENSTOCK_ALERT_CHANNEL": "#theirs"},
            "Slack: sandbox (PENSTOCK_ALERT_CHANNEL is ignored without SLACK_BOT_TOKEN)",
        ),
        (
            {"GA4_PROPERTY_ID": "1", "GA4_BASE_URL": ""},
            "Google Analytics 4: sandbox (GA4_PROPERTY_ID is ignored without GA4_CREDENTIALS_JSON)",
        ),
        ({"META_API_VERSION": "v25.0"}, "Meta Ads: sandbox (META_ACCESS_TOKEN is not set)"),
    ],
)
def test_a_start_says_which_variable_is_ignored_and_which_one_is_missing(values: dict[str, str], line: str) -> None:
    assert line in plan.make(values).lines()
    assert not any("ignored" in each for each in plan.make(values).lines(has_sandbox=False))


def test_without_a_sandbox_a_host_counts_for_accounts_with_tokens_of_their_own() -> None:
    decided = plan.make({"META_BASE_URL": "https://proxy.example/meta", "GA4_BASE_URL": ""})

    values = decided.settings_values(warehouse_dsn="host=h dbname=d", vault_keys="k")

    assert values["META_BASE_URL"] == "https://proxy.example/meta"


def test_a_connection_that_is_given_empty_is_none() -> None:
    assert filled({"AIRFLOW_CONN_META_ADS": ""}) == filled({})


def test_what_only_shapes_the_reading_counts_at_the_sandbox_too() -> None:
    (nivoda,) = (each for each in filled({"NIVODA_CONCURRENCY": "2"}).connections if each.conn_id == "nivoda")
    fields: dict[str, Any] = dict(nivoda.fields)

    assert '"concurrency": "2"' in fields["extra"]
    assert (fields["host"], fields["login"]) == ("http://127.0.0.1:9000/nivoda/api/diamonds", "reader@example.com")


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


@pytest.mark.parametrize(
    "real",
    [
        {"WAREHOUSE_URL": "postgresql://me@db/shop"},
        {"AIRFLOW_CONN_AGENCY_DB": "postgresql://me@db/agency"},
        {"SLACK_BOT_TOKEN": "xoxb-1"},
    ],
)
def test_sample_rows_are_for_a_stack_of_stand_ins_alone(real: dict[str, str]) -> None:
    assert plan.make({}).is_make_believe
    assert not plan.make(real).is_make_believe


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
