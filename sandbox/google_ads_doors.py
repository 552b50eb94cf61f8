"""The sandbox's own doors for advertising: Google Ads customers with credentials, their switches, every ad's days."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.google_ads import developer_token, model_of, switches
from sandbox.google_ads_business import PLATFORM, Customer
from sandbox.shops import money
from sandbox.state import State

SWITCHES = ("status", "manager")
MAX_DAYS = 400


def routes(state: State) -> list[Route]:
    """GET /sandbox/google_ads, PUT /sandbox/google_ads, GET /sandbox/ad_days."""
    door = _Door(state)
    return [
        Route("/sandbox/google_ads", door.customers, methods=["GET"]),
        Route("/sandbox/google_ads", door.switch, methods=["PUT"]),
        Route("/sandbox/ad_days", door.ad_days, methods=["GET"]),
    ]


class _Door:
    def __init__(self, state: State) -> None:
        self._state = state

    async def customers(self, request: Request) -> Response:
        """The customers, in the form of /sandbox/accounts."""
        model = model_of(self._state)
        return JSONResponse([_customer(self._state, each, model.manager_id) for each in model.customers])

    async def switch(self, request: Request) -> Response:
        """{"customer": id, "status": "SUSPENDED", "manager": true}"""
        try:
            change = json.loads(await request.body())
            values = {name: change[name] for name in SWITCHES if name in change}
            switches(self._state, str(change["customer"])).update(values)
        except (ValueError, TypeError, KeyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"ok": True})

    async def ad_days(self, request: Request) -> Response:
        """What every ad of an account delivered: ?platform=META|GOOGLE_ADS&account_id=&from=&to= (both inclusive).

        Ads without delivery on a day have no row; spend is a decimal text in the account's currency.
        """
        query = request.query_params
        try:
            first, last = dt.date.fromisoformat(query["from"]), dt.date.fromisoformat(query["to"])
            if not 0 <= (last - first).days < MAX_DAYS:
                raise ValueError(f"from and to span 1 to {MAX_DAYS} days")
            days = [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]
            rows = list(_ad_days(self._state, query["platform"].upper(), query["account_id"], days))
        except (ValueError, KeyError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(rows)


def _customer(state: State, customer: Customer, manager_id: str) -> dict[str, Any]:
    tokens, account = state.tokens, customer.account
    return {
        "platform": PLATFORM,
        "shop_id": account.shop.shop_id,
        "shop_name": account.shop.name,
        "account_id": account.account_id,
        "account_name": account.name,
        "credentials": {
            "developer_token": developer_token(state),
            "client_id": tokens.client_id,
            "client_secret": tokens.client_secret,
            "refresh_token": tokens.refresh_token,
            "login_customer_id": manager_id,
        },
        "time_zone": account.shop.time_zone,
        "currency": account.shop.currency,
        "settings": {},
    }


def _ad_days(state: State, platform: str, account_id: str, days: list[dt.date]) -> Iterator[dict[str, Any]]:
    if platform == PLATFORM:
        yield from _google_days(state, account_id, days)
        return
    account = state.business.account(platform, account_id)
    if account is None:
        raise ValueError(f"no account {account_id} on {platform}")
    as_of = state.as_of(account)
    for day in days:
        for row in state.business.ad_days(account, day, as_of):
            if row.ad_id is not None:
                yield {
                    "date": day.isoformat(),
                    "ad_id": row.ad_id,
                    "impressions": row.impressions,
                    "clicks": row.clicks,
                    "spend": money(row.spend_cents),
                    "reach": row.reach,
                }


def _google_days(state: State, account_id: str, days: list[dt.date]) -> Iterator[dict[str, Any]]:
    """One row per ad: what it delivered in all of its ad groups."""
    model = model_of(state)
    customer = model.customer(account_id)
    if customer is None:
        raise ValueError(f"no customer {account_id}")
    as_of = state.as_of(customer.account)
    for day in days:
        sums: dict[int, list[int]] = {}
        for row in model.days(account_id, day, as_of):
            held = sums.setdefault(row.ad.ad_id, [0, 0, 0])
            for place, value in enumerate((row.impressions, row.clicks, row.cost_micros)):
                held[place] += value
        for ad_id, (impressions, clicks, micros) in sorted(sums.items()):
            yield {
                "date": day.isoformat(),
                "ad_id": str(ad_id),
                "impressions": impressions,
                "clicks": clicks,
                "spend": f"{micros // 1_000_000}.{micros % 1_000_000:06d}",
                "reach": None,
            }
