"""Google Analytics Data API over HTTP, with credentials of google-auth."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.clients.answers import Answer, Fault, classify, rule
from penstock.clients.google_tokens import GoogleTokens, service_account
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error, new_session
from penstock.clients.transport import Attempt, Outcome, VendorClient
from penstock.core.errors import PenstockError, error
from penstock.core.pacing import PACIFIC, next_full_hour, next_midnight
from penstock.sources.fields import find
from penstock.sources.ga4 import GA4_API_VERSION, property_id
from penstock.sources.stream import Request

if TYPE_CHECKING:
    import requests

SCOPE = "https://www.googleapis.com/auth/analytics.readonly"

CONCURRENCY_WAIT_S = 30.0
HOUR_S = 3600.0

# One table for all of the Data API's errors; the first rule that fits decides. The sub-code is the reason.
# https://developers.google.com/analytics/devguides/reporting/data/v1/errors
RULES = (
    rule("GA4_AUTH_ERROR", statuses=(401,)),
    rule("GA4_API_DISABLED", statuses=(403,), subcodes=("SERVICE_DISABLED", "accessNotConfigured")),
    rule("GA4_API_DISABLED", statuses=(403,), text=r"has not been used in project|it is disabled"),
    rule("GA4_PERMISSION_DENIED", statuses=(403,)),
    rule("GA4_PROPERTY_NOT_FOUND", statuses=(404,)),
    rule("GA4_PROPERTY_NOT_FOUND", statuses=(400,), text=r"not a valid property|numeric property id"),
    rule("GA4_CONCURRENCY_LIMIT", statuses=(429,), text=r"concurrent"),
    rule("GA4_SERVER_ERROR_BUDGET", statuses=(429,), text=r"server errors?"),
    rule("GA4_QUOTA_DAY", statuses=(429,), text=r"per day|\bday\b|daily"),
    rule("GA4_QUOTA_HOUR", statuses=(429,), text=r"hour|thresholded|tokens|for a project"),
    rule("GA4_CONCURRENCY_LIMIT", statuses=(429,)),
    rule("GA4_INVALID_QUERY", statuses=(400,)),
    rule("GA4_TRANSIENT", statuses=(500, 502, 503, 504)),
)

# Quotas of a standard property; one with a tenth of them left is left alone until they are whole again. What
# remains of a property's quotas is in every answer, how large they are is not.
# https://developers.google.com/analytics/devguides/reporting/data/v1/quotas
QUOTAS = {
    "tokensPerDay": (200_000, "GA4_QUOTA_DAY"),
    "tokensPerHour": (40_000, "GA4_QUOTA_HOUR"),
    "tokensPerProjectPerHour": (14_000, "GA4_QUOTA_HOUR"),
    "potentiallyThresholdedRequestsPerHour": (120, "GA4_QUOTA_HOUR"),
    "serverErrorsPerProjectPerHour": (10, "GA4_SERVER_ERROR_BUDGET"),
}
RESERVE = 0.1


class GA4Client(VendorClient):
    """One Google Analytics 4 property.

    Credentials: a service account's JSON in `extra["service_account"]` (object or text; its `token_uri` is
    honoured), any google-auth credentials in `extra["google_credentials"]`, or an access token in `token`.
    """

    source = "ga4"
    # Ten server errors an hour close the property.
    attempts: ClassVar[Mapping[str, int]] = {"GA4_TRANSIENT": 2, "GA4_CONCURRENCY_LIMIT": 3}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._base_url = f"{self._credentials.base_url.rstrip('/')}/{GA4_API_VERSION}"
        self._sessions: ThreadLocal[requests.Session] = ThreadLocal(new_session, lambda session: session.close())
        self._tokens = GoogleTokens(
            self._credentials_of_google,
            self._sessions,
            self._redact,
            auth_code="GA4_AUTH_ERROR",
            transient_code="GA4_TRANSIENT",
        )
        self._quota_stop: PenstockError | None = None

    def check(self) -> str:
        body = {
            "dateRanges": [{"startDate": "yesterday", "endDate": "yesterday"}],
            "metrics": [{"name": "sessions"}],
            "limit": "1",
            "returnPropertyQuota": True,
        }
        number = property_id(self._account_id)
        answer = self.send(Request("POST", f"properties/{number}:runReport", body=body))
        zone, currency = find(answer, "metadata", "timeZone"), find(answer, "metadata", "currencyCode")
        left = find(answer, "propertyQuota", "tokensPerDay", "remaining")
        return f"GA4 property {number}, {currency}, {zone}; {left} tokens left today"

    def close(self) -> None:
        self._sessions.close()

    def _credentials_of_google(self) -> Any:
        extra = self._credentials.extra
        given = extra.get("google_credentials")
        if given is not None:
            return with_scope(given)
        if extra.get("service_account"):
            return service_account(extra["service_account"], [SCOPE])
        if self._credentials.token:
            from google.oauth2.credentials import Credentials as TokenCredentials

            return TokenCredentials(token=self._credentials.token)
        raise error("CREDENTIAL_NOT_FOUND", "no service-account JSON and no access token for GA4")

    # -- the wire

    def _send(self, request: Request) -> Any:
        stop = self._held_stop()
        if stop is not None:
            raise stop
        return super()._send(request)

    def _held_stop(self) -> PenstockError | None:
        """The error of a quota that is known to be used up still."""
        stop = self._quota_stop
        if stop is None or stop.resets_at is None or self._clock() >= stop.resets_at:
            return None
        return self._stamp(error(stop.code, stop.message, resets_at=stop.resets_at))

    def _ready(self) -> None:
        self._sessions.get()

    def _call(self, request: Request) -> Answer:
        answer = self._post(request, self._tokens.bearer())
        if answer.status != 401 or not self._can_refresh():
            return answer
        self._tokens.forget()
        with self._lock:
            self._requests += 1
        return self._post(request, self._tokens.bearer())

    def _can_refresh(self) -> bool:
        return bool(self._credentials.extra)

    def _post(self, request: Request, token: str) -> Answer:
        from requests import RequestException

        try:
            reply = self._sessions.get().request(
                request.method,
                f"{self._base_url}/{request.path}",
                params=dict(request.params),
                json=request.body,
                headers={"Authorization": f"Bearer {token}"},
            )
        except (RequestException, BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        else:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Answer(reply.status_code, headers, reply.content)
        raise broken

    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        if answer.status < 300:
            return None
        if answer.status < 400:
            return self._redirect_error(answer)
        fault = read_fault(attempt.request, answer, self._retry_after(answer))
        failure = error(
            classify(RULES, fault, "GA4_ERROR"),
            self._redact(fault.message),
            http_status=fault.status,
            provider_code=fault.code or None,
            provider_subcode=fault.subcode or None,
            request_id=fault.request_id,
            retry_after=fault.retry_after,
        )
        self._set_waits(failure, fault)
        return failure

    def _set_waits(self, failure: PenstockError, fault: Fault) -> None:
        if failure.code in ("GA4_QUOTA_DAY", "GA4_QUOTA_HOUR", "GA4_SERVER_ERROR_BUDGET"):
            failure.resets_at = self._reset_of(failure.code)
            self._quota_stop = failure
        elif failure.code == "GA4_CONCURRENCY_LIMIT" and fault.retry_after is None and "concurrent" in fault.message:
            failure.retry_after = CONCURRENCY_WAIT_S

    def _reset_of(self, code: str) -> dt.datetime:
        """A day's quota is whole at midnight Pacific time, an hour's at the full hour."""
        now = self._clock()
        return next_midnight(now, PACIFIC) if code == "GA4_QUOTA_DAY" else next_full_hour(now)

    def _learn(self, outcome: Outcome) -> None:
        """Close the property for everybody while a tenth of a quota is still left.

        This answer is good and is used; the next call raises.
        """
        for quota in quotas_of(outcome.body):
            for name, (size, code) in QUOTAS.items():
                remaining = find(quota, name, "remaining")
                if type(remaining) is int and remaining < size * RESERVE:
                    self._stop(outcome.request, code, f"{name}: {remaining} left")

    def _stop(self, request: Request, code: str, message: str) -> None:
        resets_at = self._reset_of(code)
        held = self._quota_stop
        if held is None or held.resets_at is None or held.resets_at < resets_at:
            self._quota_stop = self._stamp(error(code, message, resets_at=resets_at))
        self._limiter.block(self._key(request), (resets_at - self._clock()).total_seconds(), f"{code}: {message}")

    def _pace_error(self, request: Request, wait: float) -> PenstockError:
        """Our own pace never asks for so long: somebody has closed the property."""
        code = "GA4_QUOTA_DAY" if wait > HOUR_S else "GA4_QUOTA_HOUR"
        message = f"{self._key(request)} is closed for {wait:.0f} s"
        return self._held_stop() or error(code, message, resets_at=self._after(wait), retry_after=wait)


def with_scope(credentials: Any) -> Any:
    """Credentials that can be limited to reading Analytics are."""
    if getattr(credentials, "requires_scopes", False):
        return credentials.with_scopes([SCOPE])
    return credentials


def quotas_of(body: Any) -> Iterator[Mapping[str, Any]]:
    """The quota of a report, or those of a batch's reports."""
    for report in (body, *(find(body, "reports") or ())):
        quota = find(report, "propertyQuota")
        if type(quota) is dict:
            yield quota


def read_fault(request: Request, answer: Answer, wait: float | None) -> Fault:
    try:
        body = answer.json()
    except PenstockError:
        body = None
    found = find(body, "error")
    details: Mapping[str, Any] = found if type(found) is dict else {}
    return Fault(
        status=answer.status,
        message=str(details.get("message") or f"HTTP {answer.status}: {answer.excerpt()}"),
        code=str(details.get("status") or ""),
        subcode=reason_of(details),
        request_id=answer.headers.get("x-request-id") or answer.headers.get("request-id"),
        family=request.limit,
        retry_after=wait,
    )


def reason_of(details: Mapping[str, Any]) -> str:
    """The machine-readable reason, in Google's new place or its old one."""
    for key in ("details", "errors"):
        for item in details.get(key) or ():
            if type(item) is dict and item.get("reason"):
                return str(item["reason"])
    return ""
