"""What every transform keeps, whatever the numbers are."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from penstock import sources
from penstock.warehouse.queries import sql_root
from tests.sql.model import Model, Window, connection_id, transform_statements
from tests.sql.vendor_days import KLAVIYO_METRICS, Records, days, ga4_days, klaviyo_days, meta_days

pytestmark = pytest.mark.db

COUNT = 5
FIRST, LAST = days(COUNT)[0], days(COUNT)[-1]

MODEL_TABLES = (
    "dim_campaign",
    "dim_ad_group",
    "dim_ad",
    "dim_klaviyo_message",
    "dim_klaviyo_flow",
    "dim_klaviyo_audience",
    "dim_klaviyo_metric",
    "fct_meta_daily",
    "fct_meta_action_daily",
    "fct_meta_breakdown_daily",
    "fct_ga4_daily",
    "fct_klaviyo_message_daily",
    "fct_klaviyo_campaign_total",
    "fct_klaviyo_flow_daily",
    "fct_klaviyo_event_daily",
    "fct_account_totals",
    "fact_marketing_daily",
    "fact_ga4_daily",
    "fact_email_daily",
)

META = meta_days("1", COUNT, seed=1)
GA4 = ga4_days(COUNT, seed=2)
KLAVIYO = klaviyo_days(COUNT, seed=3)


@pytest.fixture
def model(connect: Callable[[], psycopg.Connection[Any]]) -> Model:
    """One shop with an account of each source; nothing is staged yet."""
    model = Model(connect())
    model.add_shop("aurora")
    model.add_account("meta", "META", account_id="1")
    model.add_account("ga4", "GA4", account_id="2")
    model.add_account("klaviyo", "KLAVIYO", account_id="3", facts={"metrics": KLAVIYO_METRICS})
    return model


def load(model: Model, alias: str, records: Records, window: Window = (FIRST, LAST)) -> str:
    """Stages everything and transforms the window's days, and the listings as a whole."""
    for stream, rows in records.items():
        model.stage(alias, stream, rows)
    return model.transform(alias, {stream: windows_of(alias, model, stream, window) for stream in records})


def windows_of(alias: str, model: Model, stream: str, window: Window) -> Window:
    kind = sources.by_platform(model.platforms[alias]).stream(stream).kind
    return None if kind == "entity" else window


def load_all(model: Model) -> None:
    load(model, "meta", META)
    load(model, "ga4", GA4)
    load(model, "klaviyo", KLAVIYO)


def versions(model: Model) -> dict[str, set[tuple[str, ...]]]:
    """Where every row lies and which transactions wrote or locked it: any write at all changes this."""
    return {
        table: {
            tuple(row.values())
            for row in model.rows(
                f"select ctid::text, xmin::text, xmax::text, fact::text as body from core_warehouse.{table} as fact"
            )
        }
        for table in MODEL_TABLES
    }


def count_of(model: Model, table: str) -> int:
    return int(model.value(f"select count(*) from core_warehouse.{table}"))


# -- nothing changed, nothing written ----------------------------------------------------------------------------


def test_a_second_transform_of_the_same_rows_writes_and_locks_nothing(model: Model) -> None:
    load_all(model)
    before = versions(model)
    assert sum(map(len, before.values())) > 300
    load_all(model)
    assert versions(model) == before


def test_one_restated_record_rewrites_its_own_rows_only(model: Model) -> None:
    load_all(model)
    before = versions(model)
    restated = {**META["insights_ad"][0], "spend": "9999.99"}
    model.stage("meta", "insights_ad", [restated])
    run_id = model.transform("meta", {"insights_ad": (FIRST, LAST)})
    after = versions(model)
    assert len(after["fct_meta_daily"] - before["fct_meta_daily"]) == 1
    assert {table for table in MODEL_TABLES if after[table] != before[table]} == {"fct_meta_daily"}
    changed = model.rows(
        "select entity_id, date, spend from core_warehouse.fct_meta_daily where run_id = %(run_id)s", run_id=run_id
    )
    assert changed == [{"entity_id": "a0", "date": FIRST, "spend": Decimal("9999.99")}]


# -- whole days are replaced, and only they ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "stream", "condition", "table"),
    [
        ("meta", "insights_ad", "payload ->> 'ad_id' = 'a3'", "fct_meta_daily"),
        ("meta", "insights_ad", "payload ->> 'ad_id' = 'a3'", "fct_meta_action_daily"),
        ("meta", "insights_country", "payload ->> 'country' = 'C1'", "fct_meta_breakdown_daily"),
        ("ga4", "traffic", "payload ->> 'sessionDefaultChannelGroup' = 'Channel 1'", "fct_ga4_daily"),
        ("klaviyo", "message_aggregates", "payload ->> 'dimension' = 'm2'", "fct_klaviyo_message_daily"),
    ],
)
def test_a_row_that_the_vendor_withdrew_disappears_on_the_days_that_were_read(
    model: Model, alias: str, stream: str, condition: str, table: str
) -> None:
    load_all(model)
    before = versions(model)
    model.withdraw(alias, stream, condition)
    model.transform(alias, {stream: (FIRST, FIRST)})
    after = versions(model)
    gone, added = before[table] - after[table], after[table] - before[table]
    assert gone
    assert not added
    assert all(FIRST.isoformat() in body for *_, body in gone)


def test_a_day_that_was_not_read_whole_keeps_its_rows(model: Model) -> None:
    load_all(model)
    before = versions(model)["fct_meta_daily"]
    model.withdraw("meta", "insights_ad")
    model.transform("meta", {"insights_ad": (FIRST, FIRST)})
    kept = versions(model)["fct_meta_daily"]
    assert kept < before
    ads = "select count(*) from core_warehouse.fct_meta_daily where level = 'AD' and date {} %(day)s"
    assert model.value(ads.format("="), day=FIRST) == 0
    assert model.value(ads.format(">"), day=FIRST) == 6 * (COUNT - 1)


def test_another_account_is_never_touched(model: Model) -> None:
    model.add_shop("borealis")
    model.add_account("other", "META", account_id="9", shop_id="borealis")
    load(model, "other", meta_days("9", COUNT, seed=8))
    rows = "select ctid::text, xmin::text, xmax::text from core_warehouse.{} where {} = %(key)s order by 1"
    places = [(table, "connection_id") for table in ("fct_meta_daily", "fct_meta_action_daily", "fct_account_totals")]
    keys = {"connection_id": connection_id("other"), "shop_id": "borealis"}

    def of_other() -> list[Any]:
        return [
            model.rows(rows.format(table, column), key=keys[column])
            for table, column in [*places, ("fact_marketing_daily", "shop_id")]
        ]

    before = of_other()
    load_all(model)
    model.withdraw("meta", "insights_account")
    model.transform("meta", {"insights_account": (FIRST, LAST)})
    assert of_other() == before
    assert all(before)


def test_staged_rows_outside_the_window_wait_for_their_own_run(model: Model) -> None:
    load(model, "meta", META, window=(FIRST, FIRST))
    assert model.rows("select distinct date from core_warehouse.fct_meta_daily") == [{"date": FIRST}]


def test_a_run_without_finished_windows_changes_nothing(model: Model) -> None:
    load_all(model)
    before = versions(model)
    for alias in ("meta", "ga4", "klaviyo"):
        model.transform(alias, {})
    assert versions(model) == before


# -- listings ---------------------------------------------------------------------------------------------------

META_OBJECT = {"id": "x1", "account_id": "1", "name": "X", "campaign_id": "c1", "adset_id": "s1"}
KLAVIYO_OBJECT = {"id": "x1", "attributes": {"name": "X"}}
LISTINGS = [
    ("meta", "campaigns", "dim_campaign", META_OBJECT),
    ("meta", "adsets", "dim_ad_group", META_OBJECT),
    ("meta", "ads", "dim_ad", META_OBJECT),
    ("klaviyo", "metrics", "dim_klaviyo_metric", KLAVIYO_OBJECT),
    ("klaviyo", "lists", "dim_klaviyo_audience", KLAVIYO_OBJECT),
    ("klaviyo", "segments", "dim_klaviyo_audience", KLAVIYO_OBJECT),
    ("klaviyo", "flows", "dim_klaviyo_flow", KLAVIYO_OBJECT),
    ("klaviyo", "campaigns", "dim_klaviyo_message", {**KLAVIYO_OBJECT, "campaign_messages": [{"id": "m1"}]}),
]


@pytest.mark.parametrize(("alias", "stream", "table", "record"), LISTINGS, ids=[listing[1] for listing in LISTINGS])
def test_only_a_listing_that_was_read_whole_marks_what_it_lacks_as_deleted(
    model: Model, alias: str, stream: str, table: str, record: dict[str, Any]
) -> None:
    def deleted() -> list[bool]:
        return [row["is_deleted"] for row in model.rows(f"select is_deleted from core_warehouse.{table}")]

    model.stage(alias, stream, [record])
    model.transform(alias, {stream: None})
    assert deleted() == [False]
    before = versions(model)
    model.transform(alias, {stream: None})
    assert versions(model) == before
    model.withdraw(alias, stream)
    model.transform(alias, {stream: None}, complete=False)
    assert deleted() == [False]
    model.transform(alias, {stream: None})
    assert deleted() == [True]
    model.stage(alias, stream, [record])
    model.transform(alias, {stream: None})
    assert deleted() == [False], "what is listed again is alive again"


# -- the numbers ------------------------------------------------------------------------------------------------


def test_spend_is_the_same_at_every_level_and_in_every_breakdown(model: Model) -> None:
    load_all(model)
    levels = model.rows(
        """
        select level, date, sum(spend) as spend, sum(impressions) as impressions, sum(inline_link_clicks) as clicks,
            sum(purchases) as purchases, sum(purchase_value) as value
        from core_warehouse.fct_meta_daily group by level, date
        union all
        select breakdown_set, date, sum(spend), sum(impressions), sum(inline_link_clicks), sum(purchases),
            sum(purchase_value)
        from core_warehouse.fct_meta_breakdown_daily group by breakdown_set, date
        """
    )
    by_day: dict[dt.date, set[tuple[Any, ...]]] = {}
    for row in levels:
        figures = tuple(row[name] for name in ("spend", "impressions", "clicks", "purchases", "value"))
        by_day.setdefault(row["date"], set()).add(figures)
    assert len(levels) == 7 * COUNT
    assert all(len(figures) == 1 for figures in by_day.values()), by_day


def test_reporting_equals_the_vendors_own_totals(model: Model) -> None:
    load_all(model)
    differing = model.rows("select * from reporting.reconciliation where difference is distinct from 0")
    assert differing == []
    compared = {row["metric"] for row in model.rows("select distinct metric from reporting.reconciliation")}
    assert {"spend", "revenue", "sessions", "placed_orders"} <= compared


def test_no_fact_can_multiply_another(model: Model) -> None:
    """Each side of the blended day is its own sum, however many rows the other sides have."""
    load_all(model)
    model.add_account("second", "META", account_id="7")
    load(model, "second", meta_days("7", COUNT, seed=4, ads=12))
    for number in range(7):
        model.insert(
            "core_warehouse.orders",
            [
                {
                    "shop_id": "aurora",
                    "shopify_gid": f"o{number}",
                    "total_price": 10,
                    "currency": "EUR",
                    "order_date": f"{FIRST}T12:00:00+00:00",
                }
            ],
        )
    blended = model.rows("select * from reporting.blended_daily_performance order by date")
    assert len(blended) == COUNT
    checks = {
        "spend": "sum(spend) from core_warehouse.fct_meta_daily where level = 'ACCOUNT'",
        "sessions": "sum(sessions) from core_warehouse.fct_ga4_daily where report = 'property'",
        "email_revenue": "sum(conversion_value) from core_warehouse.fct_klaviyo_message_daily where true",
    }
    for row in blended:
        for column, alone in checks.items():
            expected = model.value(f"select {alone} and date = %(day)s", day=row["date"])
            assert row[column] == expected, (column, row["date"])
    assert (blended[0]["orders"], blended[0]["sales"]) == (7, 70)
    assert round(blended[0]["mer"], 12) == round(70 / blended[0]["spend"], 12)


def test_without_orders_the_columns_that_need_them_are_null(model: Model) -> None:
    load_all(model)
    row = model.rows("select orders, new_customers, sales, mer, cac, aov from reporting.blended_daily_performance")[0]
    assert set(row.values()) == {None}


def test_a_day_becomes_final_when_it_is_read_after_the_vendors_last_correction(model: Model) -> None:
    today = dt.datetime.now(dt.UTC).date()
    records = [{**GA4["property"][0], "date": (today - dt.timedelta(days=age)).isoformat()} for age in (1, 3, 4)]
    model.stage("ga4", "property", records)
    model.transform("ga4", {"property": (today - dt.timedelta(days=9), today)})
    rows = model.rows("select date, is_final from core_warehouse.fct_ga4_daily order by date")
    assert [row["is_final"] for row in rows] == [True, False, False]


def test_purchases_named_in_actions_are_counts_and_never_money(model: Model) -> None:
    query = "select purchases from core_warehouse.meta_action_totals(%(entries)s::jsonb)"
    assert model.value(query, entries='[{"action_type": "purchase_value", "value": "120.5"}]') == 0
    assert model.value(query, entries="null") == 0
    assert model.value(query, entries='"no list"') == 0


# -- several runs at once ---------------------------------------------------------------------------------------


def test_two_accounts_of_a_shop_that_load_at_the_same_time_both_count_in_the_old_table(
    model: Model, connect: Callable[[], psycopg.Connection[Any]]
) -> None:
    model.add_account("second", "META", account_id="7")
    for alias, account_id in (("meta", "1"), ("second", "7")):
        model.stage(alias, "insights_account", meta_days(account_id, 1, seed=5)["insights_account"])
    other = Model(connect())
    other.accounts, other.platforms = model.accounts, model.platforms
    window: dict[str, Window] = {"insights_account": (FIRST, FIRST)}
    with model.conn.transaction():
        model.transform("meta", window)
        late = threading.Thread(target=other.transform, args=("second", window))
        late.start()
        late.join(0.5)
        assert late.is_alive(), "the second account should wait for the first to commit"
    late.join(10)
    assert not late.is_alive()
    expected = model.value("select round(sum(spend), 2) from core_warehouse.fct_meta_daily where level = 'ACCOUNT'")
    assert model.value("select spend from core_warehouse.fact_marketing_daily") == expected


# -- the files --------------------------------------------------------------------------------------------------


def test_every_transform_file_belongs_to_a_source_and_every_named_one_exists() -> None:
    named = [name for source in sources.REGISTRY for name in source.transforms]
    stored = {path.stem for path in (sql_root() / "platform_etl" / "transform").glob("*.sql")}
    assert set(named) == stored
    assert len(named) == len(set(named))
    for source in sources.REGISTRY:
        assert all(name.startswith(f"{source.name}__") for name in source.transforms)
        compat = ["__compat_" in name for name in source.transforms]
        assert compat == sorted(compat), "the old tables are filled from ours, so they come last"
    assert all(transform_statements(name) for name in named)
