"""How one ad's day divides over breakdowns: age, gender, country, placement and the like.

A row is cut into whole parts that sum to it exactly, whatever the breakdown, so that the rows of every report sum to
the account.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sandbox.ads import AdDay
from sandbox.shops import Shop, digest

Cell = tuple[str, ...]

_COUNTRY_CODES = {"Switzerland": "CH", "United States": "US", "Australia": "AU"}
_NEIGHBOURS = {"CH": (("DE", 0.07), ("AT", 0.04), ("LI", 0.01)), "US": (("CA", 0.09),), "AU": (("NZ", 0.12),)}

_AGES = (("18-24", 0.13), ("25-34", 0.29), ("35-44", 0.25), ("45-54", 0.17), ("55-64", 0.1), ("65+", 0.06))
_GENDERS = (("female", 0.56), ("male", 0.42), ("unknown", 0.02))

# publisher platform, position, device platform, impression device, share
_PLACEMENTS: tuple[tuple[str, str, str, str, float], ...] = (
    ("facebook", "feed", "mobile_app", "android_smartphone", 0.20),
    ("facebook", "feed", "desktop", "desktop", 0.07),
    ("facebook", "facebook_reels", "mobile_app", "iphone", 0.09),
    ("facebook", "marketplace", "mobile_app", "android_smartphone", 0.05),
    ("instagram", "feed", "mobile_app", "iphone", 0.22),
    ("instagram", "instagram_stories", "mobile_app", "iphone", 0.14),
    ("instagram", "instagram_reels", "mobile_app", "android_smartphone", 0.17),
    ("audience_network", "an_classic", "mobile_app", "android_smartphone", 0.04),
    ("messenger", "messenger_inbox", "mobile_app", "iphone", 0.02),
)
_PLACEMENT_COLUMNS = ("publisher_platform", "platform_position", "device_platform", "impression_device")

_HOUR = "hourly_stats_aggregated_by_advertiser_time_zone"
_HOURS = tuple(
    (f"{hour:02d}:00:00 - {hour:02d}:59:59", 0.5 + (hour % 12) / 12 + (0.8 if hour > 11 else 0.0)) for hour in range(24)
)

SERVED = frozenset({"age", "gender", "country", "region", _HOUR, *_PLACEMENT_COLUMNS})
"""Breakdowns that the sandbox has data for; an insights call with another valid one has no rows."""


@dataclass(frozen=True, slots=True)
class Division:
    """The cells of some breakdowns, with the share of each; shares sum to 1."""

    cells: tuple[Cell, ...]
    shares: tuple[float, ...]


def division(shop: Shop, breakdowns: Sequence[str]) -> Division | None:
    """The cells of these breakdowns, in the order asked. None: nothing is divided by one of them."""
    if not set(breakdowns) <= SERVED:
        return None
    weighted: dict[Cell, float] = {}
    for values, share in _combinations(shop, breakdowns):
        cell = tuple(values[name] for name in breakdowns)
        weighted[cell] = weighted.get(cell, 0.0) + share
    total = sum(weighted.values())
    return Division(tuple(weighted), tuple(share / total for share in weighted.values()))


def _combinations(shop: Shop, breakdowns: Sequence[str]) -> Iterator[tuple[dict[str, str], float]]:
    asked = set(breakdowns)
    if asked & {"age", "gender"}:
        for age, age_share in _AGES:
            for gender, gender_share in _GENDERS:
                yield {"age": age, "gender": gender}, age_share * gender_share
    elif asked & {"country", "region"}:
        yield from _places(shop)
    elif asked & set(_PLACEMENT_COLUMNS):
        for *values, share in _PLACEMENTS:
            yield dict(zip(_PLACEMENT_COLUMNS, map(str, values), strict=True)), float(share)
    else:
        for hour, weight in _HOURS:
            yield {_HOUR: hour}, weight


def _places(shop: Shop) -> Iterator[tuple[dict[str, str], float]]:
    home = _COUNTRY_CODES.get(shop.country, "US")
    abroad = _NEIGHBOURS.get(home, ())
    rest = 1.0 - sum(share for _, share in abroad)
    for number, region in enumerate(shop.regions):
        weight = 2 ** -(number + 1) if number < len(shop.regions) - 1 else 2**-number
        yield {"country": home, "region": region}, rest * weight
    for country, share in abroad:
        yield {"country": country, "region": "Unknown"}, share


def divide(row: AdDay, parts: Division) -> Iterator[tuple[Cell, AdDay]]:
    """The row's parts, cell by cell; empty ones are left out."""
    key = digest(row.day, row.adset_id, row.ad_id, *parts.cells[0])
    impressions = whole_parts(row.impressions, parts.shares, key)
    weights = [float(part) for part in impressions]

    def spread(total: int, number: int, by: Sequence[float]) -> list[int]:
        return whole_parts(total, by, key + 7919 * number)

    link_clicks = spread(row.link_clicks, 1, weights)
    clicks = spread(row.clicks - row.link_clicks, 2, weights)
    purchases = spread(row.purchases, 3, weights)
    carts = spread(row.add_to_carts - row.purchases, 4, weights)
    checkouts = spread(row.checkouts - row.purchases, 5, weights)
    reach = spread(row.reach, 6, weights)
    spend = spread(row.spend_cents, 7, weights)
    cents = spread(row.purchase_cents, 8, [float(part) for part in purchases])
    views = spread(row.landing_page_views, 9, [float(part) for part in link_clicks])
    for index, cell in enumerate(parts.cells):
        part = replace(
            row,
            impressions=impressions[index],
            reach=min(impressions[index], max(reach[index], 1)) if impressions[index] else 0,
            link_clicks=link_clicks[index],
            clicks=clicks[index] + link_clicks[index],
            purchases=purchases[index],
            purchase_cents=cents[index],
            add_to_carts=carts[index] + purchases[index],
            checkouts=checkouts[index] + purchases[index],
            landing_page_views=views[index],
            spend_cents=spend[index],
        )
        if part.impressions or part.purchases or part.spend_cents or part.clicks:
            yield cell, part


def whole_parts(total: int, weights: Sequence[float], key: int) -> list[int]:
    """`total` cut into whole parts in proportion to the weights. `key` decides who gets the odd ones."""
    scale = sum(weights)
    if total == 0 or scale <= 0:
        return [0] * len(weights)
    phase = (key % 997) / 997
    parts: list[int] = []
    running, given = 0.0, 0
    for weight in weights:
        running += weight
        upto = int(total * (running / scale) + phase)
        parts.append(upto - given)
        given = upto
    parts[-1] += total - given
    return parts
