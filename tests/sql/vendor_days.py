"""Days of one small business as each vendor would report them: the same numbers at every level and in every report."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

Records = dict[str, list[dict[str, Any]]]

FIRST_DAY = dt.date(2026, 10, 1)
KLAVIYO_METRICS = {
    "Placed Order": "PO",
    "Received Email": "RE",
    "Opened Email": "OE",
    "Clicked Email": "CE",
    "Bounced Email": "BE",
    "Unsubscribed from Email Marketing": "UN",
}


def days(count: int) -> list[dt.date]:
    return [FIRST_DAY + dt.timedelta(days=number) for number in range(count)]


def meta_days(account_id: str, count: int, seed: int, *, ads: int = 6) -> Records:
    """Every level and breakdown of `count` days; `ads` ads in two ad sets per campaign, two ads in each."""
    rng = random.Random(seed)
    records: Records = {name: [] for name in META_STREAMS}
    for day in days(count):
        delivered = [_ad_day(rng, account_id, day, number) for number in range(ads)]
        records["insights_ad"] += delivered
        records["insights_adset"] += _rolled_up(delivered, ("campaign_id", "adset_id"))
        records["insights_campaign"] += _rolled_up(delivered, ("campaign_id",))
        whole = _rolled_up(delivered, ())
        records["insights_account"] += whole
        records["totals"] += whole
        records["insights_country"] += [{**ad, "country": f"C{number}"} for number, ad in enumerate(delivered)]
        records["insights_age_gender"] += [
            {**ad, "age": f"{18 + number}+", "gender": "female"} for number, ad in enumerate(delivered)
        ]
        records["insights_platform"] += [
            {**ad, "publisher_platform": f"p{number}"} for number, ad in enumerate(delivered)
        ]
    return records


META_STREAMS = (
    "insights_account",
    "insights_campaign",
    "insights_adset",
    "insights_ad",
    "insights_age_gender",
    "insights_country",
    "insights_platform",
    "totals",
)


def _ad_day(rng: random.Random, account_id: str, day: dt.date, number: int) -> dict[str, Any]:
    purchases = rng.choice(["0", "1", "2.5", "7"])
    value = f"{float(purchases) * 40:.2f}"
    return {
        "date_start": day.isoformat(),
        "date_stop": day.isoformat(),
        "account_id": account_id,
        "account_currency": "EUR",
        "campaign_id": f"c{number // 4}",
        "adset_id": f"s{number // 2}",
        "ad_id": f"a{number}",
        "spend": f"{rng.randrange(0, 10_000) / 100:.2f}",
        "impressions": str(rng.randrange(0, 5000)),
        "clicks": str(rng.randrange(0, 90)),
        "inline_link_clicks": str(rng.randrange(0, 60)),
        "actions": [
            {"action_type": "omni_purchase", "value": purchases},
            {"action_type": "purchase", "value": purchases},
            {"action_type": "offsite_conversion.fb_pixel_purchase", "value": purchases},
        ],
        "action_values": [
            {"action_type": "omni_purchase", "value": value},
            {"action_type": "purchase", "value": value},
        ],
    }


def _rolled_up(ads: Sequence[dict[str, Any]], by: tuple[str, ...]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for ad in ads:
        key = tuple(ad[name] for name in by)
        group = groups.setdefault(key, {**{name: ad[name] for name in (*COMMON, *by)}, **dict.fromkeys(SUMMED, "0")})
        for name in SUMMED:
            group[name] = f"{float(group[name]) + float(ad[name]):.2f}" if name == "spend" else _added(group, ad, name)
        for name in ("actions", "action_values"):
            group[name] = _merged(group.get(name, []), ad[name])
    return list(groups.values())


COMMON = ("date_start", "date_stop", "account_id", "account_currency")
SUMMED = ("spend", "impressions", "clicks", "inline_link_clicks")


def _added(group: dict[str, Any], ad: dict[str, Any], name: str) -> str:
    return str(int(group[name]) + int(ad[name]))


def _merged(left: list[dict[str, str]], right: list[dict[str, str]]) -> list[dict[str, str]]:
    totals: dict[str, float] = {}
    for item in (*left, *right):
        totals[item["action_type"]] = totals.get(item["action_type"], 0) + float(item["value"])
    return [{"action_type": kind, "value": f"{value:.2f}"} for kind, value in totals.items()]


def ga4_days(count: int, seed: int) -> Records:
    rng = random.Random(seed)
    records: Records = {"property": [], "traffic": [], "device": [], "totals": []}
    for day in days(count):
        parts = [_ga4_part(rng, day) for _ in range(3)]
        whole = {name: _summed([part[name] for part in parts]) for name in parts[0] if name != "date"}
        whole["date"] = day.isoformat()
        records["property"].append(whole)
        records["totals"].append(whole)
        records["traffic"] += [
            {
                **part,
                "sessionDefaultChannelGroup": f"Channel {number}",
                "sessionSource": "s",
                "sessionMedium": "m",
                "sessionCampaignName": "c",
            }
            for number, part in enumerate(parts)
        ]
        records["device"] += [
            {
                **part,
                "deviceCategory": f"device {number}",
                "browser": "b",
                "operatingSystem": "o",
                "screenPageViews": "11",
            }
            for number, part in enumerate(parts)
        ]
    return records


def _ga4_part(rng: random.Random, day: dt.date) -> dict[str, str]:
    counts = ("sessions", "engagedSessions", "totalUsers", "newUsers", "ecommercePurchases", "addToCarts", "checkouts")
    return {
        "date": day.isoformat(),
        **{name: str(rng.randrange(0, 500)) for name in counts},
        "keyEvents": f"{rng.randrange(0, 99) / 2}",
        "purchaseRevenue": f"{rng.randrange(0, 99_999) / 100:.2f}",
        "totalRevenue": f"{rng.randrange(0, 99_999) / 100:.2f}",
    }


def _summed(values: list[str]) -> str:
    total = sum(float(value) for value in values)
    return f"{total:.2f}" if any("." in value for value in values) else str(int(total))


def klaviyo_days(count: int, seed: int, *, messages: int = 4) -> Records:
    rng = random.Random(seed)
    records: Records = {"message_aggregates": [], "totals": [], "events": [], "campaigns": [], "metrics": []}
    records["campaigns"] = [_campaign(number) for number in range(messages)]
    records["metrics"] = [
        {"id": metric_id, "type": "metric", "attributes": {"name": name}} for name, metric_id in KLAVIYO_METRICS.items()
    ]
    for day in days(count):
        orders = [(f"m{number}", rng.randrange(0, 4)) for number in range(messages)] + [("", rng.randrange(1, 9))]
        for message, placed in orders:
            records["message_aggregates"].append(_counted(day, "PO", message, placed, placed * 25.5))
            if message:
                records["message_aggregates"] += [
                    _counted(day, metric_id, message, rng.randrange(0, 300), 0)
                    for metric_id in KLAVIYO_METRICS.values()
                    if metric_id != "PO"
                ]
        placed = sum(count for _, count in orders)
        attributed = sum(count for message, count in orders if message)
        records["totals"] += [
            {**_counted(day, "PO", "TOTAL", placed, placed * 25.5), "by": ""},
            {**_counted(day, "PO", "email", attributed, attributed * 25.5), "by": "$attributed_channel"},
            {**_counted(day, "PO", "", placed - attributed, (placed - attributed) * 25.5), "by": "$attributed_channel"},
        ]
        records["events"] += [_order(day, number) for number in range(placed)]
    return records


def _campaign(number: int) -> dict[str, Any]:
    message = {"id": f"m{number}", "attributes": {"definition": {"channel": "email", "content": {"subject": "Hi"}}}}
    return {
        "id": f"camp{number}",
        "type": "campaign",
        "attributes": {"name": f"Campaign {number}", "status": "Sent", "archived": False},
        "campaign_messages": [message],
    }


def _counted(day: dt.date, metric_id: str, dimension: str, count: int, value: float) -> dict[str, Any]:
    return {
        "date": day.isoformat(),
        "metric_id": metric_id,
        "by": "$attributed_message" if metric_id == "PO" else "$message",
        "dimension": dimension,
        "count": count,
        "unique": count,
        "sum_value": value,
    }


def _order(day: dt.date, number: int) -> dict[str, Any]:
    return {
        "id": f"{day}-{number}",
        "type": "event",
        "attributes": {"datetime": f"{day}T12:00:00+00:00", "event_properties": {"$value": 25.5}},
        "relationships": {
            "metric": {"data": {"type": "metric", "id": "PO"}},
            "profile": {"data": {"type": "profile", "id": f"p{number}"}},
        },
    }
