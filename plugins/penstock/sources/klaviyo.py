"""Klaviyo: campaigns, flows, audiences, events and e-mail performance of one account.

Two kinds of numbers, never mixed in one column: *aggregates* (raw event counts per day, from
`metric-aggregates`) and *reports* (`campaign-values`, `flow-series`: what Klaviyo's own screens show).

klaviyo_resources.py asks for and reads the listings, klaviyo_reports.py the counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from penstock.core.errors import error
from penstock.sources.fields import compile_fields, expect_list, find, required
from penstock.sources.klaviyo_reports import (
    AGGREGATE_PAGE,
    FLOW_SERIES_DAYS,
    aggregate_variants,
    ask_aggregates,
    ask_campaign_values,
    ask_flow_series,
    conversion_metric,
    parse_aggregates,
    parse_campaign_values,
    parse_flow_series,
    read_campaign_values,
    read_flow_series,
    read_message_aggregate,
    read_totals,
    report_variants,
    totals_variants,
)
from penstock.sources.klaviyo_resources import (
    NO_PAGE_SIZE,
    PAGE_SIZES,
    PLACED_ORDER,
    PROFILE_FIELDS,
    archived_variants,
    ask_campaigns,
    ask_events,
    ask_flows,
    ask_metrics,
    campaign_variants,
    check_campaign,
    entity_stream,
    event_variants,
    listing,
    parse_campaigns,
    read_event,
    read_resource,
    resource_page,
)
from penstock.sources.stream import Account, Kind, Limit, Profile, Request, Source, Stream

# The contract that requests and answers were checked against; a revision lives about two years.
# https://developers.klaviyo.com/en/docs/api_versioning_and_deprecation_policy
KLAVIYO_REVISION = "2026-07-15"

HEADROOM = 0.95  # of every limit: clocks and networks move a call or two over a window's edge


def paced(per_second: int, per_minute: int) -> tuple[Limit, ...]:
    """Burst and steady limits of one endpoint: spread evenly, the burst inside the headroom."""
    burst = max(1, min(per_second, int(per_minute * (1 - HEADROOM) + 1e-9)))
    return (
        Limit(per_second, 1.0 / HEADROOM),
        Limit(per_minute, 60.0 / HEADROOM, burst),
    )


# Per account, shared by all its keys: `x-klaviyo-ratelimit` of each operation in the vendor's OpenAPI document.
# https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
LIMITS = {
    "accounts": paced(1, 15),
    "campaigns": paced(10, 150),
    "flows": paced(3, 60),
    "lists": paced(75, 750),
    "segments": paced(75, 750),
    "profiles": paced(75, 750),
    "events": paced(350, 3500),
    "metrics": paced(10, 150),
    "metric-aggregates": paced(3, 60),
    "reports": (
        Limit(1, 1.0 / HEADROOM),
        Limit(2, 60.0 / HEADROOM, is_hard_window=True),
        Limit(int(225 * HEADROOM), 86400.0, is_hard_window=True),
    ),
}


# -- the account itself ------------------------------------------------------------------------------------------

# Where a metric's name occurs several times, the shop's own integration counts, then the API's.
PREFERRED_INTEGRATIONS = ("Shopify", "API", "Klaviyo")


def ask_profile(account: Account) -> Sequence[Request]:
    """The account and its metrics. The listing has pages of 200, so those that matter are asked for by name."""
    return (
        Request("GET", "api/accounts", limit="accounts"),
        Request("GET", "api/metrics", limit="metrics"),
        *(
            Request("GET", "api/metrics", {"filter": f"equals(integration.name,'{name}')"}, limit="metrics")
            for name in PREFERRED_INTEGRATIONS
        ),
    )


check_account = compile_fields(
    (
        *required("id", "id"),
        *required("text", "attributes/timezone"),
        *required("currency", "attributes/preferred_currency"),
    )
)


def read_profile(account: Account, bodies: Sequence[Any]) -> Profile:
    accounts = expect_list(bodies[0], "data")
    if not accounts:
        raise error("SCHEMA_MISMATCH", "the key belongs to no account: the list of accounts is empty")
    check_account(accounts[0])
    refuse_other_account(account, str(accounts[0]["id"]))
    attributes = accounts[0]["attributes"]
    metrics = metric_ids(metric for body in bodies[1:] for metric in expect_list(body, "data"))
    facts = {"metrics": metrics, "klaviyo_account_id": str(accounts[0]["id"])}
    findings = {}
    if conversion_metric(replace(account, facts=facts)) is None:
        findings["KLAVIYO_NO_CONVERSION_METRIC"] = (
            f"no revenue is read: of the {len(metrics)} metrics that were looked at none is called {PLACED_ORDER!r}"
        )
    return Profile(
        name=find(attributes, "contact_information", "organization_name") or account.name,
        time_zone=attributes["timezone"],
        currency=attributes["preferred_currency"],
        facts=facts,
        findings=findings,
    )


def refuse_other_account(account: Account, found: str) -> None:
    """One client's data must never land in another's tables. No call names the account: it is the key's, and a key may
    be put into the wrong row. Whose numbers the row has is known from its first run."""
    known = account.facts.get("klaviyo_account_id")
    if known is not None and found != known:
        raise error(
            "CREDENTIAL_INVALID",
            f"the key is of Klaviyo account {found}, the numbers of this row are of {known}: give the row a key of "
            "its own account, or register the other one as an account",
        )


def metric_ids(metrics: Iterable[Any]) -> dict[str, str]:
    """Metric ids by name, the preferred integration's where a name occurs several times."""
    named = [metric for metric in metrics if find(metric, "id") and find(metric, "attributes", "name")]
    ranked = sorted(named, key=lambda metric: (integration_rank(metric), str(metric["id"])), reverse=True)
    return {metric["attributes"]["name"]: str(metric["id"]) for metric in ranked}


def integration_rank(metric: Any) -> int:
    name = find(metric, "attributes", "integration", "name")
    return PREFERRED_INTEGRATIONS.index(name) if name in PREFERRED_INTEGRATIONS else len(PREFERRED_INTEGRATIONS)


# -- the streams -------------------------------------------------------------------------------------------------


SOURCE = Source(
    name="klaviyo",
    platform="KLAVIYO",
    streams=(
        Stream(
            name="campaigns",
            table="campaigns",
            kind=Kind.ENTITY,
            request=ask_campaigns,
            parse=parse_campaigns,
            row=read_resource(check_campaign, "updated_at"),
            page_size=PAGE_SIZES["campaigns"],
            variants=campaign_variants,
        ),
        entity_stream("flows", ask_flows, variants=archived_variants),
        entity_stream("lists", listing("lists", {"sort": "id"})),
        entity_stream("segments", listing("segments", {"sort": "id"})),
        entity_stream("metrics", ask_metrics),
        Stream(
            name="events",
            table="events",
            kind=Kind.EVENT,
            request=ask_events,
            parse=resource_page,
            row=read_event,
            page_size=PAGE_SIZES["events"],
            min_page_size=50,
            slice_days=30,
            variants=event_variants,
        ),
        entity_stream(
            "profiles",
            listing("profiles", {"fields[profile]": PROFILE_FIELDS, "sort": "id"}),
            is_default=False,
        ),
        Stream(
            name="message_aggregates",
            table="metric_aggregates",
            kind=Kind.DAILY,
            request=ask_aggregates,
            parse=parse_aggregates,
            row=read_message_aggregate,
            page_size=AGGREGATE_PAGE,
            min_page_size=50,
            slice_days=90,
            variants=aggregate_variants,
        ),
        Stream(
            name="campaign_values",
            table="campaign_values",
            kind=Kind.DAILY,
            request=ask_campaign_values,
            parse=parse_campaign_values,
            row=read_campaign_values,
            page_size=NO_PAGE_SIZE,
            is_as_of=True,
            variants=report_variants,
        ),
        Stream(
            name="flow_series",
            table="flow_series",
            kind=Kind.DAILY,
            request=ask_flow_series,
            parse=parse_flow_series,
            row=read_flow_series,
            page_size=NO_PAGE_SIZE,
            slice_days=FLOW_SERIES_DAYS,
            variants=report_variants,
        ),
        Stream(
            name="totals",
            table="totals",
            kind=Kind.TOTALS,
            request=ask_aggregates,
            parse=parse_aggregates,
            row=read_totals,
            page_size=AGGREGATE_PAGE,
            min_page_size=50,
            slice_days=90,
            variants=totals_variants,
        ),
    ),
    limits=LIMITS,
    concurrency=4,
    profile_requests=ask_profile,
    profile=read_profile,
    transforms=(
        "klaviyo__dim_klaviyo_metric",
        "klaviyo__dim_klaviyo_audience",
        "klaviyo__dim_klaviyo_flow",
        "klaviyo__dim_klaviyo_message",
        "klaviyo__fct_klaviyo_message_daily",
        "klaviyo__fct_klaviyo_flow_daily",
        "klaviyo__fct_klaviyo_campaign_total",
        "klaviyo__fct_klaviyo_event_daily",
        "klaviyo__fct_account_totals",
        "klaviyo__compat_fact_email_daily",
    ),
)
