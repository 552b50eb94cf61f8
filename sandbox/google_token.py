"""Google's token endpoint: https://developers.google.com/identity/protocols/oauth2/service-account"""

from __future__ import annotations

from collections.abc import Mapping
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
    """POST /token, to be mounted under /google."""
    return [vendor_route(state, Google(), "/token", "token", issue, methods=("POST",))]


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
    return json_response(
        {
            "access_token": call.state.tokens.issue(token.subject, token.scopes),
            "expires_in": LIFETIME - 1,
            "scope": " ".join(sorted(token.scopes)),
            "token_type": "Bearer",
        },
        headers={"cache-control": "no-cache, no-store, max-age=0, must-revalidate"},
    )


def _grant(state: State, form: Mapping[str, str]) -> Token:
    match form.get("grant_type"):
        case "refresh_token":
            return state.tokens.from_refresh_token(form)
        case grant if grant == JWT_BEARER:
            return state.tokens.from_assertion(form.get("assertion", ""))
        case None | "":
            raise GrantError("invalid_request", "Required parameter is missing: grant_type")
        case other:
            raise GrantError("unsupported_grant_type", f"Invalid grant_type: {other}")
