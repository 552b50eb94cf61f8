"""From an Airflow connection, or the old environment variables, to credentials and clients."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import Connection
from psycopg.conninfo import conninfo_to_dict

from penstock.core.errors import ConfigurationError
from penstock.hooks import connections
from penstock.hooks.connections import FALLBACKS, base_url, find_connection, required
from penstock.hooks.ga4 import GA4Hook
from penstock.hooks.klaviyo import KlaviyoHook
from penstock.hooks.meta_ads import MetaAdsHook
from penstock.hooks.registry import HOOKS, hook_for
from penstock.hooks.slack import SlackAlertHook
from penstock.hooks.vault import open_vault
from penstock.hooks.vendor import Unlimited
from penstock.hooks.warehouse import WarehouseHook, dsn_of
from penstock.sources import REGISTRY, SOURCES
from penstock.sources.stream import Account
from stack import settings
from stack.home import PROJECT

pytestmark = pytest.mark.dags

SetConnection = Callable[..., None]
KEY_FILE = {
    "type": "service_account",
    "client_email": "reader@project.example",
    "private_key": "-----BEGIN PRIVATE KEY-----\nnot a real one\n-----END PRIVATE KEY-----\n",
    "token_uri": "https://oauth2.googleapis.com/token",
}


@pytest.fixture
def set_connection(monkeypatch: pytest.MonkeyPatch) -> SetConnection:
    def set_one(conn_id: str, **fields: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": conn_id, **fields}))

    return set_one


def test_every_source_has_a_hook_of_its_name() -> None:
    assert set(HOOKS) == {source.name for source in SOURCES}
    for name in HOOKS:
        hook = hook_for(name)
        assert (hook.source, hook.conn_id) == (name, name)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ConfigurationError) as refused:
        hook_for("myspace")
    assert refused.value.code == "SOURCE_NOT_SUPPORTED"


def test_an_airflow_connection_comes_before_the_environment(
    set_connection: SetConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAVIYO_API_KEY", "pk_of_the_old_worker")
    found = find_connection("klaviyo")
    assert found is not None
    assert found.password == "pk_of_the_old_worker"
    set_connection("klaviyo", password="pk_of_the_connection")
    found = find_connection("klaviyo")
    assert found is not None
    assert found.password == "pk_of_the_connection"


@pytest.mark.parametrize(
    ("conn_id", "name", "value"), [("meta_ads", "api_version", "v99.0"), ("klaviyo", "revision", "2099-01-15")]
)
def test_the_settings_file_takes_the_version_that_the_remedy_says_to_raise(conn_id: str, name: str, value: str) -> None:
    variable = connections._EXTRA_VARIABLES[conn_id][name]
    values = {"WAREHOUSE_HOST": "db", "WAREHOUSE_SCHEMA": "dwh", "PENSTOCK_ENCRYPTION_KEYS": "key", variable: value}

    loaded = settings.load(PROJECT / "airflow_settings.yaml", values)

    extra = next(item.fields["extra"] for item in loaded.connections if item.conn_id == conn_id)
    assert json.loads(extra)[name] == value


def test_whatever_the_environment_may_say_is_in_the_settings_file_and_in_the_example() -> None:
    tables = (connections._PASSWORD_VARIABLES, connections._HOST_VARIABLES, connections._LOGIN_VARIABLES)
    variables = {name for table in tables for name in table.values()}
    variables |= {name for extra in connections._EXTRA_VARIABLES.values() for name in extra.values()}
    file, example = (PROJECT / "airflow_settings.yaml").read_text(), (PROJECT / ".env.example").read_text()

    assert {name for name in variables if f"${{{name}" not in file} == set()
    assert {name for name in variables if f"#{name}=" not in example} == set()


@pytest.mark.parametrize("conn_id", sorted(FALLBACKS))
def test_other_databases_fall_back_to_the_warehouse(conn_id: str, set_connection: SetConnection) -> None:
    set_connection("warehouse", conn_type="postgres", host="warehouse.example", schema="dwh")
    found = find_connection(conn_id)
    assert found is not None
    assert found.host == "warehouse.example"
    set_connection(conn_id, conn_type="postgres", host="own.example", schema="own")
    found = find_connection(conn_id)
    assert found is not None
    assert found.host == "own.example"


def test_a_missing_connection_is_named_with_its_variables() -> None:
    with pytest.raises(ConfigurationError) as refused:
        required("warehouse", find_connection("warehouse"))
    assert refused.value.code == "CREDENTIAL_NOT_FOUND"
    assert "SUPABASE_DB_URL" in refused.value.message


def test_the_old_workers_database_url_is_the_warehouse(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://postgres.ref:p%40ss@db.example:6543/postgres?sslmode=require&pgbouncer=true"
    monkeypatch.setenv("SUPABASE_DB_URL", url)
    with WarehouseHook().warehouse as warehouse:
        assert conninfo_to_dict(warehouse.dsn) == {
            "host": "db.example",
            "port": "6543",
            "user": "postgres.ref",
            "password": "p@ss",
            "dbname": "postgres",
            "sslmode": "require",
        }
        assert "p@ss" not in repr(warehouse)


def test_extras_of_other_hooks_do_not_reach_libpq() -> None:
    extra = {"sslmode": "require", "cursor": "dictcursor", "iam": False, "keepalives": None}
    connection = Connection(conn_id="warehouse", conn_type="postgres", host="h", extra=json.dumps(extra))
    assert conninfo_to_dict(dsn_of(connection)) == {"host": "h", "sslmode": "require"}


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({}, "https://api.example"),
        ({"host": "http://127.0.0.1:8099/meta/"}, "http://127.0.0.1:8099/meta"),
        ({"host": "http://127.0.0.1/meta", "port": 8099}, "http://127.0.0.1:8099/meta"),
        ({"host": "http://127.0.0.1:8099/meta", "port": 443}, "http://127.0.0.1:8099/meta"),
        ({"host": "https://a.klaviyo.com", "port": 443}, "https://a.klaviyo.com"),
        ({"host": "proxy.example"}, "https://proxy.example"),
        ({"host": "proxy.example", "schema": "http", "port": 8080}, "http://proxy.example:8080"),
    ],
)
def test_host_scheme_and_port_make_the_base_url(fields: dict[str, Any], url: str) -> None:
    assert base_url(Connection(conn_id="x", conn_type="x", **fields), "https://api.example/") == url


@pytest.mark.parametrize("port", [None, 443])
def test_a_base_url_survives_airflow_s_own_uri_form(port: int | None) -> None:
    host = "http://127.0.0.1:8099/meta"
    connection = Connection(conn_id="x", conn_type="meta_ads", host=host, port=port, password="t")
    assert base_url(Connection.from_uri(connection.get_uri(), conn_id="x"), "") == "http://127.0.0.1:8099/meta"


def test_meta_takes_token_and_secret_of_the_account_before_those_of_the_connection(
    set_connection: SetConnection,
) -> None:
    set_connection("meta_ads", password="shared", extra={"app_secret": "of the app", "api_version": "v26.0"})
    shared = MetaAdsHook().credentials()
    assert (shared.token, shared.secret, shared.extra["api_version"]) == ("shared", "of the app", "v26.0")
    own = MetaAdsHook().credentials({"access_token": "own", "app_secret": "of another app"})
    assert (own.token, own.secret) == ("own", "of another app")
    assert own.base_url == "https://graph.facebook.com"


@pytest.mark.parametrize("hook", [MetaAdsHook, KlaviyoHook, GA4Hook])
def test_without_any_credential_the_hook_says_where_to_put_one(hook: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        hook().credentials()
    assert refused.value.code == "CREDENTIAL_NOT_FOUND"
    is_ok, text = hook().test_connection()
    assert not is_ok
    assert text.startswith("CREDENTIAL_NOT_FOUND")
    assert "What to do: Create the Airflow connection" in text


@pytest.mark.parametrize("name", ["api_key", "access_token"])
def test_klaviyo_takes_the_accounts_key_under_its_new_and_its_old_name(name: str) -> None:
    assert KlaviyoHook().credentials({name: "pk_own"}).token == "pk_own"


@pytest.mark.parametrize("where", ["password", "extra"])
def test_ga4_reads_the_key_file_from_password_or_extra(where: str, set_connection: SetConnection) -> None:
    text = json.dumps(KEY_FILE)
    set_connection("ga4", **({"password": text} if where == "password" else {"extra": {"keyfile_dict": text}}))
    assert GA4Hook().credentials().extra["service_account"] == KEY_FILE


def test_ga4_takes_the_variable_of_the_old_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GA4_CREDENTIALS_JSON", json.dumps(KEY_FILE))
    assert GA4Hook().credentials().extra["service_account"]["client_email"] == "reader@project.example"


@pytest.mark.parametrize("text", ["-----BEGIN PRIVATE KEY-----", '["a list"]', '{"client_email": "x"}'])
def test_a_key_file_that_cannot_be_read_is_refused_without_quoting_it(text: str, set_connection: SetConnection) -> None:
    set_connection("ga4", password=text)
    with pytest.raises(ConfigurationError) as refused:
        GA4Hook().credentials()
    assert refused.value.code == "CREDENTIAL_INVALID"
    assert "BEGIN" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("token_uri", "is_allowed"),
    [
        ("https://oauth2.googleapis.com/token", True),
        ("http://127.0.0.1:8099/google/token", True),
        ("http://oauth2.googleapis.com/token", False),
        ("http://127.0.0.1:5432/", False),
        ("http://169.254.169.254/latest/meta-data", False),
        ("https://oauth2.googleapis.com.evil.example/token", False),
    ],
)
def test_an_accounts_own_key_file_may_ask_google_or_the_connections_server_only(
    token_uri: str, is_allowed: bool, set_connection: SetConnection
) -> None:
    set_connection("ga4", host="http://127.0.0.1:8099/ga4")
    own = {"service_account_json": json.dumps({**KEY_FILE, "token_uri": token_uri})}
    if is_allowed:
        assert GA4Hook().credentials(own).extra["service_account"]["token_uri"] == token_uri
        return
    with pytest.raises(ConfigurationError) as refused:
        GA4Hook().credentials(own)
    assert refused.value.code == "CREDENTIAL_INVALID"


def test_ga4_borrows_the_credentials_of_a_google_connection(set_connection: SetConnection) -> None:
    from google.auth.credentials import AnonymousCredentials

    set_connection("google_cloud_default", conn_type="google_cloud_platform", extra={"is_anonymous": True})
    set_connection("ga4", extra={"google_conn_id": "google_cloud_default"})
    assert isinstance(GA4Hook().credentials().extra["google_credentials"], AnonymousCredentials)


def test_a_google_connection_without_credentials_is_our_error(set_connection: SetConnection) -> None:
    set_connection("ga4", extra={"key_path": "/nowhere/key.json"})
    with pytest.raises(ConfigurationError) as refused:
        GA4Hook().credentials()
    assert refused.value.code == "CREDENTIAL_INVALID"


@pytest.mark.parametrize("source", REGISTRY, ids=lambda source: source.name)
def test_a_client_of_the_right_vendor_is_opened_without_a_call(source: Any, set_connection: SetConnection) -> None:
    # Nothing listens there: a call would raise.
    set_connection(source.name, host="http://127.0.0.1:9", password=json.dumps(KEY_FILE))
    account = Account(connection_id="c", shop_id="s", account_id="123")
    client = hook_for(source.name).open_client(account, source.limits, Unlimited(), Unlimited())
    try:
        assert client.source == source.name
        assert client.requests == 0
    finally:
        client.close()


def test_the_test_button_reads_the_account_that_the_connection_names(set_connection: SetConnection) -> None:
    set_connection("meta_ads", password="token")
    is_ok, text = MetaAdsHook().test_connection()
    assert not is_ok
    assert "account_id" in text
    set_connection("meta_ads", host="http://127.0.0.1:9", password="token-of-the-test", extra={"account_id": "1"})
    assert MetaAdsHook().get_conn().source == "meta_ads"


def test_the_vault_takes_the_connections_keys_and_the_old_workers_key(
    set_connection: SetConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.fernet import Fernet

    keys = Fernet.generate_key().decode()
    set_connection("vault", conn_type="generic", password=keys)
    stored = open_vault().encrypt("secret of the account", "row")
    assert "secret" not in stored
    assert open_vault().decrypt(stored, "row")[0] == "secret of the account"
    monkeypatch.delenv("AIRFLOW_CONN_VAULT")
    monkeypatch.setenv("PENSTOCK_ENCRYPTION_KEYS", keys)
    assert open_vault().decrypt(stored, "row")[0] == "secret of the account"


def test_without_a_token_there_is_no_slack(set_connection: SetConnection) -> None:
    assert SlackAlertHook().client is None
    set_connection("slack", extra={"base_url": "http://127.0.0.1:9/slack/api"})
    assert SlackAlertHook().client is None
