"""The dimensions and metrics that the sandbox's properties have, and the vendor's words for them.

https://developers.google.com/analytics/devguides/reporting/data/v1/api-schema
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_DIMENSIONS = 9
MAX_METRICS = 10
MAX_DATE_RANGES = 4
MAX_BATCH = 5
DEFAULT_LIMIT = 10_000
MAX_LIMIT = 250_000
"""https://developers.google.com/analytics/devguides/reporting/data/v1/rest/v1beta/properties/runReport"""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension. deprecated: names of former days that still resolve to it."""

    name: str
    title: str
    category: str
    deprecated: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Any]:
        """A `DimensionMetadata`."""
        return _metadata(self.name, self.title, self.category, self.deprecated)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. restriction: the kind of data that a property may hide (COST_DATA, REVENUE_DATA)."""

    name: str
    title: str
    category: str
    kind: str = "TYPE_INTEGER"
    deprecated: tuple[str, ...] = ()
    restriction: str | None = None

    def metadata(self) -> dict[str, Any]:
        """A `MetricMetadata`."""
        return {**_metadata(self.name, self.title, self.category, self.deprecated), "type": self.kind}


def _metadata(name: str, title: str, category: str, deprecated: tuple[str, ...]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "apiName": name,
        "uiName": title,
        "description": f"{title}. Served by the sandbox.",
        "category": category,
    }
    return {**entry, "deprecatedApiNames": list(deprecated)} if deprecated else entry


DIMENSIONS: Mapping[str, Dimension] = {
    each.name: each
    for each in (
        Dimension("date", "Date", "Time"),
        Dimension("year", "Year", "Time"),
        Dimension("month", "Month", "Time"),
        Dimension("yearMonth", "Year month", "Time"),
        Dimension("dayOfWeek", "Day of week", "Time"),
        Dimension(
            "sessionDefaultChannelGroup",
            "Session default channel group",
            "Traffic source",
            ("sessionDefaultChannelGrouping",),
        ),
        Dimension("sessionSource", "Session source", "Traffic source"),
        Dimension("sessionMedium", "Session medium", "Traffic source"),
        Dimension("sessionSourceMedium", "Session source / medium", "Traffic source"),
        Dimension("sessionCampaignName", "Session campaign", "Traffic source"),
        Dimension("landingPage", "Landing page", "Page / Screen"),
        Dimension("landingPagePlusQueryString", "Landing page + query string", "Page / Screen"),
        Dimension("deviceCategory", "Device category", "Platform / Device"),
        Dimension("browser", "Browser", "Platform / Device"),
        Dimension("operatingSystem", "Operating system", "Platform / Device"),
        Dimension("platform", "Platform", "Platform / Device"),
        Dimension("country", "Country", "Geography"),
        Dimension("region", "Region", "Geography"),
        Dimension("eventName", "Event name", "Event"),
    )
}

METRICS: Mapping[str, Metric] = {
    each.name: each
    for each in (
        Metric("sessions", "Sessions", "Session"),
        Metric("engagedSessions", "Engaged sessions", "Session"),
        Metric("engagementRate", "Engagement rate", "Session", "TYPE_FLOAT"),
        Metric("bounceRate", "Bounce rate", "Session", "TYPE_FLOAT"),
        Metric("sessionKeyEventRate", "Session key event rate", "Session", "TYPE_FLOAT", ("sessionConversionRate",)),
        Metric("totalUsers", "Total users", "User"),
        Metric("activeUsers", "Active users", "User"),
        Metric("newUsers", "New users", "User"),
        Metric("screenPageViews", "Views", "Page / Screen"),
        Metric("eventCount", "Event count", "Event"),
        Metric("eventValue", "Event value", "Event", "TYPE_FLOAT"),
        Metric("keyEvents", "Key events", "Event", "TYPE_FLOAT", ("conversions",)),
        Metric("addToCarts", "Add to carts", "Ecommerce"),
        Metric("checkouts", "Checkouts", "Ecommerce"),
        Metric("ecommercePurchases", "Ecommerce purchases", "Ecommerce"),
        Metric("transactions", "Transactions", "Ecommerce"),
        Metric("purchaseRevenue", "Purchase revenue", "Ecommerce", "TYPE_CURRENCY", restriction="REVENUE_DATA"),
        Metric("totalRevenue", "Total revenue", "Revenue", "TYPE_CURRENCY", restriction="REVENUE_DATA"),
        Metric(
            "averagePurchaseRevenue",
            "Average purchase revenue",
            "Revenue",
            "TYPE_CURRENCY",
            restriction="REVENUE_DATA",
        ),
        Metric("advertiserAdCost", "Ads cost", "Advertising", "TYPE_CURRENCY", restriction="COST_DATA"),
        Metric("advertiserAdClicks", "Ads clicks", "Advertising"),
        Metric("advertiserAdImpressions", "Ads impressions", "Advertising"),
    )
}

ADVERTISING = frozenset({"advertiserAdCost", "advertiserAdClicks", "advertiserAdImpressions"})
"""Metrics of ad platforms: they know sessions' sources only, so other dimensions do not go with them."""

ADVERTISING_DIMENSIONS = frozenset(
    name for name, each in DIMENSIONS.items() if each.category in ("Time", "Traffic source")
)


def _resolver(fields: Iterable[Dimension | Metric]) -> dict[str, str]:
    return {name: each.name for each in fields for name in (each.name, *each.deprecated)}


_DIMENSION_NAMES = _resolver(DIMENSIONS.values())
_METRIC_NAMES = _resolver(METRICS.values())


def dimension(name: str) -> Dimension | None:
    """The dimension of this name, present or former."""
    return DIMENSIONS.get(_DIMENSION_NAMES.get(name, ""))


def metric(name: str) -> Metric | None:
    """The metric of this name, present or former."""
    return METRICS.get(_METRIC_NAMES.get(name, ""))


def is_compatible(dimension_name: str, metric_name: str) -> bool:
    """Whether the two may stand in one report."""
    return metric_name not in ADVERTISING or dimension_name in ADVERTISING_DIMENSIONS
