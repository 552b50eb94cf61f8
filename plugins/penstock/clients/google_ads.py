"""Google Ads API over HTTP: one stream per query, OAuth or a service account, one error table.

https://developers.google.com/google-ads/api/rest/overview
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from penstock.clients.answers import Answer, Fault, classify, rule
from penstock.clients.google_tokens import GoogleTokens, refreshable, service_account
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error, new_session
from penstock.clients.transport import PACE_LIMIT_S, Attempt, Outcome, VendorClient
from penstock.core.errors import ConfigurationError, PenstockError, PermissionDenied, error
from penstock.core.pacing import longest_wait
from penstock.sources.fields import find
from penstock.sources.google_ads import (
    DEVELOPER_LIMITS,
    GOOGLE_ADS_API_VERSION,
    ask_profile,
    customer_id,
    read_profile,
    rows_of,
    search_stream,
)
from penstock.sources.stream import Account, Request

if TYPE_CHECKING:
    import requests

SCOPE = "https://www.googleapis.com/auth/adwords"  # https://developers.google.com/google-ads/api/docs/oauth/internals

LONGEST_RATE_LIMIT_S = 60.0  # a longer wait is a used-up day: the connection is put back instead
RATE_LIMIT_WAIT_S = 30.0  # when the vendor names none
QUOTA_WAIT_S = 3600.0

MOST_MANAGERS = 20  # that are looked through for a customer
CLIENT_QUERY = "SELECT customer_client.id FROM customer_client WHERE customer_client.id = {customer}"

DEVELOPER_TOKEN_FAULTS = (
    "DEVELOPER_TOKEN_INVALID",
    "DEVELOPER_TOKEN_NOT_APPROVED",
    "DEVELOPER_TOKEN_PROHIBITED",
    "DEVELOPER_TOKEN_NOT_ON_ALLOWLIST",
    "DEVELOPER_TOKEN_PARAMETER_MISSING",
    "CLOUD_PROJECT_NOT_APPROVED_FOR_PRODUCTION",
    "CLOUD_PROJECT_NOT_UNDER_ORGANIZATION",
    "CLOUD_PROJECT_NOT_FOUND",
    "PROJECT_DISABLED",
    "ORGANIZATION_NOT_RECOGNIZED",
    "ORGANIZATION_NOT_APPROVED",
    "ORGANIZATION_NOT_ASSOCIATED_WITH_DEVELOPER_TOKEN",
)

# One table for all of the API's errors; the first rule that fits decides. The code is the kind of a GoogleAdsError
# (`quotaError`), the sub-code its name; where the answer carries none, the code is the HTTP status' name.
# https://developers.google.com/google-ads/api/docs/common-errors,
# https://developers.google.com/google-ads/api/reference/rpc/v26/GoogleAdsFailure
RULES = (
    rule("GOOGLE_ADS_VERSION_SUNSET", subcodes=("UNSUPPORTED_VERSION",)),
    rule("GOOGLE_ADS_DEVELOPER_TOKEN", subcodes=DEVELOPER_TOKEN_FAULTS),
    rule(
        "GOOGLE_ADS_CUSTOMER_NOT_ENABLED",
        subcodes=("CUSTOMER_NOT_ENABLED", "CUSTOMER_NOT_FOUND", "ACTION_NOT_PERMITTED_FOR_SUSPENDED_ACCOUNT"),
    ),
    rule("GOOGLE_ADS_MANAGER_ACCOUNT", subcodes=("REQUESTED_METRICS_FOR_MANAGER",)),
    rule("GOOGLE_ADS_INVALID_QUERY", subcodes=("CLIENT_CUSTOMER_ID_INVALID", "INVALID_CUSTOMER_ID")),
    rule("GOOGLE_ADS_PERMISSION_DENIED", subcodes=("NOT_ADS_USER", "ACCESS_PROHIBITED")),
    rule("GOOGLE_ADS_AUTH_ERROR", codes=("authenticationError",)),
    rule("GOOGLE_ADS_PERMISSION_DENIED", codes=("authorizationError",)),
    rule("GOOGLE_ADS_QUOTA_DAY", subcodes=("EXCESSIVE_LONG_TERM_QUERY_RESOURCE_CONSUMPTION",)),
    rule("GOOGLE_ADS_QUOTA_DAY", codes=("quotaError",), beyond=LONGEST_RATE_LIMIT_S),
    rule("GOOGLE_ADS_RATE_LIMIT", codes=("quotaError",)),
    rule("GOOGLE_ADS_PAGE_EXPIRED", subcodes=("EXPIRED_PAGE_TOKEN", "INVALID_PAGE_TOKEN")),
    rule("GOOGLE_ADS_TOO_MUCH_DATA", subcodes=("DEADLINE_EXCEEDED", "RPC_DEADLINE_TOO_SHORT")),
    rule("GOOGLE_ADS_TRANSIENT", codes=("internalError",)),
    rule("GOOGLE_ADS_INVALID_QUERY", codes=("queryError", "requestError", "dateError", "headerError")),
    rule("GOOGLE_ADS_AUTH_ERROR", statuses=(401,)),
    rule("GOOGLE_ADS_PERMISSION_DENIED", statuses=(403,)),
    rule("GOOGLE_ADS_VERSION_SUNSET", statuses=(404,), text=r"requested URL|version"),
    rule("GOOGLE_ADS_QUOTA_DAY", statuses=(429,), beyond=LONGEST_RATE_LIMIT_S),
    rule("GOOGLE_ADS_RATE_LIMIT", statuses=(429,)),
    rule("GOOGLE_ADS_TOO_MUCH_DATA", statuses=(504,)),
    rule("GOOGLE_ADS_TRANSIENT", statuses=(500, 502, 503)),
    rule("GOOGLE_ADS_INVALID_QUERY", statuses=(400, 404)),
)


class GoogleAdsClient(VendorClient):
    """One customer.

    Credentials: `extra["developer_token"]`, optional `extra["login_customer_id"]` (the manager through which access
    flows; looked for when it is missing or wrong); and for the token `extra["refresh_token"]` with `client_id` and
    `client_secret`, or `extra["service_account"]`, or an access token in `token`.
    """

    source = "google_ads"
    attempts: ClassVar[Mapping[str, int]] = {"GOOGLE_ADS_RATE_LIMIT": 4}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        extra = self._credentials.extra
        version = str(extra.get("api_version") or GOOGLE_ADS_API_VERSION)
        self._account_id = customer_id(self._account_id)  # however it was written, it is one bucket
        self._base_url = f"{self._credentials.base_url.rstrip('/')}/{version}"
        self._manager = customer_id(str(extra.get("login_customer_id") or ""))
        self._discovery = threading.Lock()
        self._has_looked = False
        self._developer_token = str(extra.get("developer_token") or "")
        # Operations are counted per developer token, over all of its customers.
        self._developer_key = f"google_ads:developer:{hashlib.sha256(self._developer_token.encode()).hexdigest()[:12]}"
        self._sessions: ThreadLocal[requests.Session] = ThreadLocal(new_session, lambda session: session.close())
        self._tokens = GoogleTokens(
            self._credentials_of_google,
            self._sessions,
            self._redact,
            auth_code="GOOGLE_ADS_AUTH_ERROR",
            transient_code="GOOGLE_ADS_TRANSIENT",
        )

    def send(self, request: Request) -> Any:
        """As every client's; a customer that is refused is tried once more through the manager that has it."""
        manager = self._manager
        try:
            return super().send(request)
        except PermissionDenied as denied:
            if denied.provider_subcode != "USER_PERMISSION_DENIED":
                raise
            with self._discovery:  # another thread may have found it meanwhile
                if self._manager == manager and not self._finds_manager():
                    raise
        return super().send(request)

    def _finds_manager(self) -> bool:
        """Whether one of the accounts that the user may enter is the customer, or a manager above it. Looks once."""
        if self._has_looked:
            return False
        self._has_looked = True
        given, self._manager = self._manager, ""
        is_found = False
        try:
            listed = super().send(Request("GET", "customers:listAccessibleCustomers"))
            names = iter((find(listed, "resourceNames") or ())[:MOST_MANAGERS])
            while not is_found and (name := next(names, None)) is not None:
                self._manager = customer_id(str(name))
                is_found = self._manager == self._account_id or self._is_below()
        finally:
            if not is_found:
                self._manager = given
        return is_found

    def _is_below(self) -> bool:
        """Whether the customer is one of those below the manager that calls go through now."""
        query = CLIENT_QUERY.format(customer=self._account_id)
        request = search_stream(Account("", "", self._manager), query)
        try:
            return bool(rows_of(super().send(request), request).records)
        except (PermissionDenied, ConfigurationError):
            return False

    def check(self) -> str:
        account = Account("", "", self._account_id)
        profile = read_profile(account, [self.send(request) for request in ask_profile(account)])
        if profile.problem:
            raise self._stamp(error(profile.problem, f"customer {self._account_id} ({profile.name}) cannot be read"))
        return f"Google Ads customer {profile.name} ({self._account_id}), {profile.currency}, {profile.time_zone}"

    def close(self) -> None:
        self._sessions.close()

    def _credentials_of_google(self) -> Any:
        extra = self._credentials.extra
        if extra.get("refresh_token"):
            return refreshable(extra, [SCOPE])
        if extra.get("service_account"):
            return service_account(extra["service_account"], [SCOPE])
        if self._credentials.token:
            from google.oauth2.credentials import Credentials as TokenCredentials

            return TokenCredentials(token=self._credentials.token)
        raise error("CREDENTIAL_NOT_FOUND", "no refresh token, service account or access token for Google Ads")

    # -- the wire

    def _take_place(self, request: Request) -> None:
        super()._take_place(request)
        wait = self._limiter.reserve(self._developer_key, DEVELOPER_LIMITS, request.cost)
        if wait > PACE_LIMIT_S:
            raise self._stamp(self._pace_error(request, wait))
        if wait > 0:
            self._sleep(wait)

    def _ready(self) -> None:
        self._sessions.get()

    def _call(self, request: Request) -> Answer:
        answer = self._post(request, self._tokens.bearer())
        if answer.status != 401 or not self._credentials.extra.keys() & {"refresh_token", "service_account"}:
            return answer
        self._tokens.forget()
        with self._lock:
            self._requests += 1
        return self._post(request, self._tokens.bearer())

    def _post(self, request: Request, token: str) -> Answer:
        from requests import RequestException

        try:
            reply = self._sessions.get().request(
                request.method,
                f"{self._base_url}/{request.path}",
                params=dict(request.params),
                json=request.body,
                headers=self._headers(token),
            )
        except (RequestException, BodyTooLarge, BodyTooSlow) as failure:
            broken = network_error(failure, self._redact)
        else:
            headers = {name.lower(): value for name, value in reply.headers.items()}
            return Answer(reply.status_code, headers, reply.content)
        raise broken

    def _headers(self, token: str) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {token}", "developer-token": self._developer_token}
        return {**headers, "login-customer-id": self._manager} if self._manager else headers

    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        fault = read_fault(attempt.request, answer, self._retry_after(answer))
        if fault is None:
            return self._redirect_error(answer)
        failure = error(
            classify(RULES, fault, "GOOGLE_ADS_ERROR"),
            self._redact(fault.message),
            http_status=fault.status,
            provider_code=fault.code or None,
            provider_subcode=fault.subcode or None,
            request_id=fault.request_id,
            retry_after=fault.retry_after,
        )
        self._set_waits(failure)
        return failure

    def _set_waits(self, failure: PenstockError) -> None:
        if failure.code == "GOOGLE_ADS_RATE_LIMIT" and failure.retry_after is None:
            failure.retry_after = RATE_LIMIT_WAIT_S
        elif failure.code == "GOOGLE_ADS_QUOTA_DAY":
            wait = failure.retry_after or QUOTA_WAIT_S
            failure.retry_after, failure.resets_at = wait, self._clock() + dt.timedelta(seconds=wait)

    def _record(self, request: Request, failure: PenstockError | None) -> None:
        """A quota of the developer token is closed for all of its customers."""
        super()._record(request, failure)
        if failure is not None and failure.code == "GOOGLE_ADS_QUOTA_DAY" and "DEVELOPER" in failure.message:
            self._limiter.block(self._developer_key, failure.retry_after or QUOTA_WAIT_S, failure.code)

    def _learn(self, outcome: Outcome) -> None:
        """Good answers say nothing of what is left of a quota."""

    def _pace_error(self, request: Request, wait: float) -> PenstockError:
        """Our own pace never asks for so long: a quota is used up."""
        message = f"{self._key(request)} is closed for {wait:.0f} s"
        return error("GOOGLE_ADS_QUOTA_DAY", message, retry_after=wait, resets_at=self._after(wait))


def read_fault(request: Request, answer: Answer, wait: float | None) -> Fault | None:
    """The error of an answer; None for a good one. A stream may break off inside a good answer, and wraps its
    errors into its array."""
    try:
        body = answer.json()
    except PenstockError:
        body = None
    found = next((batch["error"] for batch in batches(body) if type(batch.get("error")) is dict), None)
    if found is None and answer.status < 400:
        return None
    details: Mapping[str, Any] = found or {}
    failure = failure_of(details)
    kind, name = error_code(find(failure, "errorCode"))
    texts = [find(failure, "message") or details.get("message"), quota_text(failure)]
    return Fault(
        status=int(details.get("code") or answer.status),
        message=" | ".join(str(text) for text in texts if text) or f"HTTP {answer.status}: {answer.excerpt()}",
        code=kind or str(details.get("status") or ""),
        subcode=name,
        request_id=request_id(details) or answer.headers.get("request-id"),
        family=request.limit,
        retry_after=seconds(find(failure, "details", "quotaErrorDetails", "retryDelay")) or wait,
    )


def batches(body: Any) -> Iterator[Mapping[str, Any]]:
    for batch in body if isinstance(body, list) else [body]:
        if isinstance(batch, dict):
            yield batch


def failure_of(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first GoogleAdsError of the GoogleAdsFailure among the error's details."""
    for item in details.get("details") or ():
        errors = find(item, "errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            return errors[0]
    return {}


def request_id(details: Mapping[str, Any]) -> str | None:
    return next((str(item["requestId"]) for item in details.get("details") or () if find(item, "requestId")), None)


def error_code(value: Any) -> tuple[str, str]:
    """`{"quotaError": "RESOURCE_EXHAUSTED"}` as kind and name."""
    return next(((str(kind), str(name)) for kind, name in value.items()), ("", "")) if type(value) is dict else ("", "")


def quota_text(failure: Mapping[str, Any]) -> str:
    quota = find(failure, "details", "quotaErrorDetails")
    return f"{quota.get('rateScope')}: {quota.get('rateName')}" if type(quota) is dict else ""


def seconds(duration: Any) -> float | None:
    """A Duration as JSON writes it, `"3600s"` or `"0.500s"`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(duration))
    return longest_wait(float(match.group(1))) if match else None
