"""The operations page, with Airflow's own authorisation in front of it."""

from __future__ import annotations

import asyncio
import json

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from penstock.warehouse.session import Warehouse
from penstock_plugin import URL_PREFIX, LazyPage, PenstockPlugin

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    # Airflow's API server imports starlette's test client by way of svcs.
    pytest.mark.filterwarnings("ignore:Using .httpx. with .starlette.testclient."),
]

CONNECTION_ID = "00000000-0000-0000-0000-00000000000a"
RUN_ID = "00000000-0000-0000-0000-00000000000b"
ERROR = {"code": "META_AUTH_ERROR", "message": "<b>expired</b>", "operator_action": "Issue a new token."}


@pytest.fixture
def dsn(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WAREHOUSE_URL", fresh_database)
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute(
            "insert into public.platform_connections (id, platform, account_id, account_name, shop_id) "
            "values (%s, 'META', '1', 'Aurora & <Sons>', 'aurora')",
            [CONNECTION_ID],
        )
        connection.execute(
            "insert into core_warehouse.etl_runs (id, shop_id, status, job_type, platform, connection_id, error, "
            "started_at, completed_at) "
            "values (%s, 'aurora', 'FAILED', 'INCREMENTAL', 'META', %s, %s, now(), now())",
            [RUN_ID, CONNECTION_ID, json.dumps(ERROR)],
        )
        connection.execute(
            "insert into penstock.slices (run_id, slice_no, stream, status, pages, rows_read) "
            "values (%s, 1, 'campaigns', 'DONE', 2, 150), (%s, 2, 'campaigns', 'PENDING', 0, 0)",
            [RUN_ID, RUN_ID],
        )
        connection.execute(
            "insert into staging_ingest.rejected_records "
            "(run_id, slice_no, connection_id, source, stream, reason_code, reason, payload, payload_hash) "
            "values (%s, 1, %s, 'meta_ads', 'campaigns', 'MISSING_KEY', 'id is missing', '{}', 'x')",
            [RUN_ID, CONNECTION_ID],
        )
    return fresh_database


class Client:
    """Calls the page as the API server mounts it."""

    def __init__(self) -> None:
        self.server = FastAPI()
        self.server.mount(URL_PREFIX, LazyPage())

    def get(self, path: str) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.server)
            async with httpx.AsyncClient(transport=transport, base_url="http://airflow.example") as client:
                return await client.get(path)

        return asyncio.run(call())


@pytest.fixture
def client(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The page, asked by somebody who may see everything."""
    monkeypatch.setattr("penstock.operations_page.requires_access_dag", lambda *_: lambda: None)
    return Client()


def test_accounts_queue_and_rejected_records_are_listed(client: Client) -> None:
    status = client.get(f"{URL_PREFIX}/status.json").json()
    (account,) = status["accounts"]
    assert (account["account_id"], account["health"], account["error_code"]) == ("1", "FAILING", "META_AUTH_ERROR")
    assert account["remedy"] == "Issue a new token."
    assert status["queue"] == []
    (rejected,) = status["rejected"]
    assert (rejected["source"], rejected["stream"], rejected["records"]) == ("meta_ads", "campaigns", 1)


def test_a_run_is_shown_with_its_streams(client: Client) -> None:
    status = client.get(f"{URL_PREFIX}/runs/{RUN_ID}/status.json").json()
    assert status["run"]["error"] == ERROR
    (stream,) = status["streams"]
    assert (stream["stream"], stream["slices"], stream["done"], stream["pages"]) == ("campaigns", 2, 1, 2)


def test_pages_escape_what_vendors_and_people_wrote(client: Client) -> None:
    overview = client.get(f"{URL_PREFIX}/")
    assert overview.headers["content-type"].startswith("text/html")
    assert "Aurora &amp; &lt;Sons&gt;" in overview.text
    assert f'href="{URL_PREFIX}/runs/{RUN_ID}"' in overview.text
    run = client.get(f"{URL_PREFIX}/runs/{RUN_ID}")
    assert "<b>expired</b>" not in run.text
    assert "META_AUTH_ERROR" in run.text


def test_an_unknown_run_is_not_found_and_a_wrong_id_is_refused(client: Client) -> None:
    assert client.get(f"{URL_PREFIX}/runs/{CONNECTION_ID}").status_code == 404
    assert client.get(f"{URL_PREFIX}/runs/' or true --").status_code == 422


def test_a_warehouse_that_is_away_is_named_with_what_to_do(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Warehouse("postgresql://nobody@127.0.0.1:9/none", patience=0)
    monkeypatch.setattr("penstock.operations_page._warehouse", lambda: away)
    answer = client.get(f"{URL_PREFIX}/status.json")
    assert answer.status_code == 503
    assert answer.json()["detail"]["code"] == "DB_UNAVAILABLE"


def test_nobody_sees_it_without_airflow_s_permission(dsn: str) -> None:
    for path in ("/", "/status.json", f"/runs/{RUN_ID}", f"/runs/{RUN_ID}/status.json"):
        assert Client().get(f"{URL_PREFIX}{path}").status_code == 401


def test_the_plugin_mounts_the_page_under_its_prefix() -> None:
    (app,) = PenstockPlugin.fastapi_apps
    assert app["url_prefix"] == URL_PREFIX
    assert isinstance(app["app"], LazyPage)
    (view,) = PenstockPlugin.external_views
    assert view["href"] == f"{URL_PREFIX}/"
