"""Keeps tokens out of messages: the ones we know, and whatever looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST_SECRET = 4  # masking shorter ones would garble the message

PATTERNS = (
    re.compile(r"(?i)((?:access_token|appsecret_proof|client_secret|assertion|refresh_token|api_key)=)[^&\s\"'<>]+"),
    re.compile(r"(?i)(\"(?:access_token|appsecret_proof|client_secret|private_key|refresh_token)\"\s*:\s*\")[^\"]+"),
    re.compile(r"(?i)((?:Klaviyo-API-Key|Bearer|OAuth)\s+)[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"()\b(?:pk_|EAA|xox[a-z]-|xapp-|ya29\.|1//)[A-Za-z0-9._-]{6,}"),
    re.compile(r"()\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),  # a JSON Web Token
)


class Redactor:
    """Replaces secrets in texts. Instances are immutable, so threads may share one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {secret for secret in secrets if len(secret) >= SHORTEST_SECRET}
        forms = {
            form for secret in known for form in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret))
        }
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        for pattern in PATTERNS:
            text = pattern.sub(rf"\1{MASK}", text)
        return text
