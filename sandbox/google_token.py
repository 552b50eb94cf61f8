"""Google's token endpoint, and the revoking of grants.

https://developers.google.com/identity/protocols/oauth2/service-account
https://developers.google.com/identity/protocols/oauth2/web-server#tokenrevoke
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.routing import Route

from sandbox.faults import Rule
from sandbox.service import Call, json_response, vendor_route
from sandbox.state import State
from sandbox.tokens import LIFETIME, GrantError, Token

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Google:
    """The vendor behind the token endpoint."""

    name = "google"

    def account_of(self, call: Call) -> str:
        return ""

    def failure(self, rule: Rule, call: Call) -> Response | None:
        if rule.action == "expired_token":
            return refusal("invalid_grant", "Token has been expired or revoked.")
        status = int(rule.params.get("status", 500))
        headers = {"retry-after": str(rule.params["retry_after"])} if "retry_after" in rule.params else None
        return json_response({"error": "internal_failure", "error_description": "Backend Error"}, status, headers)


def routes(state: State) -> list[Route]:
    """POST /token and POST /revoke, to be mounted under /google."""
    return [
        vendor_route(state, Google(), "/token", "token", issue, methods=("POST",)),
        vendor_route(state, Google(), "/revoke", "revoke", revoke, methods=("POST",)),
    ]


def refusal(code: str, description: str) -> Response:
    """A refused grant (RFC 6749, 5.2); an unknown client is 401, the rest 400."""
    status = 401 if code == "invalid_client" else 400
    return json_response({"error": code, "error_description": description}, status)


async def issue(call: Call) -> Response:
    """An access token for a signed assertion or a refresh token."""
    form = dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))
    try:
        token = _grant(call.state, form)
    except GrantError as error:
        return refusal(error.code, error.description)
    access_token = call.state.tokens.issue(token.subject, token.scopes)
    _grants(call.state, "issued").setdefault(token.subject, []).append(access_token)
    return json_response(
        {
            "access_token": access_token,
            "expires_in": LIFETIME - 1,
            "scope": " ".join(sorted(token.scopes)),
            "token_type": "Bearer",
        },
        headers={"cache-control": "no-cache, no-store, max-age=0, must-revalidate"},
    )


def _grant(state: State, form: Mapping[str, str]) -> Token:
    match form.get("grant_type"):
        case "refresh_token":
            token = state.tokens.from_refresh_token(form)
            if form.get("refresh_token") in _grants(state, "revoked"):
                raise GrantError("invalid_grant", "Token has been expired or revoked.")
            return token
        case grant if grant == JWT_BEARER:
            return state.tokens.from_assertion(form.get("assertion", ""))
        case None | "":
            raise GrantError("invalid_request", "Required parameter is missing: grant_type")
        case other:
            raise GrantError("unsupported_grant_type", f"Invalid grant_type: {other}")


async def revoke(call: Call) -> Response:
    """Takes a refresh token back, and with it the access tokens that came of it."""
    form = dict(parse_qsl(call.body.decode("utf-8", "replace"))) | dict(call.request.query_params)
    try:
        client = {"client_id": call.state.tokens.client_id, "client_secret": call.state.tokens.client_secret}
        token = call.state.tokens.from_refresh_token({**client, "refresh_token": form.get("token", "")})
    except GrantError:
        return refusal("invalid_token", "Token expired or revoked")
    _revoke(call.state, token.subject, form["token"])
    return json_response({})


def refresh_token_of(state: State, address: str) -> str:
    """The refresh token of the user's last grant."""
    return state.tokens.refresh_token_of(address, _grants(state, "numbers").get(address, 0))


def revoke_user(state: State, address: str) -> None:
    """The user takes the grant back."""
    _revoke(state, address, refresh_token_of(state, address))


def grant_again(state: State, address: str) -> None:
    """The user connects once more: a new refresh token."""
    numbers = _grants(state, "numbers")
    numbers[address] = numbers.get(address, 0) + 1


def is_revoked(state: State, access_token: str) -> bool:
    """Whether an access token went with its grant."""
    return access_token in _grants(state, "dead")


def _revoke(state: State, address: str, refresh_token: str) -> None:
    _grants(state, "revoked")[refresh_token] = True
    _grants(state, "dead").update(dict.fromkeys(_grants(state, "issued").pop(address, []), True))


def _grants(state: State, name: str) -> dict[str, Any]:
    memory: dict[str, Any] = state.remembered("google_token").setdefault(name, {})
    return memory
