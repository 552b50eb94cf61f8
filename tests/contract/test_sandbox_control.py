"""The sandbox's own doors, and the command that starts it."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from typing import Any

import pytest
import requests

from tests.sandbox_fixture import NOW, Sandbox


def put(sandbox: Sandbox, door: str, body: Any) -> requests.Response:
    return requests.put(f"{sandbox.url}/sandbox/{door}", json=body, timeout=5)


def test_accounts_are_told_with_all_that_a_client_needs(sandbox: Sandbox) -> None:
    accounts = {each["account_id"]: each for each in sandbox.accounts()}
    first = [each for each in accounts.values() if each["platform"] in ("META", "GA4", "KLAVIYO")]
    assert len(first) == 10  # nine of the shops, and the benchmark's
    keys = {"platform", "shop_id", "shop_name", "account_id", "account_name", "credentials", "time_zone", "currency"}
    for account in accounts.values():
        assert keys | {"settings"} == set(account)
    needed = {
        "META": {"access_token", "app_id", "app_secret"},
        "GA4": {"service_account_json"},
        "KLAVIYO": {"api_key"},
    }
    for account in first:
        assert set(account["credentials"]) == needed[account["platform"]]
    google = json.loads(
        next(each for each in accounts.values() if each["platform"] == "GA4")["credentials"]["service_account_json"]
    )
    assert google["token_uri"] == sandbox.token_url


@pytest.mark.parametrize("platform", ["META", "GA4", "KLAVIYO"])
def test_truth_is_told_day_by_day(sandbox: Sandbox, platform: str) -> None:
    account = sandbox.account(platform, "kiritimati")
    today = sandbox.as_of(account)
    days = sandbox.truth(account, today - dt.timedelta(days=2), today)
    assert [day["date"] for day in days] == [(today - dt.timedelta(days=back)).isoformat() for back in (2, 1, 0)]
    assert all(day["orders"] > 0 for day in days)


def test_the_as_of_day_is_the_accounts_own(sandbox: Sandbox) -> None:
    days = {shop: sandbox.as_of(sandbox.account("META", shop)) for shop in ("borealis", "aurora", "kiritimati")}
    assert days == {
        "borealis": dt.date(2026, 11, 18),
        "aurora": dt.date(2026, 11, 18),
        "kiritimati": dt.date(2026, 11, 19),
    }


def test_the_clock_can_be_set_and_moves_what_is_known(sandbox: Sandbox) -> None:
    account = sandbox.account("KLAVIYO")
    today = sandbox.as_of(account)
    before = sandbox.truth(account, today, today)[0]
    assert put(sandbox, "clock", {"now": (NOW + dt.timedelta(days=1)).isoformat()}).ok
    after = sandbox.truth(account, today, today)[0]
    assert after["placed_orders"] > before["placed_orders"]
    assert put(sandbox, "clock", {"now": "whenever"}).status_code == 400


def test_one_as_of_day_knows_one_truth(sandbox: Sandbox) -> None:
    account = sandbox.account("META", "borealis")
    today = sandbox.as_of(account)
    window = (today - dt.timedelta(days=3), today)
    morning = sandbox.truth(account, *window)
    sandbox.now(NOW + dt.timedelta(hours=11))
    assert sandbox.truth(account, *window) == morning


def test_faults_can_be_set_read_and_reset(sandbox: Sandbox) -> None:
    assert put(sandbox, "faults", [{"vendor": "slack", "action": "drop", "times": 1}]).json() == {"rules": 1}
    assert sandbox.get("faults")[0] | {"hits": 0, "action": "drop", "vendor": "slack"} == sandbox.get("faults")[0]
    for wrong in ([{"action": "explode"}], {"action": "drop"}, "x"):
        assert put(sandbox, "faults", wrong).status_code == 400
    requests.post(f"{sandbox.url}/sandbox/reset", timeout=5).raise_for_status()
    assert sandbox.get("faults") == []
    assert sandbox.get("calls") == {"answers": [], "limits": [], "total": 0}


def test_latency_can_be_set(sandbox: Sandbox) -> None:
    assert put(sandbox, "latency", {"milliseconds": 60}).ok
    key = sandbox.account("KLAVIYO").credentials["api_key"]
    headers = {"Authorization": f"Klaviyo-API-Key {key}", "revision": "2026-10-15"}
    answer = requests.get(f"{sandbox.base_url('klaviyo')}/api/lists", headers=headers, timeout=5)
    assert answer.elapsed.total_seconds() >= 0.06


@pytest.mark.parametrize("query", [{"platform": "META"}, {"platform": "NONE", "account_id": "1"}])
def test_an_unknown_account_has_no_truth(sandbox: Sandbox, query: dict[str, str]) -> None:
    assert requests.get(f"{sandbox.url}/sandbox/truth", params=query, timeout=5).status_code == 404


def test_an_unknown_path_is_said_to_be_unknown(sandbox: Sandbox) -> None:
    answer = requests.get(f"{sandbox.url}/nowhere", timeout=5)
    assert answer.status_code == 404
    assert "/nowhere" in answer.json()["error"]


def test_the_command_says_where_it_listens() -> None:
    command = [sys.executable, "-m", "sandbox", "--port", "0", "--now", "2025-05-05T12:00:00Z", "--faults", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            started = json.loads(process.stdout.readline())
            health = _wait_for_health(started["sandbox"])
        finally:
            process.terminate()
        assert process.wait(10) in (0, -15)
    assert health["now"].startswith("2025-05-05T12:00")


def _wait_for_health(url: str) -> dict[str, Any]:
    # The socket is open before the address is printed, so that a first call waits instead of being refused.
    answer: dict[str, Any] = requests.get(f"{url}/sandbox/health", timeout=20).json()
    return answer


def test_the_command_refuses_faults_that_make_no_sense() -> None:
    command = [sys.executable, "-m", "sandbox", "--faults", '[{"action": "explode"}]']
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 2
    assert "faults" in finished.stderr
