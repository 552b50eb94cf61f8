"""Klaviyo's door as HTTP sees it: headers, limits, errors, and what faults make of answers."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.sandbox_fixture import BENCH_EVENTS, Sandbox

Caller = Callable[..., requests.Response]
EMAIL = {"filter": "equals(messages.channel,'email')"}


@pytest.fixture
def call(sandbox: Sandbox) -> Caller:
    key = sandbox.account("KLAVIYO").credentials["api_key"]

    def send(path: str, params: Any = None, method: str = "GET", **options: Any) -> requests.Response:
        headers = {"Authorization": f"Klaviyo-API-Key {key}", "revision": "2026-10-15", **options.pop("headers", {})}
        url = path if path.startswith("http") else f"{sandbox.base_url('klaviyo')}/api/{path}"
        return requests.request(
            method, url, params=params, headers={k: v for k, v in headers.items() if v}, timeout=5, **options
        )

    return send


def error(answer: requests.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["errors"][0]
    assert found["status"] == answer.status_code
    return found


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": ""}, 401, "not_authenticated"),
        ({"Authorization": "Bearer pk_1"}, 401, "not_authenticated"),
        ({"Authorization": "Klaviyo-API-Key pk_unknown"}, 401, "authentication_failed"),
        ({"revision": ""}, 400, "invalid"),
        ({"revision": "yesterday"}, 400, "invalid"),
        ({"revision": "2020-01-01"}, 410, "gone"),
    ],
)
def test_a_call_without_key_or_revision_is_refused(
    call: Caller, headers: dict[str, str], status: int, code: str
) -> None:
    answer = call("lists", headers=headers)
    assert answer.status_code == status
    assert error(answer)["code"] == code


@pytest.mark.parametrize(
    ("path", "params", "place"),
    [
        ("events", {"foo": "1"}, "foo"),
        ("events", {"page[size]": "1001"}, "page[size]"),
        ("events", {"page[size]": "0"}, "page[size]"),
        ("events", {"page[cursor]": "nonsense"}, "page[cursor]"),
        ("events", {"sort": "value"}, "sort"),
        ("events", {"include": "lists"}, "include"),
        ("events", {"filter": "equals(name,'x')"}, "filter"),
        ("events", {"filter": "contains(metric_id,'x')"}, "filter"),
        ("events", {"filter": "greater-or-equal(datetime,2026-99-01)"}, "filter"),
        ("campaigns", {}, "filter"),
        ("campaigns", {"filter": "equals(archived,true)"}, "filter"),
        ("campaigns", {"filter[send_time][gte]": "2026-01-01"}, "filter[send_time][gte]"),
    ],
)
def test_what_the_contract_does_not_know_is_refused(
    call: Caller, path: str, params: dict[str, str], place: str
) -> None:
    answer = call(path, params)
    assert answer.status_code == 400
    assert error(answer)["source"] == {"parameter": place}


@pytest.mark.parametrize(
    ("kind", "attributes", "status"),
    [
        ("campaign-values-report", {"conversion_metric_id": "nope"}, 404),
        ("campaign-values-report", {"statistics": ["revenue"]}, 400),
        ("campaign-values-report", {"timeframe": {"start": "2025-01-01T00:00:00", "end": "2026-06-01T00:00:00"}}, 400),
        ("campaign-values-report", {"group_by": ["send_channel"]}, 400),
        ("campaign-values-report", {"interval": "daily"}, 400),
        ("flow-series-report", {"interval": "yearly"}, 400),
        (
            "flow-series-report",
            {"interval": "daily", "timeframe": {"start": "2026-06-01T00:00:00", "end": "2026-09-01T00:00:00"}},
            400,
        ),
    ],
)
def test_a_report_that_klaviyo_would_not_make_is_refused(
    sandbox: Sandbox, call: Caller, kind: str, attributes: dict[str, Any], status: int
) -> None:
    metrics = call("metrics").json()["data"]
    metric = next(each["id"] for each in metrics if each["attributes"]["name"] == "Placed Order")
    body = {"statistics": ["opens"], "timeframe": {"key": "last_7_days"}, "conversion_metric_id": metric, **attributes}
    if kind == "flow-series-report":
        body.setdefault("interval", "daily")
    answer = call(f"{kind}s", method="POST", json={"data": {"type": kind, "attributes": body}})
    assert answer.status_code == status, answer.text
    error(answer)


def test_reports_are_limited_to_one_a_second_two_a_minute_and_say_when_to_come_back(call: Caller) -> None:
    answers = [call("flow-values-reports", method="POST", json={}) for _ in range(2)]
    assert [each.status_code for each in answers] == [400, 429]
    assert answers[0].headers["ratelimit-limit"] == "2"
    assert answers[1].headers["retry-after"] == "1"
    assert "ratelimit-limit" not in answers[1].headers
    assert "Expected available in 1 second." in error(answers[1])["detail"]


def test_the_limits_of_one_account_do_not_touch_another(sandbox: Sandbox, call: Caller) -> None:
    assert [call("accounts").status_code for _ in range(2)] == [200, 429]
    key = sandbox.account("KLAVIYO", "borealis").credentials["api_key"]
    assert call("accounts", headers={"Authorization": f"Klaviyo-API-Key {key}"}).status_code == 200


def test_calls_over_the_limit_show_in_the_ledger(sandbox: Sandbox, call: Caller) -> None:
    for _ in range(3):
        call("accounts")
    burst = next(
        row
        for row in sandbox.get("calls")["limits"]
        if row["vendor"] == "klaviyo" and row["family"] == "accounts" and row["period"] == 1
    )
    assert burst == burst | {"limit": 1, "most_in_window": 3, "most_granted": 1, "is_exceeded": True, "rejected": 2}


def test_sparse_fields_thin_the_attributes(call: Caller) -> None:
    data = call("events", {"fields[event]": "datetime", "page[size]": "1"}).json()["data"]
    assert list(data[0]["attributes"]) == ["datetime"]


def test_next_links_are_whole_urls_that_keep_the_query(call: Caller) -> None:
    first = call("events", {"page[size]": "3", "sort": "datetime"}).json()
    second = call(first["links"]["next"]).json()
    assert len(second["data"]) == 3
    assert {each["id"] for each in first["data"]}.isdisjoint(each["id"] for each in second["data"])


# faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_a_status_fault_speaks_in_the_vendors_words(sandbox: Sandbox, call: Caller, status: int) -> None:
    sandbox.faults({"vendor": "klaviyo", "action": "status", "times": 1, "params": {"status": status}})
    answer = call("lists")
    assert answer.status_code == status
    assert "retry-after" not in answer.headers
    assert error(answer)["code"]
    assert call("lists").status_code == 200


def test_a_429_may_carry_retry_after(sandbox: Sandbox, call: Caller) -> None:
    sandbox.faults({"action": "status", "times": 1, "params": {"status": 429, "retry_after": 7}})
    assert call("lists").headers["retry-after"] == "7"


def test_a_fault_may_be_for_one_account_and_one_path_alone(sandbox: Sandbox, call: Caller) -> None:
    other = sandbox.account("KLAVIYO", "borealis")
    sandbox.faults({"vendor": "klaviyo", "path": "/api/lists$", "account": other.account_id, "action": "expired_token"})
    headers = {"Authorization": f"Klaviyo-API-Key {other.credentials['api_key']}"}
    assert call("lists", headers=headers).status_code == 401
    assert call("segments", headers=headers).status_code == 200
    assert call("lists").status_code == 200


def test_html_comes_where_json_should(sandbox: Sandbox, call: Caller) -> None:
    sandbox.faults({"action": "html", "times": 1})
    answer = call("lists")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"action": "drop"}, requests.ConnectionError),
        ({"action": "timeout", "params": {"seconds": 0.05}}, requests.ConnectionError),
        ({"action": "truncate", "params": {"wrong_length": True}}, requests.exceptions.ChunkedEncodingError),
    ],
)
def test_a_connection_may_break(
    sandbox: Sandbox, call: Caller, rule: dict[str, Any], expected: type[Exception]
) -> None:
    sandbox.faults({**rule, "times": 1})
    with pytest.raises(expected):
        call("lists")
    assert call("lists").status_code == 200
    assert sandbox.answered("klaviyo", "lists", 0) == 1


def test_a_body_cut_in_half_with_its_own_length_is_not_json(sandbox: Sandbox, call: Caller) -> None:
    sandbox.faults({"action": "truncate", "times": 1})
    answer = call("lists")
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Unterminated|Expecting|Invalid"):
        answer.json()


def test_a_slow_answer_is_a_right_one(sandbox: Sandbox, call: Caller) -> None:
    sandbox.faults({"action": "slow", "times": 1, "params": {"seconds": 0.1}})
    began = time.monotonic()
    assert call("lists").status_code == 200
    assert time.monotonic() - began >= 0.1


def ids(body: dict[str, Any]) -> list[str]:
    return [each["id"] for each in body["data"]]


def test_a_repeated_cursor_never_ends(sandbox: Sandbox, call: Caller) -> None:
    sandbox.faults({"path": "/api/events$", "action": "repeat_cursor"})
    first = call("events", {"page[size]": "5"}).json()
    second = call(first["links"]["next"]).json()
    assert ids(second) == ids(first)
    assert second["links"]["next"] == call(second["links"]["next"]).json()["links"]["next"]


@pytest.mark.parametrize("size", ["7", "10"])
def test_a_page_may_come_twice_and_the_rest_comes_once(sandbox: Sandbox, call: Caller, size: str) -> None:
    metrics = call("metrics").json()["data"]
    metric = next(each["id"] for each in metrics if each["attributes"]["name"] == "Placed Order")
    condition = f"equals(metric_id,'{metric}'),greater-or-equal(datetime,2026-11-18T00:00:00+13:00)"
    params = {"filter": condition, "page[size]": size, "sort": "datetime"}

    def pages() -> list[list[str]]:
        found = []
        url, query = "events", params
        while url:
            body = call(url, query).json()
            found.append(ids(body))
            url, query = body["links"]["next"], None
        return found

    undisturbed = pages()
    sandbox.faults({"path": "/api/events$", "action": "duplicate_page", "times": 1})
    assert pages() == [undisturbed[0], *undisturbed]


@pytest.mark.parametrize(
    ("action", "is_spoiled"),
    [
        ("missing_id", lambda record: "id" not in record),
        ("wrong_type", lambda record: isinstance(record["attributes"]["datetime"], dict)),
        ("nul_character", lambda record: "\x00" in record["attributes"]["event_properties"]["Source Name"]),
        ("lone_surrogate", lambda record: "\ud800" in record["attributes"]["event_properties"]["Source Name"]),
    ],
)
def test_a_malformed_record_comes_on_top_of_the_good_ones(
    sandbox: Sandbox, call: Caller, action: str, is_spoiled: Callable[[dict[str, Any]], bool]
) -> None:
    params = {"page[size]": "5", "sort": "datetime"}
    good = call("events", params).json()["data"]
    sandbox.faults({"path": "/api/events$", "action": action})
    spoiled = call("events", params).json()
    assert spoiled["data"][:-1] == good
    assert is_spoiled(spoiled["data"][-1])
    assert spoiled["data"][-1].get("id") not in {each["id"] for each in good}
    assert len(call(spoiled["links"]["next"]).json()["data"]) == 5


def test_a_new_field_is_in_every_record(sandbox: Sandbox, call: Caller) -> None:
    sandbox.faults({"path": "/api/lists$", "action": "new_field"})
    assert all("sandbox_new_field" in each for each in call("lists").json()["data"])


# the benchmark's account --------------------------------------------------------------------------------------------


@pytest.fixture
def bench(sandbox: Sandbox, call: Caller) -> Caller:
    account = next(each for each in sandbox.accounts() if each["account_id"] == "BENCH1")
    headers = {"Authorization": f"Klaviyo-API-Key {account['credentials']['api_key']}"}
    return lambda path, params=None: call(path, params, headers=headers)


@pytest.mark.parametrize("sort", ["datetime", "-datetime"])
@pytest.mark.parametrize("size", ["1000", "333"])
def test_the_benchmark_stream_is_whole_and_in_order(bench: Caller, sort: str, size: str) -> None:
    found: list[tuple[str, str]] = []
    url: str | None = "events"
    params: dict[str, str] | None = {"sort": sort, "page[size]": size}
    while url:
        body = bench(url, params).json()
        found += [(each["attributes"]["datetime"], each["id"]) for each in body["data"]]
        url, params = body["links"]["next"], None
    assert len({identity for _, identity in found}) == len(found) == BENCH_EVENTS
    assert [at for at, _ in found] == sorted((at for at, _ in found), reverse=sort.startswith("-"))


def test_the_benchmark_stream_can_be_cut_by_time(bench: Caller) -> None:
    body = bench(
        "events",
        {
            "filter": "greater-or-equal(datetime,2026-11-17T22:00:00Z),less-than(datetime,2026-11-17T22:30:00Z)",
            "page[size]": "1000",
            "sort": "datetime",
        },
    ).json()
    assert len(body["data"]) == 500
    first = body["data"][0]["attributes"]
    assert (first["datetime"], first["timestamp"]) == ("2026-11-17T22:00:00+00:00", 1794952800)
    assert body["links"]["next"] is None


def test_the_benchmark_stream_takes_malformed_records_too(sandbox: Sandbox, bench: Caller) -> None:
    sandbox.faults({"path": "/api/events$", "action": "missing_id"})
    data = bench("events", {"page[size]": "10"}).json()["data"]
    assert len(data) == 11
    assert "id" not in data[-1]


def test_cursors_are_opaque_but_sound(call: Caller) -> None:
    forged = base64.urlsafe_b64encode(json.dumps([1]).encode()).decode()
    assert call("events", {"page[cursor]": forged}).status_code == 400
