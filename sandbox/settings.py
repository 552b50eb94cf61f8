"""Switches of single vendors, for tests: limits, thresholds, quality flags.

`PUT /sandbox/settings {"vendor": "meta", "account": "123", "settings": {"request_limit": 30}}` changes some of them for
one account, or without `account` for all; a reset of the sandbox puts everything back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.state import State

_MODULE = "settings"
_ALL = "*"


@dataclass(frozen=True, slots=True)
class MetaSettings:
    """How the Graph API treats one ad account.

    request_limit: hard limit of calls in any `request_period` seconds, None for the use case's own hourly budget.
    request_limit_code: what a call over it is told, 17 or one of 80000 to 80014.
    data_threshold: rows of the page x fields x days above which an insights call is too much.
    report_polls: polls of a report job that find it still running.
    requires_proof: the app's switch "require app secret"; a proof that is sent is checked in any case.
    account_status: 1 active, 2 disabled, 3 unsettled; the rest is in the AdAccount reference.
    forbidden_fields: what this token's permissions do not cover; one of them refuses the whole call.
    """

    request_limit: int | None = None
    request_period: float = 3600.0
    request_limit_code: int = 17
    data_threshold: int = 1_500_000
    report_polls: int = 1
    requires_proof: bool = False
    account_status: int = 1
    forbidden_fields: tuple[str, ...] = ("owner", "funding_source_details", "is_prepay_account", "tos_accepted")


@dataclass(frozen=True, slots=True)
class Ga4Settings:
    """How the Data API treats one property. Quotas: those of a standard property,
    https://developers.google.com/analytics/devguides/reporting/data/v1/quotas

    extra_rows: landing pages with one session each, added to every day (paging of large results).
    other_row_after: rows of one day beyond which the rest falls into one "(other)" row.
    withholds_below: rows with fewer users are withheld, and `subjectToThresholding` says so.
    restricted: kinds of metrics that read as 0 (COST_DATA, REVENUE_DATA).
    metadata: more keys of `ResponseMetaData`, as they are to be sent.
    is_api_disabled: the project has not switched the API on.
    """

    tokens_per_day: int = 200_000
    tokens_per_hour: int = 40_000
    tokens_per_project_per_hour: int = 14_000
    concurrent_requests: int = 10
    server_errors_per_hour: int = 10
    thresholded_requests_per_hour: int = 120
    extra_rows: int = 0
    other_row_after: int | None = None
    withholds_below: int = 0
    restricted: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    is_api_disabled: bool = False


_KINDS: Mapping[str, type[MetaSettings] | type[Ga4Settings]] = {"meta": MetaSettings, "ga4": Ga4Settings}


def change(state: State, vendor: str, account: str | None, values: Mapping[str, Any]) -> None:
    """Set some switches of a vendor, for one account or for all. Raises ValueError for an unknown name."""
    if vendor not in _KINDS:
        raise ValueError(f"no settings for vendor {vendor!r}; one of {', '.join(sorted(_KINDS))}")
    known = {each.name for each in dataclasses.fields(_KINDS[vendor])}
    unknown = set(values) - known
    if unknown:
        raise ValueError(f"unknown settings of {vendor}: {', '.join(sorted(unknown))}")
    stored = state.remembered(_MODULE).setdefault(f"{vendor}:{account or _ALL}", {})
    stored.update({name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def meta_settings(state: State, account: str) -> MetaSettings:
    """The switches of one ad account (its id without `act_`)."""
    return MetaSettings(**_changed(state, "meta", account))


def ga4_settings(state: State, account: str) -> Ga4Settings:
    """The switches of one property."""
    return Ga4Settings(**_changed(state, "ga4", account))


def _changed(state: State, vendor: str, account: str) -> dict[str, Any]:
    memory = state.remembered(_MODULE)
    return {**memory.get(f"{vendor}:{_ALL}", {}), **memory.get(f"{vendor}:{account}", {})}
