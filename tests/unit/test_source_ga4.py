from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from penstock.core.errors import PenstockError, UnreadableRecord
from penstock.sources.fields import KEY_SEPARATOR
from penstock.sources.ga4 import REPORTS, SOURCE
from penstock.sources.stream import Account, Request, Slice

ZONE = ZoneInfo("Pacific/Auckland")
ACCOUNT = Account("c0", "shop", "properties/42", time_zone="Pacific/Auckland")


def days(first: str, end: str, **more: Any) -> Slice:
    start, stop = (dt.datetime.fromisoformat(day).replace(tzinfo=ZONE) for day in (first, end))
    return Slice(0, "traffic", start, stop, **more)


def report(columns: dict[str, str], metrics: dict[str, str], count: int = 1, **more: Any) -> dict[str, Any]:
    row = {
        "dimensionValues": [{"value": value} for value in columns.values()],
        "metricValues": [{"value": value} for value in metrics.values()],
    }
    return {
        "dimensionHeaders": [{"name": name} for name in columns],
        "metricHeaders": [{"name": name, "type": "TYPE_INTEGER"} for name in metrics],
        "rows": [row] * count,
        "rowCount": count,
        **more,
    }


EVENTS = report({"date": "20261031", "eventName": "purchase"}, {"eventCount": "3", "eventValue": "12.5"})


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_reports_fit_what_one_request_may_ask(name: str) -> None:
    dimensions, metrics = REPORTS[name]
    assert len(dimensions) + 1 <= 9
    assert len(metrics) <= 10


def test_a_report_is_asked_for_in_the_propertys_own_days_in_a_fixed_order() -> None:
    request = SOURCE.stream("traffic").request(ACCOUNT, days("2026-09-26", "2026-09-28"), "200000")
    assert request.path == "properties/42:runReport"
    body = dict(request.body or {})
    assert body["dateRanges"] == [{"startDate": "2026-09-26", "endDate": "2026-09-27"}]  # clocks change on the 27th
    assert (body["offset"], body["limit"], body["returnPropertyQuota"]) == ("200000", "20000", True)
    assert [order["dimension"]["dimensionName"] for order in body["orderBys"]] == [
        dimension["name"] for dimension in body["dimensions"]
    ]


def page(offset: int, rows: int, count: int) -> Any:
    stream = SOURCE.stream("events")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-02", page_size=1000), str(offset))
    body = {**report({"date": "20261031", "eventName": "x"}, {"eventCount": "1", "eventValue": "0"}, rows)}
    return stream.parse({**body, "rowCount": count}, request)


def test_paging_goes_on_to_row_count_though_the_answer_has_no_offset() -> None:
    """2,500 rows at 1,000 a page are three pages; a peer stops after the first."""
    assert [page(0, 1000, 2500).next_token, page(1000, 1000, 2500).next_token] == ["1000", "2000"]
    last = page(2000, 500, 2500)
    assert (last.next_token, last.expected, len(last.records)) == (None, 2500, 500)


def test_a_last_page_that_is_exactly_full_is_the_last() -> None:
    assert page(1000, 1000, 2000).next_token is None


def test_a_short_page_is_followed_from_where_it_ended() -> None:
    assert page(0, 400, 2500).next_token == "400"


def test_an_empty_page_before_the_end_is_an_error() -> None:
    with pytest.raises(PenstockError) as refused:
        page(1000, 0, 2500)
    assert refused.value.code == "ROWCOUNT_MISMATCH"
    assert refused.value.retryable


def rows_counted(**row_count: Any) -> Any:
    stream = SOURCE.stream("events")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-02", page_size=1000), None)
    body = report({"date": "20261031", "eventName": "x"}, {"eventCount": "1", "eventValue": "0"}, 1000)
    del body["rowCount"]
    return stream.parse({**body, **row_count}, request)


@pytest.mark.parametrize("row_count", [{}, *({"rowCount": each} for each in (None, "abc", [], {}, -1, 2.5, True))])
def test_rows_that_nobody_has_counted_are_a_mismatch_and_not_the_last(row_count: dict[str, Any]) -> None:
    with pytest.raises(UnreadableRecord, match="rowCount") as refused:
        rows_counted(**row_count)
    assert refused.value.code == "SCHEMA_MISMATCH"


def test_a_count_may_be_text_as_googles_json_writes_long_integers() -> None:
    found = rows_counted(rowCount="2500")
    assert (found.next_token, found.expected) == ("1000", 2500)


def test_an_empty_report_is_a_page_without_records() -> None:
    stream = SOURCE.stream("events")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-02"), None)
    found = stream.parse({"metadata": {"emptyReason": "NO_DATA"}, "kind": "analyticsData#runReport"}, request)
    assert (list(found.records), found.next_token, found.flags) == ([], None, {"emptyReason": "NO_DATA"})


NO_REPORTS: list[Any] = [{}, [], {"error": {"code": 500, "message": "Internal error", "status": "INTERNAL"}}]


@pytest.mark.parametrize("body", NO_REPORTS)
def test_an_answer_that_is_no_report_is_not_taken_for_days_without_visitors(body: Any) -> None:
    """Whatever stands between us and Google may answer 200 all the same; every row of the days would be deleted."""
    stream = SOURCE.stream("events")
    with pytest.raises(UnreadableRecord, match="the answer is no report"):
        stream.parse(body, stream.request(ACCOUNT, days("2026-10-01", "2026-10-02"), None))
    totals_stream = SOURCE.stream("totals")
    with pytest.raises(UnreadableRecord, match="the answer is no report"):
        totals_stream.parse({"reports": [body]}, totals_stream.request(ACCOUNT, days("2026-10-01", "2026-10-02"), None))


def test_rows_are_flattened_by_the_headers_names() -> None:
    stream = SOURCE.stream("events")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-02"), None)
    (record,) = stream.parse(EVENTS, request).records
    assert record == {"date": "2026-10-31", "eventName": "purchase", "eventCount": "3", "eventValue": "12.5"}
    row = stream.row(record, ACCOUNT)
    assert row.record_key.split(KEY_SEPARATOR) == ["2026-10-31", "purchase"]
    assert row.record_date == dt.date(2026, 10, 31)


def test_names_that_the_vendor_replaced_are_read_under_the_new_ones() -> None:
    stream = SOURCE.stream("landing")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-02"), None)
    body = report({"date": "20261031", "sessionDefaultChannelGrouping": "Email"}, {"conversions": "2"})
    (record,) = stream.parse(body, request).records
    assert record == {"date": "2026-10-31", "sessionDefaultChannelGroup": "Email", "keyEvents": "2"}


def test_a_row_that_does_not_fit_its_headers_is_refused_alone() -> None:
    stream = SOURCE.stream("events")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-02"), None)
    broken = {"dimensionValues": [{"value": "20261031"}], "metricValues": []}
    body = {**EVENTS, "rows": [EVENTS["rows"][0], broken, "x", {"dimensionValues": None}], "rowCount": 4}
    found = stream.parse(body, request)
    assert len(found.records) == 4
    stream.row(found.records[0], ACCOUNT)
    for record in found.records[1:]:
        with pytest.raises(UnreadableRecord):
            stream.row(record, ACCOUNT)


@pytest.mark.parametrize(
    "changes", [{"eventCount": "3.5"}, {"eventValue": "free"}, {"date": "(other)"}, {"eventName": 3}]
)
def test_values_that_sql_could_not_cast_are_refused(changes: dict[str, Any]) -> None:
    record = {"date": "2026-10-31", "eventName": "x", "eventCount": "3", "eventValue": "1", **changes}
    with pytest.raises(UnreadableRecord):
        SOURCE.stream("events").row(record, ACCOUNT)


def test_flags_about_the_datas_quality_are_kept() -> None:
    stream = SOURCE.stream("events")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-02"), None)
    metadata = {
        "dataLossFromOtherRow": True,
        "subjectToThresholding": True,
        "samplingMetadatas": [{"samplesReadCount": "5", "samplingSpaceSize": "10"}],
        "schemaRestrictionResponse": {},
        "currencyCode": "NZD",
    }
    assert stream.parse({**EVENTS, "metadata": metadata}, request).flags == {
        "dataLossFromOtherRow": True,
        "subjectToThresholding": True,
        "samplingMetadatas": [{"samplesReadCount": "5", "samplingSpaceSize": "10"}],
        "currencyCode": "NZD",
    }


def test_the_unfinished_day_is_not_read() -> None:
    assert [stream.name for stream in SOURCE.streams if stream.includes_today] == []


def test_totals_ask_single_days_without_dimensions_in_one_batch() -> None:
    request = SOURCE.stream("totals").request(ACCOUNT, days("2026-10-01", "2026-10-21"), None)
    assert request.path == "properties/42:batchRunReports"
    reports = (request.body or {})["requests"]
    assert [len(question["dateRanges"]) for question in reports] == [4, 4, 4, 4, 4]
    assert all("dimensions" not in question for question in reports)
    ranges = [each for question in reports for each in question["dateRanges"]]
    assert ranges[0] == {"startDate": "2026-10-01", "endDate": "2026-10-01", "name": "2026-10-01"}
    assert ranges[-1]["endDate"] == "2026-10-20"
    assert request.cost == 5


def totals(names: list[str]) -> dict[str, Any]:
    metrics = {"sessions": "7"}
    rows = [{"dimensionValues": [{"value": name}], "metricValues": [{"value": "7"}]} for name in names]
    return {**report({"dateRange": names[0]}, metrics), "rows": rows, "rowCount": len(rows)}


def test_totals_take_their_days_from_the_ranges_names() -> None:
    stream = SOURCE.stream("totals")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-06"), None)
    single = report({}, {"sessions": "9"})
    found = stream.parse({"reports": [totals(["2026-10-02", "2026-10-01"]), single]}, request)
    assert list(found.records) == [
        {"date": "2026-10-02", "sessions": "7"},
        {"date": "2026-10-01", "sessions": "7"},
        {"date": "2026-10-05", "sessions": "9"},
    ]


def test_a_batch_that_lacks_a_report_is_an_error() -> None:
    stream = SOURCE.stream("totals")
    request = stream.request(ACCOUNT, days("2026-10-01", "2026-10-06"), None)
    with pytest.raises(PenstockError, match="2 reports were asked, 1 came"):
        stream.parse({"reports": [totals(["2026-10-01"])]}, request)


def test_the_profile_comes_from_a_reports_metadata() -> None:
    (request,) = SOURCE.profile_requests(ACCOUNT)
    assert request.path == "properties/42:runReport"
    restrictions = {"activeMetricRestrictions": [{"metricName": "purchaseRevenue"}]}
    metadata = {"timeZone": "Pacific/Auckland", "currencyCode": "NZD", "schemaRestrictionResponse": restrictions}
    found = SOURCE.profile(ACCOUNT, [{"metadata": metadata}])
    assert (found.time_zone, found.currency) == ("Pacific/Auckland", "NZD")
    assert found.facts == {"metric_restrictions": [{"metricName": "purchaseRevenue"}]}
    with pytest.raises(UnreadableRecord):
        SOURCE.profile(ACCOUNT, [{"metadata": {}}])


def test_a_body_that_is_no_report_is_a_mismatch() -> None:
    request = Request("POST", "x", body={"offset": "0"})
    for rows in ({}, "x"):
        with pytest.raises(UnreadableRecord):
            SOURCE.stream("events").parse({"rows": rows, "rowCount": 1}, request)
