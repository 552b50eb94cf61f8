"""The sandbox's own doors, which no vendor has: health, accounts, truth, calls, faults, clock, reset."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import klaviyo_bench, nivoda_tokens, settings, slack, slack_store
from sandbox.clock import parse_instant
from sandbox.faults import parse
from sandbox.shops import VendorAccount, money
from sandbox.state import State

MAX_TRUTH_DAYS = 1200


def routes(state: State) -> list[Route]:
    """The control routes, all under /sandbox."""
    door = _Door(state)
    table: tuple[tuple[str, str, Callable[[Request], Awaitable[Response]]], ...] = (
        ("GET", "/sandbox/health", door.health),
        ("GET", "/sandbox/accounts", door.accounts),
        ("GET", "/sandbox/credentials", door.credentials),
        ("GET", "/sandbox/truth", door.truth),
        ("GET", "/sandbox/calls", door.calls),
        ("GET", "/sandbox/faults", door.faults),
        ("PUT", "/sandbox/faults", door.set_faults),
        ("PUT", "/sandbox/clock", door.set_clock),
        ("PUT", "/sandbox/latency", door.set_latency),
        ("PUT", "/sandbox/settings", door.set_settings),
        ("POST", "/sandbox/reset", door.reset),
        ("GET", "/sandbox/slack/messages", door.slack_messages),
    )
    return [Route(path, handler, methods=[method]) for method, path, handler in table]


class _Door:
    def __init__(self, state: State) -> None:
        self._state = state

    async def health(self, request: Request) -> Response:
        state = self._state
        return JSONResponse({"ok": True, "seed": state.seed, "now": state.clock.now().isoformat()})

    async def accounts(self, request: Request) -> Response:
        """All accounts with what a client needs to read them."""
        base_url = str(request.base_url).rstrip("/")
        accounts = self._state.business.accounts()
        if self._state.bench_events:
            accounts += (klaviyo_bench.account(self._state),)
        return JSONResponse([_account(self._state, account, base_url) for account in accounts])

    async def credentials(self, request: Request) -> Response:
        """Credentials that belong to no account: Slack's bot, Google's OAuth client."""
        tokens = self._state.tokens
        return JSONResponse(
            {
                "slack": {
                    "token": slack.token(self._state),
                    "revoked_token": slack.revoked_token(self._state),
                    "channels": dict(slack.CHANNELS),
                },
                "nivoda": {
                    "username": nivoda_tokens.username(self._state),
                    "password": nivoda_tokens.password(self._state),
                },
                "google": {
                    "client_id": tokens.client_id,
                    "client_secret": tokens.client_secret,
                    "refresh_token": tokens.refresh_token,
                },
            }
        )

    async def truth(self, request: Request) -> Response:
        """What is true of one account, day by day: ?platform=&account_id=&from=&to= (both inclusive)."""
        query = request.query_params
        account = self._state.business.account(query.get("platform", "").upper(), query.get("account_id", ""))
        if account is None:
            return _refused(404, "no such platform and account_id")
        as_of = self._state.as_of(account)
        try:
            first = dt.date.fromisoformat(query.get("from", as_of.isoformat()))
            last = dt.date.fromisoformat(query.get("to", as_of.isoformat()))
        except ValueError as error:
            return _refused(400, str(error))
        if not 0 <= (last - first).days < MAX_TRUTH_DAYS:
            return _refused(400, f"from and to span 1 to {MAX_TRUTH_DAYS} days")
        days = [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]
        return JSONResponse(
            {"as_of": as_of.isoformat(), "days": [_truth(self._state, account, day, as_of) for day in days]}
        )

    async def calls(self, request: Request) -> Response:
        return JSONResponse(self._state.ledger.calls())

    async def faults(self, request: Request) -> Response:
        return JSONResponse(self._state.faults.report())

    async def set_faults(self, request: Request) -> Response:
        """Replace the rules: the body is the JSON list of `sandbox.faults`."""
        try:
            rules = parse(json.loads(await request.body()))
        except (ValueError, TypeError) as error:
            return _refused(400, str(error))
        self._state.faults.set(rules)
        return JSONResponse({"rules": len(rules)})

    async def set_clock(self, request: Request) -> Response:
        """{"now": ISO time} or {"now": null} for real time."""
        try:
            now = json.loads(await request.body())["now"]
            if now is None:
                self._state.clock.reset()
            else:
                self._state.clock.set(parse_instant(now))
        except (ValueError, TypeError, KeyError) as error:
            return _refused(400, f'expected {{"now": ISO time or null}}: {error}')
        return await self.health(request)

    async def set_latency(self, request: Request) -> Response:
        """{"milliseconds": n}"""
        try:
            milliseconds = float(json.loads(await request.body())["milliseconds"])
        except (ValueError, TypeError, KeyError) as error:
            return _refused(400, f'expected {{"milliseconds": n}}: {error}')
        self._state.latency = milliseconds / 1000
        return JSONResponse({"milliseconds": milliseconds})

    async def set_settings(self, request: Request) -> Response:
        """{"vendor": ..., "account": ..., "settings": {...}}: the switches of `sandbox.settings`."""
        try:
            change = json.loads(await request.body())
            settings.change(self._state, change["vendor"], change.get("account"), change["settings"])
        except (ValueError, TypeError, KeyError) as error:
            return _refused(400, f'expected {{"vendor", "account", "settings"}}: {error}')
        return JSONResponse({"ok": True})

    async def reset(self, request: Request) -> Response:
        self._state.reset()
        return JSONResponse({"ok": True})

    async def slack_messages(self, request: Request) -> Response:
        return JSONResponse(slack_store.store_of(self._state).messages())


def _refused(status: int, detail: str) -> Response:
    return JSONResponse({"error": detail}, status)


def _account(state: State, account: VendorAccount, base_url: str) -> Mapping[str, Any]:
    credentials = dict(account.credentials)
    if account.platform == "GA4":
        credentials["service_account_json"] = json.dumps(state.tokens.service_account(f"{base_url}/google/token"))
    return {
        "platform": account.platform,
        "shop_id": account.shop.shop_id,
        "shop_name": account.shop.name,
        "account_id": account.account_id,
        "account_name": account.name,
        "credentials": credentials,
        "time_zone": account.shop.time_zone,
        "currency": account.shop.currency,
        "settings": dict(account.settings),
    }


def _truth(state: State, account: VendorAccount, day: dt.date, as_of: dt.date) -> Mapping[str, Any]:
    known = state.business.shop_day(account.shop, day, as_of)
    common: dict[str, Any] = {"date": day.isoformat(), "orders": known.orders, "order_value": money(known.order_cents)}
    match account.platform:
        case "META":
            return common | {
                "spend": money(known.spend_cents),
                "adless_spend": money(known.adless_spend_cents),
                "impressions": known.impressions,
                "clicks": known.clicks,
                "purchases": known.purchases,
                "purchase_value": money(known.purchase_cents),
            }
        case "GA4":
            return common | {
                "sessions": known.sessions,
                "transactions": known.transactions,
                "purchase_revenue": money(known.transaction_cents),
            }
        case _:
            return common | {
                "placed_orders": known.told_orders,
                "placed_order_value": money(known.told_cents),
                "attributed_orders": known.attributed_orders,
                "attributed_value": money(known.attributed_cents),
                "received": known.emails_received,
                "opened": known.emails_opened,
                "clicked": known.emails_clicked,
            }
