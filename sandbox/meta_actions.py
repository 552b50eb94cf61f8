"""The `actions` and `action_values` of an insights row, with the overlapping types that the vendor sends.

https://developers.facebook.com/docs/marketing-api/reference/ads-action-stats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sandbox.shops import money

ActionStats = dict[str, str]
Writer = Callable[[int], str]

_WEBSITE_SHARE = 0.88
"""Share of the purchases that the pixel on the shop's site reports; the rest happens in the vendor's own shops."""

_DEVICES = (("iphone", 0.45), ("android_smartphone", 0.38), ("desktop", 0.17))
_DESTINATIONS = (("offsite", 1.0),)


@dataclass(frozen=True, slots=True)
class ActionCounts:
    """What an insights row has to tell of people's actions; money in cents."""

    link_clicks: int
    clicks: int
    landing_page_views: int
    add_to_carts: int
    checkouts: int
    purchases: int
    purchase_cents: int


@dataclass(frozen=True, slots=True)
class Action:
    """One action type: how often, and what it was worth (None: it has no value)."""

    action_type: str
    count: int
    cents: int | None = None


def actions(counts: ActionCounts) -> list[Action]:
    """All action types of a row. Those of one kind overlap: `omni_purchase` and `purchase` hold all purchases,
    the `offsite_` and `onsite_` ones a part each."""
    website = int(counts.purchases * _WEBSITE_SHARE + 0.5)
    website_cents = counts.purchase_cents * website // counts.purchases if counts.purchases else 0
    onsite, onsite_cents = counts.purchases - website, counts.purchase_cents - website_cents
    found = [
        Action("link_click", counts.link_clicks),
        Action("landing_page_view", counts.landing_page_views),
        Action("omni_landing_page_view", counts.landing_page_views),
        Action("post_engagement", counts.clicks),
        Action("page_engagement", counts.clicks),
        *_website_kind("add_to_cart", counts.add_to_carts),
        *_website_kind("initiate_checkout", counts.checkouts),
        Action("omni_purchase", counts.purchases, counts.purchase_cents),
        Action("purchase", counts.purchases, counts.purchase_cents),
        Action("web_in_store_purchase", website, website_cents),
        Action("onsite_web_purchase", website, website_cents),
        Action("offsite_conversion.fb_pixel_purchase", website, website_cents),
        Action("onsite_conversion.purchase", onsite, onsite_cents),
    ]
    return [action for action in found if action.count]


def _website_kind(name: str, count: int) -> Iterator[Action]:
    omni = "omni_initiated_checkout" if name == "initiate_checkout" else f"omni_{name}"
    for action_type in (omni, name, f"offsite_conversion.fb_pixel_{name}"):
        yield Action(action_type, count)


def counted(found: Sequence[Action], windows: Sequence[str], dimensions: Sequence[str]) -> list[ActionStats]:
    """The entries of `actions`."""
    return [_entry(labels, part, windows, str) for labels, part in _grouped(found, dimensions, valued=False)]


def valued(found: Sequence[Action], windows: Sequence[str], dimensions: Sequence[str]) -> list[ActionStats]:
    """The entries of `action_values`: types with a value only."""
    return [_entry(labels, part, windows, money) for labels, part in _grouped(found, dimensions, valued=True)]


def _grouped(found: Sequence[Action], dimensions: Sequence[str], valued: bool) -> Iterator[tuple[dict[str, str], int]]:
    """Amounts by the asked action breakdowns. Without `action_type` all types fall together, overlapping ones twice:
    what the vendor answers as well."""
    amounts: dict[tuple[tuple[str, str], ...], int] = {}
    for action in found:
        amount = action.cents if valued else action.count
        if amount is None:
            continue
        for labels, part in _divided(action, amount, dimensions):
            amounts[labels] = amounts.get(labels, 0) + part
    return ((dict(labels), amount) for labels, amount in amounts.items() if amount)


def _divided(
    action: Action, amount: int, dimensions: Sequence[str]
) -> Iterator[tuple[tuple[tuple[str, str], ...], int]]:
    shares: Sequence[tuple[str, float]] = (("", 1.0),)
    name = next((each for each in dimensions if each in ("action_device", "action_destination")), "")
    if name:
        shares = _DEVICES if name == "action_device" else _DESTINATIONS
    given, running = 0, 0.0
    for value, share in shares:
        running += share
        part = int(amount * running + 0.5) - given
        given += part
        labels = []
        if "action_type" in dimensions:
            labels.append(("action_type", action.action_type))
        if name:
            labels.append((name, value))
        yield tuple(labels), part


def _entry(labels: dict[str, str], amount: int, windows: Sequence[str], write: Writer) -> ActionStats:
    entry = {**labels, "value": write(amount)}
    for window, part in _windows(amount).items():
        if window in windows and part:
            entry[window] = write(part)
    return entry


def _windows(amount: int) -> dict[str, int]:
    """One amount (that of 7 days after a click and 1 day after a view) in each attribution window."""
    after_view = amount // 10
    after_click = amount - after_view
    return {
        "1d_click": after_click * 3 // 4,
        "7d_click": after_click,
        "28d_click": after_click + after_click // 20,
        "1d_view": after_view,
        "1d_ev": after_view // 2,
    }
