"""Meta's limits on calls, and the four headers that tell a client how near it is.

https://developers.facebook.com/docs/graph-api/overview/rate-limiting
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from sandbox import meta_errors as errors
from sandbox.ledger import Window
from sandbox.meta_errors import GraphError
from sandbox.settings import meta_settings
from sandbox.shops import VendorAccount, digest
from sandbox.state import State

TIER = "standard_access"
HOUR = 3600.0

_BUDGETS = {"ads_insights": (190_000, 400), "ads_management": (100_000, 40)}
"""Business use case -> calls an hour of the full tier: base, and more per active ad."""

_APP_CALLS_AN_HOUR = 200_000

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one account has used of its limit, in per cent, and the seconds until the next call is granted."""

    percent: int
    wait: float = 0.0
    reset: float = 0.0

    @property
    def minutes(self) -> int:
        """`estimated_time_to_regain_access`: whole minutes."""
        return math.ceil(self.wait / 60)


def use_case(endpoint: str) -> str:
    """The business use case that an endpoint's calls count for."""
    return "ads_insights" if "insights" in endpoint or endpoint == "report_run" else "ads_management"


def take(state: State, account: VendorAccount, endpoint: str) -> tuple[Usage, GraphError | None]:
    """Count one call of the account. The error is that of a call over the limit, which takes nothing."""
    settings = meta_settings(state, account.account_id)
    case = use_case(endpoint)
    if settings.request_limit is None:
        base, more = _BUDGETS[case]
        running = len(state.business.ads.running(account.account_id, state.as_of(account)))
        window, family = Window(base + more * running, HOUR), case
    else:
        window, family = Window(settings.request_limit, settings.request_period), "requests"
    now = state.clock.monotonic()
    decision = state.ledger.take("meta", account.account_id, family, [window], now)
    used = window.count - decision.remaining
    usage = Usage(min(100, 100 * used // window.count), decision.retry_after, decision.reset)
    if decision.is_granted:
        return usage, None
    return usage, refusal(settings.request_limit_code, case)


def refusal(code: int, case: str) -> GraphError:
    """The error of a call over a limit: 17, or the use case's own for any of 80000 to 80014."""
    if code in errors.BUSINESS_LIMITS.values() and code in (80000, 80004):
        return errors.business_limit(case)
    return errors.by_code(code)


def headers(state: State, account: VendorAccount, endpoint: str, usage: Usage) -> Headers:
    """The usage headers of one answer."""
    case = use_case(endpoint)
    app = app_percent(state)
    business = {
        "type": case,
        "call_count": usage.percent,
        "total_cputime": usage.percent * 3 // 4,
        "total_time": usage.percent * 2 // 3,
        "estimated_time_to_regain_access": usage.minutes,
        "ads_api_access_tier": TIER,
    }
    account_usage = {
        "acc_id_util_pct": float(usage.percent),
        "reset_time_duration": math.ceil(usage.reset),
        "ads_api_access_tier": TIER,
    }
    result = {
        **app_header(app),
        "x-ad-account-usage": _compact(account_usage),
        "x-business-use-case-usage": _compact({business_id(state, account): [business]}),
    }
    if case == "ads_insights":
        throttle = {"app_id_util_pct": app, "acc_id_util_pct": float(usage.percent), "ads_api_access_tier": TIER}
        result["x-fb-ads-insights-throttle"] = _compact(throttle)
    return result


def app_percent(state: State) -> int:
    """Count one call of the app; the share of its hourly budget that is used."""
    window = Window(_APP_CALLS_AN_HOUR, HOUR)
    decision = state.ledger.take("meta", "", "app", [window], state.clock.monotonic())
    return 100 * (window.count - decision.remaining) // window.count


def app_header(percent: int) -> Headers:
    value = {"call_count": percent, "total_cputime": percent, "total_time": percent}
    return {"x-app-usage": _compact(value)}


def business_id(state: State, account: VendorAccount) -> str:
    """The business that owns the account."""
    return str(10**14 + digest(state.seed, account.account_id, "business") % 10**13)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
