"""Who may read Nivoda: one user with a password, and JSON Web Tokens that run out.

A token carries its own facts and a MAC (https://www.rfc-editor.org/rfc/rfc7519, HS256); nothing is stored but the time
before which tokens were revoked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any

from sandbox.nivoda_market import Market
from sandbox.shops import digest
from sandbox.state import State

EXPIRED, INVALID, MISSING = "jwt expired", "invalid token", "authentication required"


class TokenError(Exception):
    """A token that is refused; the text is the vendor's."""


def username(state: State) -> str:
    """The one user."""
    return f"reader@sandbox-{state.seed}.example.com"


def password(state: State) -> str:
    """The user's password."""
    return f"nivoda-{digest(state.seed, 'nivoda password'):016x}"


def refresh_token(state: State) -> str:
    """What a session may be renewed with."""
    return f"refresh-{digest(state.seed, 'nivoda refresh token'):016x}"


def session(market: Market) -> dict[str, Any]:
    """A new session of the user, as a login is answered."""
    state = market.state
    issued = state.clock.real()
    expires = issued + market.switches.token_seconds
    facts = {"id": "USER1", "email": username(state), "iat": issued, "exp": expires}
    body = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(facts)}"
    memory = state.remembered("nivoda")
    memory["logins"] = memory.get("logins", 0) + 1
    return {
        "token": f"{body}.{_mac(state, body)}",
        "expires": expires * 1000,
        "refresh_token": refresh_token(state),
        "user": {
            "id": "USER1",
            "firstName": "Sandbox",
            "lastName": "Reader",
            "email": username(state),
            "country": "US",
            "company": {"id": "COMPANY1", "name": "Sandbox Jewels", "legal_name": None, "company_image": None},
        },
    }


def verify(market: Market, token: str | None) -> None:
    """Raises TokenError for a token that is none, forged, revoked or over."""
    if not token:
        raise TokenError(MISSING)
    state = market.state
    body, _, mac = token.rpartition(".")
    if not hmac.compare_digest(mac, _mac(state, body)):
        raise TokenError(INVALID)
    facts = _decode(body.partition(".")[2])
    if market.switches.refuses_tokens or facts["iat"] <= state.remembered("nivoda").get("revoked", 0):
        raise TokenError(INVALID)
    if facts["exp"] <= state.clock.real():
        raise TokenError(EXPIRED)


def revoke(state: State) -> None:
    """Let no token that was issued so far be good any more."""
    state.remembered("nivoda")["revoked"] = state.clock.real()


def _mac(state: State, body: str) -> str:
    secret = digest(state.seed, "nivoda token secret").to_bytes(8, "big")
    return base64.urlsafe_b64encode(hmac.new(secret, body.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()


def _encode(facts: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(facts).encode()).rstrip(b"=").decode()


def _decode(text: str) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error) as broken:
        raise TokenError(INVALID) from broken
    return facts
