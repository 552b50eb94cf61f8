"""What a person does in the browser: log in, trigger, backfill, connect, look after the accounts.

PENSTOCK_PICTURES=docs/images keeps the pictures that the documentation shows.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.airflow_ui import RUN_SECONDS, AirflowUi
from tests.browser.conftest import RunningStack

pytestmark = pytest.mark.browser

DAG_NAMES = ("ga4", "klaviyo", "meta_ads", "queue")
MONDAY = dt.date(2026, 10, 5)
SUNDAY = MONDAY + dt.timedelta(days=6)

CONNECTION_FORMS = {
    "Meta Ads": (("Base URL", "Access token"), ("App secret", "App id", "Ad account id")),
    "Google Analytics 4": (
        ("Base URL", "Service account JSON"),
        ("Google connection", "Key file path", "Credential configuration file", "Impersonation chain", "Property id"),
    ),
    "Klaviyo": (("Base URL", "Private API key"), ("Account id",)),
}


@pytest.fixture(scope="module")
def accounts(stack: RunningStack) -> list[dict[str, Any]]:
    """The accounts that the sandbox has."""
    answer = requests.get(f"{stack.sandbox_url}/sandbox/accounts", timeout=30)
    answer.raise_for_status()
    return [account for account in answer.json() if not account["account_id"].startswith("BENCH")]


def of_platform(accounts: list[dict[str, Any]], platform: str) -> dict[str, Any]:
    return next(account for account in accounts if account["platform"] == platform)


def test_the_printed_login_shows_every_dag(ui: AirflowUi) -> None:
    ui.open("dags")

    for name in DAG_NAMES:
        expect(ui.page.get_by_role("link", name=f"Platform ETL: {name}")).to_be_visible()
    expect(ui.page.get_by_role("link", name="Warehouse: migrate")).to_have_count(1)


def test_a_run_with_params_loads_one_account(ui: AirflowUi, accounts: list[dict[str, Any]]) -> None:
    account = of_platform(accounts, "META")
    ui.wait_for_idle_dag("platform_etl__meta_ads")

    form = ui.open_trigger_form("platform_etl__meta_ads")
    ui.fill_params(form, accounts=[account["account_id"]], streams=["campaigns", "insights_account"])
    form.locator("#element_from").fill(MONDAY.isoformat())
    form.locator("#element_to").fill(SUNDAY.isoformat())
    form.locator("#element_accounts").scroll_into_view_if_needed()
    ui.keep_picture("trigger-form")
    form.get_by_role("button", name="Trigger", exact=True).click()
    ui.page.wait_for_url(re.compile("/runs/manual__"))
    ui.wait_for_run("Success")

    rows = ui.task_instances()
    for task in ("extract", "transform", "finish"):
        lane = rows.filter(has_text=f"sync_account.{task}")
        expect(lane).to_have_count(1)
        expect(lane).to_contain_text(f"{account['account_name']} ({account['account_id']}) backfill")
        expect(lane).to_contain_text("Success")


def test_a_scheduled_run_shows_a_lane_per_account(ui: AirflowUi, accounts: list[dict[str, Any]]) -> None:
    ui.open("dags/platform_etl__meta_ads")
    ui.page.locator("a[href*='/runs/scheduled__']").first.click()
    ui.page.get_by_label("Toggle group").first.click()

    ui.wait_for_run("Success")
    for account in accounts:
        if account["platform"] == "META":
            lanes = ui.task_instances().filter(has_text=account["account_id"])
            expect(lanes).to_have_count(3)
    ui.keep_picture("run")


def test_a_week_is_backfilled_in_seven_runs(ui: AirflowUi, accounts: list[dict[str, Any]]) -> None:
    account = of_platform(accounts, "GA4")
    ui.wait_for_idle_dag("platform_etl__ga4")

    form = ui.open_trigger_form("platform_etl__ga4")
    ui.fill_backfill(form, MONDAY, SUNDAY)
    expect(form).to_contain_text("7 runs will be triggered")
    form.locator("input[name=max_active_runs]").fill("4")
    ui.keep_picture("backfill")
    ui.fill_params(form, accounts=[account["account_id"]], streams=["property"])
    form.get_by_role("button", name="Run Backfill").click()
    form.wait_for(state="hidden")

    ui.open("dags/platform_etl__ga4/runs?run_type=backfill")
    runs = ui.page.get_by_test_id("table-list").locator("tbody tr")
    expect(runs).to_have_count(7)
    expect(runs.filter(has_text="Success")).to_have_count(7, timeout=RUN_SECONDS * 1000)


@pytest.mark.parametrize("connection_type", CONNECTION_FORMS)
def test_the_connection_form_asks_for_what_the_vendor_needs(ui: AirflowUi, connection_type: str) -> None:
    form = ui.open_connection_form(connection_type)

    standard, extra = CONNECTION_FORMS[connection_type]
    for label in standard:
        expect(form.get_by_text(label, exact=True)).to_be_visible()
    for hidden in ("Login", "Schema"):
        expect(form.get_by_text(hidden, exact=True)).to_have_count(0)
    form.get_by_role("button", name="Extra Fields", exact=True).click()  # closes the others
    for label in extra:
        expect(form.get_by_text(label, exact=True)).to_be_visible()


@pytest.mark.parametrize(("is_right", "said"), [(True, "Successful"), (False, "KLAVIYO_AUTH_ERROR")])
def test_the_test_button_tries_a_credential(
    ui: AirflowUi, stack: RunningStack, accounts: list[dict[str, Any]], is_right: bool, said: str
) -> None:
    key = of_platform(accounts, "KLAVIYO")["credentials"]["api_key"]
    connection_id = f"klaviyo_{'right' if is_right else 'wrong'}"
    form = ui.open_connection_form("Klaviyo")
    form.locator("input[name=connection_id]").fill(connection_id)
    form.locator("input[name=host]").fill(f"{stack.sandbox_url}/klaviyo")
    form.locator("input[name=port]").fill("443")  # without one the test answers 400: see airflow_settings.yaml
    form.locator("input[name=password]").fill(key if is_right else "pk_unknown")
    form.get_by_role("button", name="Save").click()
    form.wait_for(state="hidden")

    expect(ui.test_connection(connection_id)).to_contain_text(said)


def test_the_operations_page_shows_every_account(ui: AirflowUi, page: Page, accounts: list[dict[str, Any]]) -> None:
    ui.wait_for_idle_dag("platform_etl__klaviyo")
    ui.open("dags")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Penstock").click()
    inside = page.frame_locator("iframe")

    for account in accounts:
        row = inside.get_by_role("row").filter(has_text=account["account_id"])
        expect(row).to_contain_text(account["account_name"])
        expect(row).to_contain_text("OK")
    ui.keep_picture("operations")


def test_a_run_of_the_operations_page_lists_its_streams(ui: AirflowUi, accounts: list[dict[str, Any]]) -> None:
    ui.open("penstock/")
    account = of_platform(accounts, "META")
    ui.page.get_by_role("row").filter(has_text=account["account_id"]).get_by_role("link").click()

    expect(ui.page.get_by_role("heading", name="Run", exact=False).first).to_be_visible()
    expect(ui.page.get_by_role("row").filter(has_text="insights_account").first).to_be_visible()


def test_the_dag_list_shows_green_runs(ui: AirflowUi) -> None:
    for name in ("ga4", "klaviyo", "meta_ads"):
        ui.wait_for_idle_dag(f"platform_etl__{name}")
    ui.open("dags")

    expect(ui.page.get_by_text("5 Dags")).to_be_visible()
    expect(ui.page.get_by_role("link", name="Platform ETL: meta_ads")).to_be_visible()
    ui.keep_picture("dags")
