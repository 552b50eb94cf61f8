"""From the connection `nivoda`, or the old environment variables, to a client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.core.errors import PenstockError
from penstock.hooks import check
from penstock.hooks.nivoda import NivodaHook
from penstock.sources.nivoda import STAGING_ENUMS, base_query
from penstock.warehouse.session import Warehouse
from tests.nivoda_bench import switch
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.dags


def connect(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, extra: dict[str, Any] | None = None, **more: Any
) -> None:
    given = sandbox.get("credentials")["nivoda"]
    fields = {
        "conn_type": "nivoda",
        "host": f"{sandbox.url}/nivoda/api/diamonds",
        "login": given["username"],
        "password": given["password"],
        "extra": extra or {},
    }
    monkeypatch.setenv("AIRFLOW_CONN_NIVODA", json.dumps(fields | more))


def test_the_test_button_logs_in_and_counts(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    switch(sandbox, natural=1_234)
    connect(monkeypatch, sandbox)
    is_ok, text = NivodaHook().test_connection()
    assert is_ok, text
    assert "1,234 natural stones" in text


def test_a_wrong_password_says_what_to_correct_and_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    connect(monkeypatch, sandbox, password="wrong-password-1234")
    is_ok, text = NivodaHook().test_connection()
    assert not is_ok
    assert text.startswith("NIVODA_AUTH_ERROR:")
    assert "Correct user name and password" in text
    assert "wrong-password-1234" not in text


def test_the_old_environment_variables_stand_in_for_the_connection(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    given = sandbox.get("credentials")["nivoda"]
    monkeypatch.setenv("NIVODA_ENDPOINT", f"{sandbox.url}/nivoda/api/diamonds")
    monkeypatch.setenv("NIVODA_USERNAME", given["username"])
    monkeypatch.setenv("NIVODA_PASSWORD", given["password"])
    hook = NivodaHook()
    assert hook.is_configured
    assert hook.test_connection()[0]


def test_without_an_endpoint_it_is_the_vendors_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIVODA_USERNAME", "me@example.com")
    monkeypatch.setenv("NIVODA_PASSWORD", "hush-hush")
    assert NivodaHook().credentials().base_url == "https://integrations.nivoda.net/api/diamonds"
    assert "hush" not in repr(NivodaHook().credentials())


def test_the_extra_sets_pace_batches_and_fields(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    connect(monkeypatch, sandbox, {"requests_per_second": "25", "count_batch": 10, "without_enums": "true"})
    client = NivodaHook().get_conn()
    assert [limit.count for limit in client._limits["graphql"]] == [25]
    assert client._count_batch == 10
    assert client._without == STAGING_ENUMS
    connect(monkeypatch, sandbox, {"requests_per_second": "", "count_batch": "", "without_enums": ""})
    client = NivodaHook().get_conn()
    assert [limit.count for limit in client._limits["graphql"]] == [10]
    assert (client._count_batch, client._without) == (1, frozenset())


@pytest.mark.parametrize("rate", ["26", "0", "fast"])
def test_a_pace_above_the_vendors_is_refused(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, rate: str) -> None:
    connect(monkeypatch, sandbox, {"requests_per_second": rate})
    is_ok, text = NivodaHook().test_connection()
    assert not is_ok
    assert text.startswith("CONFIG_INVALID:")
    assert "requests_per_second" in text


@pytest.mark.db
def test_workers_share_pace_and_token_through_the_warehouse(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, fresh_database: str
) -> None:
    monkeypatch.setenv("PENSTOCK_ENCRYPTION_KEYS", "33" * 32)
    switch(sandbox, natural=300, request_limit=25)
    connect(monkeypatch, sandbox, {"requests_per_second": "25"})
    for _ in range(2):
        with Warehouse(fresh_database, application_name="penstock-test", patience=5) as warehouse:
            client = NivodaHook().client(warehouse)
            assert [client.count(base_query("natural")) for _ in range(15)] == [300] * 15
            client.close()
    assert sandbox.get("nivoda/truth")["logins"] == 1
    assert sandbox.answered("nivoda", status=429) == 0
    with Warehouse(fresh_database, patience=5) as warehouse, warehouse.connection() as connection:
        keys = connection.execute("select limit_key from penstock.rate_limits order by 1").fetchall()
    assert [key.rsplit(":", 1)[-1] for (key,) in keys] == ["graphql", "25/1"]


def test_nobody_has_to_read_diamonds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW_CONN_NIVODA", "NIVODA_PASSWORD", "NIVODA_USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert check._nivoda() == (True, "not configured: no diamonds are read")
    with pytest.raises(PenstockError) as refused:
        NivodaHook().credentials()
    assert refused.value.code == "CREDENTIAL_NOT_FOUND"
