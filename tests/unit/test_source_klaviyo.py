from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from penstock.core.errors import ConfigurationError, UnreadableRecord
from penstock.sources.fields import KEY_SEPARATOR
from penstock.sources.klaviyo import KLAVIYO_REVISION, SOURCE
from penstock.sources.klaviyo_reports import REPORT_AMOUNTS, REPORT_COUNTS, days_from
from penstock.sources.stream import Account, Request, Slice

ZONE = ZoneInfo("America/New_York")
METRICS = {"Placed Order": "M1", "Opened Email": "M2"}
ACCOUNT = Account("c0", "shop", "AbCdEf", time_zone="America/New_York", facts={"metrics": METRICS})


def days(first: str, end: str, **params: str) -> Slice:
    start, stop = (dt.datetime.fromisoformat(day).replace(tzinfo=ZONE) for day in (first, end))
    return Slice(0, "x", start, stop, params)


def event(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "type": "event",
        "id": "E1",
        "attributes": {"datetime": "2026-11-02T03:30:00+00:00", "event_properties": {"$value": 12.5}},
        "relationships": {"metric": {"data": {"type": "metric", "id": "M1"}}},
    }
    return {**good, **changes}


# -- requests


def test_a_campaign_listing_names_channel_and_archive_in_the_filters_own_syntax() -> None:
    stream = SOURCE.stream("campaigns")
    variants = stream.variants(ACCOUNT)
    assert {(each["channel"], each["archived"]) for each in variants} == {
        (channel, archived) for channel in ("email", "sms", "mobile_push") for archived in ("true", "false")
    }
    request = stream.request(ACCOUNT, Slice(0, "campaigns", params=variants[1]), None)
    assert request.params["filter"] == "equals(messages.channel,'email'),equals(archived,true)"
    assert request.params["include"] == "campaign-messages"
    assert request.params["page[size]"] == "100"


def test_events_are_asked_for_per_chosen_metric_between_two_instants() -> None:
    stream = SOURCE.stream("events")
    assert stream.variants(ACCOUNT) == ({"metric": "Placed Order"},)
    chosen = Account(
        "c0", "s", "1", settings={"event_metrics": ["Opened Email", "Nobody Has This"]}, facts=ACCOUNT.facts
    )
    assert stream.variants(chosen) == ({"metric": "Opened Email"}, {"metric": "Placed Order"})
    request = stream.request(ACCOUNT, days("2026-11-01", "2026-11-02", metric="Placed Order"), "C2")
    assert request.params["filter"] == (
        "equals(metric_id,'M1'),greater-or-equal(datetime,2026-11-01T04:00:00Z),less-than(datetime,2026-11-02T05:00:00Z)"
    )
    assert (request.params["page[size]"], request.params["page[cursor]"]) == ("1000", "C2")


def test_aggregates_ask_the_accounts_own_days_by_the_message_that_counts() -> None:
    stream = SOURCE.stream("message_aggregates")
    assert stream.variants(ACCOUNT) == (
        {"metric": "Placed Order", "by": "$attributed_message"},
        {"metric": "Opened Email", "by": "$message"},
    )
    request = stream.request(
        ACCOUNT, days("2026-11-01", "2026-11-03", metric="Placed Order", by="$attributed_message"), "C2"
    )
    assert (request.method, request.path) == ("POST", "api/metric-aggregates")
    attributes = (request.body or {})["data"]["attributes"]
    assert attributes == {
        "metric_id": "M1",
        "measurements": ["count", "unique", "sum_value"],
        "interval": "day",
        "page_size": 500,
        "timezone": "America/New_York",
        "filter": ["greater-or-equal(datetime,2026-11-01T04:00:00Z)", "less-than(datetime,2026-11-03T05:00:00Z)"],
        "by": ["$attributed_message"],
        "page_cursor": "C2",
    }


def test_zones_that_the_vendor_does_not_know_are_named_as_it_knows_them() -> None:
    kyiv = Account("c0", "s", "1", time_zone="Europe/Kyiv", facts=ACCOUNT.facts)
    request = SOURCE.stream("totals").request(
        kyiv, days("2026-11-01", "2026-11-02", metric="Placed Order", by=""), None
    )
    assert (request.body or {})["data"]["attributes"]["timezone"] == "Europe/Kiev"


def test_the_conversion_metric_is_the_accounts_choice_or_placed_order() -> None:
    chosen = Account("c0", "s", "1", settings={"conversion_metric_id": "M9"}, facts=ACCOUNT.facts)
    for account, metric in ((ACCOUNT, "M1"), (chosen, "M9")):
        request = SOURCE.stream("flow_series").request(account, days("2026-11-01", "2026-11-03"), None)
        assert (request.body or {})["data"]["attributes"]["conversion_metric_id"] == metric


@pytest.mark.parametrize("name", ["campaign_values", "flow_series", "totals", "events", "message_aggregates"])
def test_an_account_without_orders_yet_has_nothing_to_ask(name: str) -> None:
    assert SOURCE.stream(name).variants(Account("c0", "s", "1")) == ()


def test_report_windows_include_both_ends_and_share_no_day() -> None:
    stream = SOURCE.stream("flow_series")
    first, second = (
        (stream.request(ACCOUNT, window, None).body or {})["data"]["attributes"]["timeframe"]
        for window in (days("2026-10-01", "2026-10-11"), days("2026-10-11", "2026-10-21"))
    )
    assert first == {"start": "2026-10-01T00:00:00-04:00", "end": "2026-10-10T23:59:59-04:00"}
    assert second["start"] == "2026-10-11T00:00:00-04:00"
    assert stream.slice_days == 60


def test_campaign_values_are_a_year_as_of_the_windows_last_day() -> None:
    request = SOURCE.stream("campaign_values").request(ACCOUNT, days("2026-11-01", "2026-11-02"), "C2")
    attributes = (request.body or {})["data"]["attributes"]
    assert attributes["timeframe"] == {"start": "2025-11-02T00:00:00-04:00", "end": "2026-11-01T23:59:59-05:00"}
    assert {"campaign_id", "campaign_message_id"} <= set(attributes["group_by"])
    assert request.params == {"page_cursor": "C2"}
    assert SOURCE.stream("campaign_values").is_as_of


def test_people_stay_at_the_vendor() -> None:
    request = SOURCE.stream("profiles").request(ACCOUNT, Slice(0, "profiles"), None)
    fields = set(request.params["fields[profile]"].split(","))
    assert not fields & {"email", "phone_number", "first_name", "last_name", "location.ip"}
    assert not SOURCE.stream("profiles").is_default


# -- limits


@pytest.mark.parametrize(
    ("family", "per_second", "per_minute"),
    [("events", 350, 3500), ("metrics", 10, 150), ("flows", 3, 60), ("accounts", 1, 15), ("lists", 75, 750)],
)
def test_paces_use_most_of_a_limit_and_never_more(family: str, per_second: int, per_minute: int) -> None:
    burst, steady = SOURCE.limits[family]
    for limit, allowed, window in ((burst, per_second, 1.0), (steady, per_minute, 60.0)):
        at_most = int(window * limit.count / limit.period) + limit.burst  # GCRA: the rate and the burst on top
        assert at_most <= allowed + (1 if allowed == 1 else 0)
        assert window * limit.count / limit.period >= 0.9 * allowed


def test_report_calls_stay_below_two_a_minute_and_225_a_day() -> None:
    limits = {limit.count: limit for limit in SOURCE.limits["reports"]}
    assert limits[2].is_hard_window
    assert limits[2].period >= 60
    day = next(limit for limit in SOURCE.limits["reports"] if limit.period == 86400)
    assert day.is_hard_window
    assert 200 <= day.count < 225


# -- answers


def test_the_cursor_is_taken_out_of_the_next_link() -> None:
    stream = SOURCE.stream("events")
    link = "https://a.klaviyo.com/api/events?filter=x&page%5Bcursor%5D=WzE2%3D%3D&page%5Bsize%5D=1000"
    assert stream.parse({"data": [], "links": {"next": link}}, Request("GET", "x")).next_token == "WzE2=="
    assert stream.parse({"data": [], "links": {"next": None}}, Request("GET", "x")).next_token is None
    with pytest.raises(UnreadableRecord):
        stream.parse({"data": [], "links": {"next": "https://a.klaviyo.com/api/events"}}, Request("GET", "x"))


def test_addresses_that_only_repeat_ids_are_not_kept() -> None:
    """A new host name or path at the vendor must not look like a change of every record."""
    links = {"self": "https://a.klaviyo.com/api/events/E1/"}
    own_field = {"datetime": "2026-11-02T03:30:00Z", "links": ["a field of the shop's own"]}
    relations = {"metric": {"data": {"type": "metric", "id": "M1"}}, "attributions": {}, "odd": ["links"]}
    linked = {name: value | {"links": links} if type(value) is dict else value for name, value in relations.items()}
    plain = {"type": "event", "id": "E1", "attributes": own_field, "relationships": relations}
    row = SOURCE.stream("events").row(plain | {"relationships": linked, "links": links}, ACCOUNT)
    assert row.payload == plain


def test_an_event_is_dated_in_the_accounts_zone() -> None:
    row = SOURCE.stream("events").row(event(), ACCOUNT)
    assert (row.record_key, row.record_date) == ("E1", dt.date(2026, 11, 1))
    assert row.cursor_value == "2026-11-02T03:30:00+00:00"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"attributes": {"datetime": "2026-11-02T03:30:00"}},
        {"attributes": {"datetime": 1700000000}},
        {"attributes": None},
        {"relationships": {}},
        {"attributes": {"datetime": "2026-11-02T03:30:00Z", "event_properties": {"$value": "a lot"}}},
    ],
)
def test_events_that_sql_could_not_cast_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableRecord):
        SOURCE.stream("events").row(event(**changes), ACCOUNT)


def test_campaigns_carry_their_messages() -> None:
    stream = SOURCE.stream("campaigns")
    links = {"campaign-messages": {"data": [{"type": "campaign-message", "id": "S1"}, {"id": "unknown"}]}}
    campaign = {"type": "campaign", "id": "C1", "attributes": {"name": "Sale"}, "relationships": links}
    message = {"type": "campaign-message", "id": "S1", "attributes": {}, "links": {"self": "https://x"}}
    body = {"data": [campaign, "broken"], "included": [message]}
    first, second = stream.parse(body, Request("GET", "x")).records
    assert first["campaign_messages"] == [{"type": "campaign-message", "id": "S1", "attributes": {}}]
    assert stream.row(first, ACCOUNT).record_key == "C1"
    with pytest.raises(UnreadableRecord):
        stream.row(second, ACCOUNT)


def aggregate_page(dates: list[str], data: list[Any], by: str = "$message") -> Any:
    name = "totals" if not by else "message_aggregates"
    stream = SOURCE.stream(name)
    request = stream.request(ACCOUNT, days("2026-11-01", "2026-11-03", metric="Opened Email", by=by), None)
    return stream, stream.parse({"data": {"attributes": {"dates": dates, "data": data}}}, request)


DATES = ["2026-11-01T04:00:00+00:00", "2026-11-02T00:00:00-05:00"]


def test_aggregates_become_one_record_per_day_and_message() -> None:
    measured = {"count": [3.0, 0.0], "unique": [2.0, 0.0], "sum_value": [10.25, 0.0]}
    stream, page = aggregate_page(DATES, [{"dimensions": ["S1"], "measurements": measured}])
    (record,) = page.records
    row = stream.row(record, ACCOUNT)
    assert row.record_key.split(KEY_SEPARATOR) == ["2026-11-01", "M2", "S1"]
    assert row.payload["metric_name"] == "Opened Email"
    assert (row.payload["count"], row.payload["unique"], row.payload["sum_value"]) == (3, 2, 10.25)
    assert type(row.payload["count"]) is int


def test_totals_keep_days_without_anything() -> None:
    measured = {"count": [3, 0], "unique": [2, 0], "sum_value": [10, 0]}
    stream, page = aggregate_page(DATES, [{"dimensions": [], "measurements": measured}], by="")
    keys = [stream.row(record, ACCOUNT).record_key.split(KEY_SEPARATOR) for record in page.records]
    assert keys == [["2026-11-01", "", "TOTAL"], ["2026-11-02", "", "TOTAL"]]


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-01T04:00:00+00:00",  # the instant, before the clocks change
        "2026-11-02T05:00:00+00:00",  # and after
        "2026-11-02T00:00:00-05:00",
        "2026-11-02T00:00:00+00:00",  # a label: the instant would be the evening before
        "2026-11-02T00:00:00",
    ],
)
def test_however_the_beginning_of_a_day_is_written_it_is_that_day(written: str) -> None:
    stream, page = aggregate_page(
        [written], [{"dimensions": ["MSG1"], "measurements": {"count": [1.0], "unique": [1.0], "sum_value": [9.5]}}]
    )
    row = stream.row(page.records[0], ACCOUNT)
    assert str(row.record_date) == ("2026-11-01" if written.startswith("2026-11-01") else "2026-11-02")


def test_columns_that_do_not_fit_their_dates_are_a_mismatch() -> None:
    measured = {"count": [3], "unique": [2], "sum_value": [10]}
    with pytest.raises(UnreadableRecord):
        aggregate_page(DATES, [{"dimensions": ["S1"], "measurements": measured}])
    with pytest.raises(UnreadableRecord):
        aggregate_page(["soon"], [])


def test_a_chosen_conversion_metric_counts_as_orders() -> None:
    stream = SOURCE.stream("message_aggregates")
    chosen = Account("c0", "s", "1", settings={"conversion_metric_id": "M9"}, facts=ACCOUNT.facts)
    record = {
        "date": "2026-11-01",
        "metric_id": "M9",
        "by": "$attributed_message",
        "dimension": "S1",
        "count": 1,
        "unique": 1,
        "sum_value": 5.0,
    }
    assert stream.row(record, chosen).payload["metric_name"] == "Placed Order"


BESTELLUNG = {"metrics": {"Bestellung": "M9", "Opened Email": "M2"}}
ELSEWHERE = Account("c0", "s", "1", settings={"conversion_metric_id": "M9"}, facts=BESTELLUNG)


@pytest.mark.parametrize(
    ("stream", "params"),
    [
        ("events", {"metric": "Placed Order"}),
        ("message_aggregates", {"metric": "Placed Order", "by": "$attributed_message"}),
        ("totals", {"metric": "Placed Order", "by": ""}),
    ],
)
def test_a_chosen_conversion_metric_is_read_whatever_it_is_called(stream: str, params: dict[str, str]) -> None:
    """The runbook's remedy for an account without a metric of the name. Its revenue was zero."""
    declared = SOURCE.stream(stream)
    assert params in declared.variants(ELSEWHERE)
    request = declared.request(ELSEWHERE, days("2026-11-01", "2026-11-02", **params), None)
    assert "'M9'" in f"{request.body} {request.params}"


def test_orders_that_are_chosen_by_their_own_name_as_well_are_read_once() -> None:
    settings = {"conversion_metric_id": "M9", "event_metrics": ["Bestellung", "Opened Email"]}
    variants = SOURCE.stream("events").variants(dataclasses.replace(ELSEWHERE, settings=settings))
    assert variants == ({"metric": "Placed Order"}, {"metric": "Opened Email"})


def statistics(value: Any) -> dict[str, Any]:
    return dict.fromkeys((*REPORT_COUNTS, *REPORT_AMOUNTS), value)


def test_campaign_values_are_records_of_the_day_they_were_asked_for() -> None:
    stream = SOURCE.stream("campaign_values")
    request = stream.request(ACCOUNT, days("2026-11-01", "2026-11-02"), None)
    result = {
        "groupings": {"campaign_id": "C1", "campaign_message_id": "S1", "send_channel": "email"},
        "statistics": statistics(12.0),
    }
    (record,) = stream.parse({"data": {"attributes": {"results": [result]}}}, request).records
    row = stream.row(record, ACCOUNT)
    assert row.record_date == dt.date(2026, 11, 1)
    assert row.record_key.split(KEY_SEPARATOR) == ["2026-11-01", "C1", "S1", "email", "M1"]
    assert type(row.payload["recipients"]) is int


def test_flow_series_become_one_record_per_day_and_message() -> None:
    stream = SOURCE.stream("flow_series")
    request = stream.request(ACCOUNT, days("2026-11-01", "2026-11-03"), None)
    result = {
        "groupings": {"flow_id": "F1", "flow_message_id": "S1", "send_channel": "email"},
        "statistics": statistics([4.0, 0.0]),
    }
    dates = ["2026-11-01T00:00:00+00:00", "2026-11-02T00:00:00+00:00"]
    (record,) = stream.parse({"data": {"attributes": {"results": [result], "date_times": dates}}}, request).records
    row = stream.row(record, ACCOUNT)
    assert row.record_key.split(KEY_SEPARATOR) == ["2026-11-01", "F1", "S1", "email", "M1"]


@pytest.mark.parametrize(
    "first", ["2026-11-01T00:00:00+00:00", "2026-11-01T00:00:00-04:00", "2026-10-31T20:00:00-08:00"]
)
def test_the_days_of_a_series_do_not_depend_on_how_offsets_are_written(first: str) -> None:
    assert days_from("2026-11-01T00:00:00-04:00", [first, "whatever"]) == ["2026-11-01", "2026-11-02"]


@pytest.mark.parametrize("first", ["2026-10-29T00:00:00+00:00", "soon", 17])
def test_a_series_that_begins_on_another_day_is_a_mismatch(first: Any) -> None:
    with pytest.raises(UnreadableRecord):
        days_from("2026-11-01T00:00:00-04:00", [first])


# -- the account


def metric(identity: str, name: str, integration: str | None) -> dict[str, Any]:
    return {"id": identity, "attributes": {"name": name, "integration": {"name": integration}}}


def test_the_profile_prefers_the_shops_own_metric_where_a_name_occurs_twice() -> None:
    account = {"id": "AbCdEf", "attributes": {"timezone": "America/New_York", "preferred_currency": "USD"}}
    listing = [
        metric("X1", "Placed Order", "WooCommerce"),
        metric("X2", "Placed Order", "Shopify"),
        metric("X3", "Placed Order", "API"),
        metric("X4", "Opened Email", "Klaviyo"),
        {"id": "X5", "attributes": {}},
    ]
    bodies = [{"data": [account]}, {"data": listing}, {"data": []}, {"data": listing[:2]}, {"data": []}]
    assert len(SOURCE.profile_requests(ACCOUNT)) == len(bodies)
    found = SOURCE.profile(ACCOUNT, bodies)
    assert (found.time_zone, found.currency) == ("America/New_York", "USD")
    assert found.facts["metrics"] == {"Placed Order": "X2", "Opened Email": "X4"}


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("Placed Order", {}, []),
        ("Ordered Product", {}, ["KLAVIYO_NO_CONVERSION_METRIC"]),
        ("Ordered Product", {"conversion_metric_id": "X1"}, []),
    ],
)
def test_an_account_without_a_metric_of_orders_is_a_finding(
    name: str, settings: dict[str, str], found: list[str]
) -> None:
    """Its revenue would be empty, and nobody would know why. What the account had before does not count."""
    body = {"id": "AbCdEf", "attributes": {"timezone": "America/New_York", "preferred_currency": "USD"}}
    account = dataclasses.replace(ACCOUNT, settings=settings)
    profile = SOURCE.profile(account, [{"data": [body]}, {"data": [metric("X1", name, "Shopify")]}])
    assert list(profile.findings) == found


def test_a_key_of_another_account_than_the_rows_is_refused() -> None:
    body = {"id": "AbCdEf", "attributes": {"timezone": "America/New_York", "preferred_currency": "USD"}}
    own, other = (dataclasses.replace(ACCOUNT, facts={"klaviyo_account_id": known}) for known in ("AbCdEf", "Xy1234"))
    assert SOURCE.profile(own, [{"data": [body]}, {"data": []}]).facts["klaviyo_account_id"] == "AbCdEf"
    with pytest.raises(ConfigurationError, match=r"AbCdEf.*Xy1234"):
        SOURCE.profile(other, [{"data": [body]}, {"data": []}])


def test_a_key_without_an_account_is_a_mismatch() -> None:
    with pytest.raises(UnreadableRecord):
        SOURCE.profile(ACCOUNT, [{"data": []}, {"data": []}])


def test_the_revision_is_a_date_that_can_be_watched() -> None:
    assert dt.date.fromisoformat(KLAVIYO_REVISION) >= dt.date(2026, 1, 1)
