"""The metrics sync: every number equals what the vendor says, whatever happened on the way."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal

import pytest

from penstock.sources import ad_metrics
from penstock.warehouse.session import Warehouse
from tests.metrics_stage import Metrics, MetricsStage
from tests.sandbox_fixture import NOW, Sandbox

pytestmark = pytest.mark.db

PLATFORMS = [("META", "meta", "meta_ad_id"), ("GOOGLE_ADS", "google_ads", "google_ad_id")]


@pytest.fixture
def stage(warehouse: Warehouse, sandbox: Sandbox) -> MetricsStage:
    return MetricsStage(warehouse, sandbox.url, sandbox.state.clock.now)


@pytest.fixture
def meta(stage: MetricsStage) -> str:
    """The ad account of a connection as the old worker had it."""
    account = stage.accounts("META")[0]
    stage.connect(account)
    return str(account["account_id"])


def small_pages(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    smaller = [dataclasses.replace(each, stream=dataclasses.replace(each.stream, page_size=size)) for each in PAGED]
    monkeypatch.setattr(ad_metrics, "PLATFORMS", tuple(smaller))


PAGED = ad_metrics.PLATFORMS


@pytest.mark.parametrize(("platform", "label", "key"), PLATFORMS)
def test_a_request_shows_the_sums_of_its_ads_by_day(stage: MetricsStage, platform: str, label: str, key: str) -> None:
    account = stage.accounts(platform)[0]
    stage.connect(account)
    ads = stage.ads(platform, account["account_id"])
    linked = {stage.request(**{key: named}): ids for named, ids in links(ads)}
    (outcome,) = stage.sync()
    assert outcome.status == "success"
    for request_id, ids in linked.items():
        shown = stage.metrics(request_id)
        assert shown == stage.expected(label, ids, account["account_id"])
        assert len({day for _, _, day in shown}) > 1
    created = sum(len(stage.metrics(request_id)) for request_id in linked)
    assert outcome.counts["metrics_created"] == created
    assert stage.logs() == [("success", created, 0, True)]


def links(ads: list[str]) -> list[tuple[object, list[str]]]:
    """How people name ads: a text, a number, an array of either, the same one twice, several in one text."""
    return [
        (f" {ads[4]}\n", ads[4:5]),
        (f"{ads[0]}, {ads[4]};{ads[5]}", [ads[0], *ads[4:6]]),
        ([f"{ads[1]} {ads[2]}", ads[3], None, {"id": ads[4]}, [ads[5]], True, ""], ads[1:4]),
        (ads[0], ads[:1]),
        (int(ads[1]), ads[1:2]),
        (ads[:4], ads[:4]),
        ([int(ads[2]), ads[3], ads[3]], ads[2:4]),
    ]


def test_several_ads_have_no_reach_and_one_ad_has_the_vendors(stage: MetricsStage, meta: str) -> None:
    ads = stage.ads("META", meta)
    one, several = stage.request(meta_ad_id=ads[0]), stage.request(meta_ad_id=ads[:2])
    stage.sync()
    reach = {day: value for (_, name, day), value in stage.metrics(one).items() if name == "reach"}
    vendors = {row["date"]: row["reach"] for row in stage.ad_days("META", meta) if row["ad_id"] == ads[0]}
    assert reach == vendors
    assert not {name for _, name, _ in stage.metrics(several)} & {"reach"}


def test_a_second_run_leaves_every_row_untouched(stage: MetricsStage, meta: str) -> None:
    stage.request(meta_ad_id=stage.ads("META", meta)[:3])
    stage.sync()
    rows = "select id, xmin::text, updated_at from performance_metrics order by id"
    before = stage.fetch(rows)
    stage.make_due()
    (again,) = stage.sync()
    assert (again.counts["metrics_created"], again.counts["metrics_updated"]) == (0, 0)
    assert stage.fetch(rows) == before
    assert len(before) > 20


@pytest.mark.parametrize(("platform", "label", "key"), PLATFORMS)
def test_restated_days_are_corrected_and_older_ones_stay(
    stage: MetricsStage, sandbox: Sandbox, platform: str, label: str, key: str
) -> None:
    account = stage.accounts(platform)[0]
    stage.connect(account)
    ads = stage.ads(platform, account["account_id"])[:3]
    request = stage.request(**{key: ads})
    stage.sync()
    before = stage.metrics(request)
    sandbox.now(NOW + dt.timedelta(days=6))
    stage.make_due()
    (outcome,) = stage.sync()
    expected = stage.expected(label, ads, account["account_id"])
    oldest = min(day for _, _, day in expected)
    after = stage.metrics(request)
    assert {key: value for key, value in after.items() if key[2] >= oldest} == expected
    assert {key: value for key, value in after.items() if key[2] < oldest} == {
        key: value for key, value in before.items() if key[2] < oldest
    }
    changed = [key for key in expected.keys() & before.keys() if before[key] != expected[key]]
    assert outcome.counts["metrics_updated"] >= len(changed) > 0
    assert outcome.counts["metrics_created"] == len(expected.keys() - before.keys()) > 0


@pytest.mark.parametrize("hour", [5, 12], ids=["behind in Los Angeles", "ahead on Kiritimati"])
def test_days_and_money_are_the_accounts_own(stage: MetricsStage, sandbox: Sandbox, hour: int) -> None:
    """At five in UTC Los Angeles still has yesterday, at noon Kiritimati has tomorrow."""
    sandbox.now(NOW.replace(hour=hour))
    linked = {}
    for account in stage.accounts("META"):
        stage.connect(account)
        ads = stage.ads("META", account["account_id"])
        linked[stage.request(meta_ad_id=ads)] = (account, ads)
    assert {outcome.status for outcome in stage.sync()} == {"success"}
    last_days = set()
    for request, (account, ads) in linked.items():
        shown = stage.metrics(request)
        assert shown == stage.expected("meta", ads, account["account_id"])
        last_days.add(max(day for _, _, day in shown))
        currencies = "select distinct source_detail ->> 'currency' from performance_metrics where request_id = %(id)s"
        assert stage.fetch(currencies, id=request) == [(account["currency"],)]
    assert len(linked) == 3
    assert len(last_days) == 2


def test_what_is_restated_downwards_goes_down(stage: MetricsStage, meta: str) -> None:
    ads = stage.ads("META", meta)[:2]
    request = stage.request(meta_ad_id=ads)
    stage.sync()
    stage.execute("update penstock.ad_daily_metrics set impressions = 3 * impressions, spend = spend + 7")
    stage.execute("update performance_metrics set value = 2 * value")
    written = len(stage.metrics(request))
    stage.make_due()
    (outcome,) = stage.sync()
    assert stage.metrics(request) == stage.expected("meta", ads, meta)
    assert (outcome.counts["metrics_updated"], outcome.counts["metrics_created"]) == (written, 0)


def test_what_the_vendor_takes_back_is_gone(stage: MetricsStage, sandbox: Sandbox) -> None:
    account = stage.accounts("GOOGLE_ADS")[1]
    stage.connect(account)
    linked = {stage.request(google_ad_id=ad): ad for ad in stage.ads("GOOGLE_ADS", account["account_id"])}
    stage.sync()
    before = {request: stage.metrics(request) for request in linked}
    sandbox.now(NOW + dt.timedelta(days=5))
    stage.make_due()
    (outcome,) = stage.sync()
    withdrawn: Metrics = {}
    for request, ad in linked.items():
        expected = stage.expected("google_ads", [ad], account["account_id"])
        first = (NOW + dt.timedelta(days=5 - 29)).date().isoformat()
        assert {key: value for key, value in stage.metrics(request).items() if key[2] >= first} == expected
        withdrawn |= {key: value for key, value in before[request].items() if key[2] >= first and key not in expected}
    assert withdrawn, "the scene takes nothing back"
    assert outcome.counts["metrics_removed"] >= len(withdrawn)
    assert outcome.counts["ad_days_withdrawn"] > 0


def test_ads_of_two_accounts_are_summed_whichever_is_read_first(stage: MetricsStage) -> None:
    first, second = stage.accounts("META")[:2]
    for account in (first, second):
        stage.connect(account)
    stage.execute("update platform_connections set currency = null")
    ads = [stage.ads("META", account["account_id"])[0] for account in (first, second)]
    request = stage.request(meta_ad_id=ads)
    assert {outcome.status for outcome in stage.sync()} == {"success"}
    expected = stage.expected("meta", ads, first["account_id"], second["account_id"])
    shown = stage.metrics(request)
    counts = {key: value for key, value in expected.items() if key[1] in ("impressions", "clicks", "ctr")}
    assert {key: value for key, value in shown.items() if key[1] in ("impressions", "clicks", "ctr")} == counts
    both = days_of(stage, first["account_id"], ads[0]) & days_of(stage, second["account_id"], ads[1])
    assert both
    # francs and dollars are no sum
    assert not [key for key in shown if key[1] in ("spend", "cpm", "cpc") and key[2] in both]


def days_of(stage: MetricsStage, account_id: str, ad: str) -> set[str]:
    return {row["date"] for row in stage.ad_days("META", account_id) if row["ad_id"] == ad}


def test_an_account_that_is_registered_twice_counts_once(stage: MetricsStage, meta: str) -> None:
    account = stage.accounts("META")[0]
    stage.connect({**account, "account_id": f"act_{meta}"})
    ads = stage.ads("META", meta)[:2]
    request = stage.request(meta_ad_id=ads)
    assert [outcome.status for outcome in stage.sync()] == ["success", "success"]
    assert stage.metrics(request) == stage.expected("meta", ads, meta)


@pytest.mark.parametrize(
    "ending",
    [
        "delete from platform_connections",
        "update platform_connections set is_active = false",
        "update platform_connections set state = 'PAUSED'",
        "update platform_connections set state = 'NEEDS_RECONNECT', metrics_error_code = 'GOOGLE_ADS_AUTH_ERROR', "
        "metrics_next_sync_at = now() + interval '1 day'",
        """update platform_connections set settings = '{"metrics_sync": false}'""",
    ],
    ids=["deleted", "disabled", "paused", "without a grant", "not wanted"],
)
def test_an_account_that_is_registered_anew_takes_its_days_over(
    stage: MetricsStage, sandbox: Sandbox, ending: str
) -> None:
    """What the vendor takes back later must not come up again from the days of the connection that is gone."""
    account = stage.accounts("GOOGLE_ADS")[1]
    stage.connect(account)
    ads = stage.ads("GOOGLE_ADS", account["account_id"])
    linked = {stage.request(google_ad_id=ad): ad for ad in ads}
    stage.sync()
    stage.execute(ending)
    stage.connect({**account, "account_id": f"{account['account_id'][:3]}-{account['account_id'][3:]}"})
    sandbox.now(NOW + dt.timedelta(days=5))
    (outcome,) = stage.sync()
    assert outcome.status == "success"
    first = (NOW + dt.timedelta(days=5 - 29)).date().isoformat()
    for request, ad in linked.items():
        expected = stage.expected("google_ads", [ad], account["account_id"])
        assert {key: value for key, value in stage.metrics(request).items() if key[2] >= first} == expected


def test_an_ad_that_only_the_row_knows_that_nobody_reads_is_gone(stage: MetricsStage, meta: str) -> None:
    """All that the ad ever delivered was taken back before the account's new row was read for the first time."""
    other = stage.accounts("META")[1]
    request = stage.request(meta_ad_id=["555", stage.ads("META", other["account_id"])[0]])
    stage.sync()
    stage.execute(
        "insert into penstock.ad_daily_metrics (connection_id, ad_id, date, platform, impressions, clicks, spend) "
        "select id, '555', '2026-11-15', 'META', 1000000000, 1, 1 from platform_connections"
    )
    stage.connect(other)
    stage.sync()
    day = ("meta", "impressions", "2026-11-15")
    assert stage.metrics(request)[day] >= 1_000_000_000
    stage.execute("update platform_connections set state = 'PAUSED' where account_id = %(id)s", id=meta)
    stage.connect({**stage.accounts("META")[0], "account_id": f"act_{meta}"})
    assert [outcome.status for outcome in stage.sync()] == ["success"]
    assert stage.metrics(request).get(day, 0) < 1_000_000_000


def test_what_is_restated_and_restated_back_is_as_whoever_read_it_last_says(stage: MetricsStage, meta: str) -> None:
    first = stage.connections()[0]
    other = stage.accounts("META")[1]
    stage.connect(other)
    second = stage.connect({**stage.accounts("META")[0], "account_id": f"act_{meta}"})
    ads = [stage.ads("META", each)[0] for each in (meta, other["account_id"])]
    request = stage.request(meta_ad_id=ads)
    stage.sync()
    expected = stage.metrics(request)
    # in between the vendor said something else, when it was the second row's turn
    stage.execute(
        "update penstock.ad_daily_metrics set impressions = 3 * impressions, updated_at = now() "
        "where connection_id::text = %(id)s",
        id=second,
    )
    stage.sync(first)
    assert stage.metrics(request) == expected
    stage.sync(other["account_id"])
    assert stage.metrics(request) == expected
    (again,) = stage.sync(first)
    assert again.counts["ad_days_written"] == 0


def test_two_rows_of_an_account_that_are_both_read_leave_each_others_days_alone(stage: MetricsStage, meta: str) -> None:
    stage.connect({**stage.accounts("META")[0], "account_id": f"act_{meta}"})
    stage.request(meta_ad_id=stage.ads("META", meta)[:2])
    stage.sync()
    rows = "select connection_id, ad_id, date, xmin::text from penstock.ad_daily_metrics order by 1, 2, 3"
    before = stage.fetch(rows)
    assert len({row[0] for row in before}) == 2
    for connection in stage.connections() * 2:
        (outcome,) = stage.sync(connection)
        assert (outcome.counts["ad_days_written"], outcome.counts["metrics_updated"]) == (0, 0)
    assert stage.fetch(rows) == before


def test_ads_that_no_request_names_are_counted_and_left_alone(stage: MetricsStage, meta: str) -> None:
    ads = stage.ads("META", meta)
    stage.request(meta_ad_id=ads[0])
    stranger = stage.request(meta_ad_id="123")
    plain = stage.request(other="value")
    (outcome,) = stage.sync()
    assert outcome.counts["ads_unknown"] == len(ads) - 1
    assert (outcome.counts["ads"], outcome.counts["requests"]) == (len(ads), 1)
    assert stage.metrics(stranger) == stage.metrics(plain) == {}


def test_what_a_person_entered_is_never_changed(stage: MetricsStage, meta: str) -> None:
    ad = stage.ads("META", meta)[0]
    request = stage.request(meta_ad_id=ad)
    day = stage.ad_days("META", meta)[-1]["date"]
    stage.execute(
        "insert into performance_metrics (request_id, platform, metric_type, value, date, source) values "
        "(%(request)s, 'meta', 'spend', 77, %(day)s, 'manual_entry'), "
        "(%(request)s, 'meta', 'spend', 78, '2020-01-01', 'manual_entry')",
        request=request,
        day=day,
    )
    stage.sync()
    shown = stage.metrics(request)
    assert shown["meta", "spend", day] == Decimal(77)
    assert shown["meta", "spend", "2020-01-01"] == Decimal(78)


def test_rows_of_the_old_worker_in_the_window_are_corrected(stage: MetricsStage, meta: str) -> None:
    ad = stage.ads("META", meta)[0]
    request = stage.request(meta_ad_id=ad)
    stage.execute(
        "insert into performance_metrics (request_id, platform, metric_type, value, date, source) values "
        "(%(request)s, 'meta', 'spend', 9999, %(day)s, 'api_sync'), "
        "(%(request)s, 'meta', 'spend', 1, '2020-01-01', 'api_sync')",
        request=request,
        day=stage.ad_days("META", meta)[-1]["date"],
    )
    stage.sync()
    old = {("meta", "spend", "2020-01-01"): Decimal(1)}
    assert stage.metrics(request) == stage.expected("meta", [ad], meta) | old


def test_an_unlinked_request_loses_what_it_showed_wrongly(stage: MetricsStage, meta: str) -> None:
    ads = stage.ads("META", meta)
    request = stage.request(meta_ad_id=ads[0])
    stage.sync()
    stage.execute("update requests set metadata = '{}' where id::text = %(id)s", id=request)
    stage.make_due()
    (outcome,) = stage.sync()
    assert stage.metrics(request) == {}
    assert outcome.counts["metrics_removed"] > 0


def test_every_page_is_read_and_a_page_that_comes_twice_counts_once(
    stage: MetricsStage, meta: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch, 60)
    ads = stage.ads("META", meta)
    request = stage.request(meta_ad_id=ads)
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "duplicate_page", "after": 1, "times": 1})
    (outcome,) = stage.sync()
    assert outcome.counts["pages"] > 6
    assert stage.metrics(request) == stage.expected("meta", ads, meta)


def test_smaller_pages_are_asked_when_the_vendor_finds_it_too_much(
    stage: MetricsStage, meta: str, sandbox: Sandbox
) -> None:
    ads = stage.ads("META", meta)[:2]
    request = stage.request(meta_ad_id=ads)
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "too_much_data", "params": {"above_limit": 130}})
    (outcome,) = stage.sync()
    assert outcome.status == "success"
    assert outcome.counts["pages"] > 1
    assert stage.metrics(request) == stage.expected("meta", ads, meta)


def test_a_record_that_cannot_be_read_keeps_what_was_known_of_its_day(
    stage: MetricsStage, meta: str, sandbox: Sandbox
) -> None:
    ads = stage.ads("META", meta)[:2]
    request = stage.request(meta_ad_id=ads)
    stage.sync()
    # known, and not told any more: on a day with a record that names no ad, and on another one
    days = sorted(row["date"] for row in stage.ad_days("META", meta))
    for day in (days[0], days[-1]):
        stage.execute(
            "insert into penstock.ad_daily_metrics (connection_id, ad_id, date, platform, impressions, clicks, spend) "
            "select id, '555', %(day)s, 'META', 1, 1, 1 from platform_connections",
            day=day,
        )
    sandbox.faults({"vendor": "meta", "path": "/insights$", "action": "missing_id"})
    stage.make_due()
    (outcome,) = stage.sync()
    assert outcome.status == "success"
    assert outcome.counts["records_rejected"] == 1
    left = stage.fetch("select date::text from penstock.ad_daily_metrics where ad_id = '555'")
    assert left == [(days[0],)]
    assert stage.metrics(request) == stage.expected("meta", ads, meta)


def test_a_dry_run_says_what_would_change_and_writes_nothing(stage: MetricsStage, meta: str) -> None:
    request = stage.request(meta_ad_id=stage.ads("META", meta)[0])
    before = stage.fetch("select metrics_next_sync_at, metrics_synced_at, last_synced_at from platform_connections")
    (outcome,) = stage.sync(is_dry_run=True)
    assert outcome.counts["metrics_created"] > 20
    assert outcome.counts["is_dry_run"] is True
    assert stage.metrics(request) == {}
    assert stage.fetch("select 1 from penstock.ad_daily_metrics union all select 1 from penstock.ad_metric_pages") == []
    assert stage.logs() == []
    after = stage.fetch("select metrics_next_sync_at, metrics_synced_at, last_synced_at from platform_connections")
    assert after == before
    assert len(stage.claim()) == 1


def test_more_days_are_read_when_a_person_asks(stage: MetricsStage, meta: str) -> None:
    ads = stage.ads("META", meta)
    request = stage.request(meta_ad_id=ads)
    stage.sync(f"act_{meta}", days=75)
    assert stage.metrics(request) == stage.expected("meta", ads, meta, days=75)
    assert len({day for _, _, day in stage.metrics(request)}) > 30
