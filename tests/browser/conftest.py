"""The whole stack in a state folder of its own, and a Chromium that has logged in with what `make up` prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from stack import chromium
from tests.browser.airflow_ui import AirflowUi
from tests.running_stack import dags_folder, start_up, wait_for

STOP_SECONDS = 120
DAG_FILES = ("platform_etl.py", "warehouse_migrate.py")
PAGE_SECONDS = 60  # pages take 5 to 15 s while tasks run on the same two cores
WINDOW = {"width": 1280, "height": 800}
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")

_LOGIN = re.compile(r"Airflow: (?P<url>\S+)  login: (?P<user>\S+)  password: (?P<password>\S+)")
_SANDBOX = re.compile(r"sandbox: (?P<url>http://\S+)")


@dataclass(frozen=True)
class RunningStack:
    """What `make up` has printed."""

    url: str
    user: str
    password: str
    sandbox_url: str


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """Not below pytest's own folder: under root Postgres runs as a user who cannot enter that."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-browser-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stack(home: Path) -> Iterator[RunningStack]:
    process, log = start_up(home, PENSTOCK_DAGS_DIR=dags_folder(home, *DAG_FILES))
    try:
        yield wait_for(process, log, _printed)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=STOP_SECONDS)


def _printed(said: str) -> RunningStack | None:
    login, sandbox = _LOGIN.search(said), _SANDBOX.search(said)
    return RunningStack(**login.groupdict(), sandbox_url=sandbox["url"]) if login and sandbox else None


@pytest.fixture(scope="session")
def page(stack: RunningStack) -> Iterator[Page]:
    """One tab for all tests: a new one would load Airflow's scripts again."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.find_or_install(os.environ), args=list(ARGUMENTS))
        page = browser.new_context(viewport=WINDOW).new_page()
        page.set_default_timeout(PAGE_SECONDS * 1000)
        expect.set_options(timeout=PAGE_SECONDS * 1000)
        yield page
        browser.close()


@pytest.fixture(scope="session")
def ui(page: Page, stack: RunningStack) -> AirflowUi:
    """Airflow's UI, logged in with the printed password."""
    found = AirflowUi(page, stack.url, pictures=os.environ.get("PENSTOCK_PICTURES"))
    found.log_in(stack.user, stack.password)
    return found


@pytest.fixture(autouse=True)
def picture_of_a_failure(request: pytest.FixtureRequest, page: Page) -> Iterator[None]:
    """What the browser showed when a test failed, for whoever has to find out why."""
    failures = request.session.testsfailed
    yield
    if request.session.testsfailed > failures:
        path = Path(tempfile.gettempdir()) / f"penstock-{request.node.name}.png"
        page.screenshot(path=path)
