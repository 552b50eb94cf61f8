"""The Steam client against the sandbox's store, and that store's own manners."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from penstock.clients.credentials import Credentials
from penstock.clients.steam import CHECK_APPID, PAUSE_S, PUBLIC, RULES, SteamClient
from penstock.core.errors import CATALOGUE, PenstockError
from penstock.sources.steam import LIMITS, details_request, fetch_details, fetch_reviews, reviews_request
from sandbox.steam_apps import BROKEN_APPID, POISON_APPID, catalogue
from tests.client_doubles import Breaker, Clock, Limiter
from tests.sandbox_fixture import Sandbox


@pytest.fixture
def limiter() -> Limiter:
    return Limiter()


@pytest.fixture
def client(sandbox: Sandbox, limiter: Limiter) -> Any:
    clock = Clock()
    credentials = Credentials(sandbox.base_url("steam"))
    opened = SteamClient(credentials, PUBLIC, LIMITS, limiter, Breaker(), clock, clock.sleep, lambda: 0.5)
    yield opened
    opened.close()


def refused(client: SteamClient, appid: int = CHECK_APPID) -> PenstockError:
    with pytest.raises(PenstockError) as failure:
        client.send(details_request(appid))
    return failure.value


def test_what_is_fetched_is_what_is_true(client: SteamClient, sandbox: Sandbox) -> None:
    today = sandbox.state.clock.now().date()
    for app in list(catalogue(sandbox.state.seed).values())[:40]:
        details, reviews = fetch_details(client.send, app.appid), fetch_reviews(client.send, app.appid)
        if app.state == "missing":
            assert (details, reviews) == (None, None)
            continue
        truth = app.truth(today)
        assert details is not None
        assert reviews is not None
        found = {**details, **reviews, "state": app.state}
        assert {name: found[name] for name in truth} == truth


def test_check_says_which_app_it_read(client: SteamClient) -> None:
    assert client.check().startswith("Steam's store answers; app 440 is ")


@pytest.mark.parametrize("status", [429, 403, 200])
def test_a_refusal_closes_the_limit_for_everybody_and_is_not_retried(
    client: SteamClient, sandbox: Sandbox, limiter: Limiter, status: int
) -> None:
    sandbox.faults({"vendor": "steam", "action": "status", "params": {"status": status}})
    failure = refused(client)
    assert (failure.code, failure.retry_after) == ("STEAM_RATE_LIMIT", PAUSE_S)
    assert limiter.blocked == [("steam:public:storefront", PAUSE_S, "STEAM_RATE_LIMIT")]
    assert sandbox.answered("steam") == 1


def test_the_vendor_s_own_word_on_the_wait_counts(client: SteamClient, sandbox: Sandbox) -> None:
    sandbox.faults({"vendor": "steam", "action": "status", "params": {"status": 429, "retry_after": 7}})
    assert refused(client).retry_after == 7.0


@pytest.mark.parametrize("action", ["drop", "html", "truncate"])
def test_a_passing_fault_is_got_over(client: SteamClient, sandbox: Sandbox, action: str) -> None:
    sandbox.faults({"vendor": "steam", "action": action, "times": 1})
    assert fetch_details(client.send, CHECK_APPID) is not None
    assert sandbox.answered("steam") == 2


def test_a_server_error_is_tried_four_times(client: SteamClient, sandbox: Sandbox) -> None:
    assert refused(client, BROKEN_APPID).code == "STEAM_TRANSIENT"
    assert sandbox.answered("steam") == 4


@pytest.mark.parametrize(("status", "code"), [(404, "STEAM_NOT_FOUND"), (400, "STEAM_INVALID_QUERY")])
def test_other_refusals_have_their_codes(client: SteamClient, sandbox: Sandbox, status: int, code: str) -> None:
    sandbox.faults({"vendor": "steam", "action": "status", "params": {"status": status}})
    assert refused(client).code == code


def test_an_answer_of_the_wrong_types_is_an_unreadable_record(client: SteamClient) -> None:
    for fetch in (fetch_details, fetch_reviews):
        with pytest.raises(PenstockError) as failure:
            fetch(client.send, POISON_APPID)
        assert failure.value.code == "WRONG_TYPE"


def test_the_error_table_uses_codes_of_the_catalogue() -> None:
    assert {rule.code for rule in RULES} <= set(CATALOGUE)


def test_the_store_counts_the_calls_of_an_address(sandbox: Sandbox) -> None:
    answer = requests.put(f"{sandbox.url}/sandbox/steam", json={"details_limit": 2}, timeout=10)
    assert answer.json()["details_limit"] == 2
    url = f"{sandbox.base_url('steam')}/api/appdetails"
    answers = [requests.get(url, params={"appids": CHECK_APPID}, timeout=10) for _ in range(3)]
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[2].content == b"null"
    assert requests.put(f"{sandbox.url}/sandbox/steam", json={"nonsense": 2}, timeout=10).status_code == 400


def test_reviews_are_paged_by_cursor_and_counted_on_the_first_page_alone(sandbox: Sandbox) -> None:
    url = f"{sandbox.base_url('steam')}/appreviews/{CHECK_APPID}"
    cursor, seen, total = "*", set(), 0
    for page in range(4):
        query = {"json": 1, "num_per_page": 50, "cursor": cursor}
        body = requests.get(url, params=query, timeout=10).json()  # type: ignore[arg-type]
        assert ("total_reviews" in body["query_summary"]) is (page == 0)
        total = body["query_summary"].get("total_reviews", total)
        seen |= {review["recommendationid"] for review in body["reviews"]}
        cursor = body["cursor"]
    assert len(seen) == min(200, total)


def test_several_ids_at_once_are_refused(sandbox: Sandbox) -> None:
    answer = requests.get(f"{sandbox.base_url('steam')}/api/appdetails", params={"appids": "440,450"}, timeout=10)
    assert (answer.status_code, answer.content) == (400, b"null")
    assert reviews_request(440).params["num_per_page"] == "0"
