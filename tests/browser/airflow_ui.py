"""Airflow's UI, by what a person does in it. Every wait is for something that the page shows."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

RUN_SECONDS = 180


class AirflowUi:
    """One tab on one Airflow.

    pictures: the folder in which the pages that the documentation shows are kept; None keeps none.
    """

    def __init__(self, page: Page, url: str, pictures: str | None = None) -> None:
        self.page = page
        self.url = url
        self._pictures = Path(pictures) if pictures else None

    def log_in(self, user: str, password: str) -> None:
        self.page.goto(self.url)
        self.page.locator("input[name=username]").fill(user)
        self.page.locator("input[name=password]").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_test_id("nav-dags-link").wait_for()

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}/{path}")

    def keep_picture(self, name: str) -> None:
        if self._pictures is not None:
            self.page.mouse.move(0, 0)
            self.page.screenshot(path=self._pictures / f"{name}.png", animations="disabled")

    # -- DAGs -----------------------------------------------------------------------------------------------------

    def open_trigger_form(self, dag_id: str) -> Locator:
        self.open(f"dags/{dag_id}")
        self.page.get_by_role("button", name=re.compile("trigger", re.IGNORECASE)).first.click()
        return self._dialog()

    def fill_params(self, form: Locator, accounts: Sequence[str] = (), streams: Sequence[str] = ()) -> None:
        if accounts:
            form.locator("#element_accounts").fill("\n".join(accounts))
        for stream in streams:
            form.locator("#element_streams").get_by_role("combobox").fill(stream)
            self.page.get_by_role("option", name=stream, exact=True).click()

    def wait_for_run(self, state: str) -> None:
        """Until the DAG run that the tab shows has ended so. The page refreshes itself while the run goes on."""
        badge = self.page.get_by_test_id("header-card").get_by_test_id("state-badge")
        expect(badge).to_have_text(state, timeout=RUN_SECONDS * 1000)

    def task_instances(self) -> Locator:
        """The rows of the table of a DAG run's tasks."""
        return self.page.get_by_test_id("table-list").locator("tbody tr")

    def wait_for_idle_dag(self, dag_id: str) -> None:
        """Until no run of the DAG goes on: another run would hold the accounts."""
        deadline = time.monotonic() + RUN_SECONDS
        while True:
            self.open(f"dags/{dag_id}/runs")
            rows = self.page.get_by_test_id("table-list").locator("tbody tr")
            rows.first.wait_for()
            if rows.filter(has_text=re.compile("Success|Failed")).count() == rows.count():
                return
            assert time.monotonic() < deadline, f"{dag_id} is still at work: {rows.all_inner_texts()}"

    def fill_backfill(self, form: Locator, first: dt.date, last: dt.date) -> None:
        form.get_by_text("Backfill", exact=True).click()
        for index, instant in enumerate((f"{first:%Y/%m/%d} 00:00", f"{last:%Y/%m/%d} 23:59")):
            self._pick(form.get_by_test_id("datetime-input").nth(index), *instant.split())

    def _pick(self, field: Locator, day: str, time_of_day: str) -> None:
        """Fills one of the fields that open a calendar."""
        field.click()
        calendar = self.page.locator("[data-scope=popover][data-state=open]").filter(
            has=self.page.get_by_placeholder("YYYY/MM/DD")
        )
        for placeholder, value in (("YYYY/MM/DD", day), ("HH:mm", time_of_day)):
            calendar.get_by_placeholder(placeholder).fill(value)
            calendar.get_by_placeholder(placeholder).press("Tab")
        self.page.keyboard.press("Escape")
        calendar.wait_for(state="hidden")

    # -- connections ----------------------------------------------------------------------------------------------

    def open_connection_form(self, connection_type: str) -> Locator:
        self.open("connections")
        self.page.get_by_role("button", name="Add Connection").click()
        form = self._dialog()
        # The box filters only what has arrived already.
        form.get_by_role("combobox").first.click()
        self.page.get_by_role("option", name=connection_type, exact=True).click()
        form.get_by_role("button", name="Extra Fields", exact=True).wait_for()
        return form

    def test_connection(self, connection_id: str) -> Locator:
        """Presses the button in the list; answers the message that pops up."""
        row = self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=connection_id, exact=True))
        row.get_by_role("button", name="Test Connection").click()
        return self.page.locator("[data-scope=toast][data-part=root]").filter(has_text="Test Connection").first

    def _dialog(self) -> Locator:
        # A closed pop-over has the role as well.
        dialog = self.page.locator("[data-scope=dialog][role=dialog][data-state=open]")
        dialog.wait_for()
        return dialog
