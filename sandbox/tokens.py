"""Google's side of OAuth: the service account's key, access tokens and refresh tokens.

Key and tokens depend on the seed alone, so that what a stack has stored stays good when the sandbox starts again.
Assertions: https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import json
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sandbox.clock import Clock
from sandbox.shops import digest, draw

LIFETIME = 3600
"""Seconds an access token lives."""

CALENDAR_SCOPE = "https://www.googleapis.com/auth/calendar.events"

MAX_ASSERTION_LIFETIME = 3600
"""Longest `exp - iat` of an assertion, and how far the clocks may be apart is `CLOCK_SKEW`."""

CLOCK_SKEW = 300
KEY_BITS = 2048
PUBLIC_EXPONENT = 65537
_SMALL_PRIMES = tuple(n for n in range(3, 2000) if all(n % d for d in range(2, int(n**0.5) + 1)))


class GrantError(Exception):
    """A grant that is refused: `code` and `description` are those of the answer."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


@dataclass(frozen=True, slots=True)
class Token:
    """An access token that is good: whose it is, for what, and until when (seconds since 1970)."""

    subject: str
    scopes: frozenset[str]
    expires_at: int


class Tokens:
    """Issues and checks tokens. An access token carries its own facts and a MAC; nothing is stored."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self._seed = seed
        self._clock = clock
        self._secret = digest(seed, "token secret").to_bytes(8, "big")
        self.client_email = f"reader@sandbox-{seed}.iam.gserviceaccount.com"
        self.client_id = f"{digest(seed, 'client id')}.apps.googleusercontent.com"
        self.client_secret = f"GOCSPX-{digest(seed, 'client secret'):016x}"
        self.refresh_token = f"1//0sandbox{digest(seed, 'refresh token'):016x}"
        self.key_id = f"{digest(seed, 'key id'):016x}"

    @functools.cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        rng = draw(self._seed, "service account key")
        while True:
            p, q = _prime(rng, KEY_BITS // 2), _prime(rng, KEY_BITS // 2)
            if p != q and (p * q).bit_length() == KEY_BITS:
                break
        d = pow(PUBLIC_EXPONENT, -1, (p - 1) * (q - 1))
        public = rsa.RSAPublicNumbers(PUBLIC_EXPONENT, p * q)
        numbers = rsa.RSAPrivateNumbers(
            p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
        )
        return numbers.private_key()

    def service_account(self, token_uri: str) -> dict[str, str]:
        """The service account's JSON file, as Google's console hands it out."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": f"sandbox-{self._seed}",
            "private_key_id": self.key_id,
            "private_key": pem.decode(),
            "client_email": self.client_email,
            "client_id": str(digest(self._seed, "unique id")),
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }

    def issue(self, subject: str, scopes: frozenset[str], lifetime: int = LIFETIME) -> str:
        """A new access token for `subject`."""
        facts = {"sub": subject, "scope": " ".join(sorted(scopes)), "exp": self._now() + lifetime}
        facts["jti"] = secrets.token_hex(8)  # a token that was revoked is not issued again in the same second
        payload = _encode(json.dumps(facts, sort_keys=True).encode())
        return f"ya29.{payload}.{self._mac(payload)}"

    def valid(self, token: str) -> Token | None:
        """The token's facts; None when it is forged, damaged or over."""
        prefix, _, rest = token.partition(".")
        payload, _, mac = rest.partition(".")
        if prefix != "ya29" or not hmac.compare_digest(mac, self._mac(payload)):
            return None
        facts = json.loads(_decode(payload))
        if facts["exp"] <= self._now():
            return None
        return Token(facts["sub"], frozenset(facts["scope"].split()), facts["exp"])

    def from_assertion(self, assertion: str) -> Token:
        """What a signed JWT of the service account entitles to. Raises GrantError."""
        claims = self._claims(assertion)
        now = self._now()
        issued, expires = claims.get("iat"), claims.get("exp")
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            raise GrantError("invalid_grant", "Invalid JWT: Token must have 'iat' and 'exp'.")
        if expires <= now - CLOCK_SKEW or issued > now + CLOCK_SKEW or expires - issued > MAX_ASSERTION_LIFETIME:
            raise GrantError(
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim.",
            )
        scope = claims.get("scope")
        if not isinstance(scope, str) or not scope.strip():
            raise GrantError("invalid_scope", "Empty or missing scope not allowed.")
        return Token(self.client_email, frozenset(scope.split()), now + LIFETIME)

    def from_jwt(self, text: str) -> Token | None:
        """What the service account's own JWT entitles to when it is sent in place of an access token, as Google's
        client libraries do (https://google.aip.dev/auth/4111): it names scopes, or an API by its audience. None: it
        is no good.
        """
        try:
            claims = self._claims(text)
        except GrantError:
            return None
        expires, now = claims.get("exp"), self._now()
        if not isinstance(expires, int) or not now < expires <= now + MAX_ASSERTION_LIFETIME + CLOCK_SKEW:
            return None
        return Token(self.client_email, frozenset(str(claims.get("scope", claims.get("aud", ""))).split()), expires)

    def from_refresh_token(self, form: Mapping[str, str]) -> Token:
        """What a refresh token entitles to. Raises GrantError."""
        if form.get("client_id") != self.client_id or form.get("client_secret") != self.client_secret:
            raise GrantError("invalid_client", "The OAuth client was not found.")
        user = self._user_of(form.get("refresh_token", ""))
        if user is not None:
            scopes = form.get("scope") or CALENDAR_SCOPE
            return Token(user, frozenset(scopes.split()), self._now() + LIFETIME)
        if form.get("refresh_token") != self.refresh_token:
            raise GrantError("invalid_grant", "Token has been expired or revoked.")
        scopes = form.get("scope") or "https://www.googleapis.com/auth/analytics.readonly"
        return Token("owner@example.com", frozenset(scopes.split()), self._now() + LIFETIME)

    def refresh_token_of(self, address: str, grant: int = 0) -> str:
        """The refresh token of a user's grant; a user who connects again gets another one."""
        payload = _encode(f"{address} {grant}".encode())
        return f"1//0{payload}-{self._mac(payload)[:16]}"

    def _user_of(self, refresh_token: str) -> str | None:
        payload, mac = refresh_token[4:-17], refresh_token[-16:]
        if not payload or not hmac.compare_digest(mac.encode(), self._mac(payload)[:16].encode()):
            return None
        return _decode(payload).decode().rpartition(" ")[0]

    def _claims(self, assertion: str) -> dict[str, Any]:
        head, _, signature = assertion.rpartition(".")
        try:
            claims = json.loads(_decode(head.partition(".")[2]))
            self._key.public_key().verify(_decode(signature), head.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise GrantError("invalid_grant", "Invalid JWT Signature.") from error
        except (ValueError, binascii.Error) as error:
            raise GrantError("invalid_request", "Invalid JWT: Failed audience or format check.") from error
        if not isinstance(claims, dict) or claims.get("iss") != self.client_email:
            raise GrantError("invalid_grant", "Invalid grant: account not found")
        return claims

    def _mac(self, payload: str) -> str:
        return _encode(hmac.new(self._secret, payload.encode(), hashlib.sha256).digest())

    def _now(self) -> int:
        # Google's own clock, not the shifted one of the data: a client signs with the machine's time.
        return int(self._clock.real())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _prime(rng: random.Random, bits: int) -> int:
    """A probable prime of that length, whose top two bits are set so that a product of two has full length."""
    while True:
        candidate = rng.getrandbits(bits) | (3 << (bits - 2)) | 1
        if all(candidate % prime for prime in _SMALL_PRIMES) and _is_probable_prime(candidate, rng):
            return candidate


def _is_probable_prime(candidate: int, rng: random.Random, rounds: int = 20) -> bool:
    """Miller and Rabin's test."""
    odd, twos = candidate - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(rounds):
        x = pow(rng.randrange(2, candidate - 1), odd, candidate)
        if x in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % candidate
            if x == candidate - 1:
                break
        else:
            return False
    return True
