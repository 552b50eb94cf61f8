"""Meta Marketing API over facebook-business: its call, none of its retries, crash reports or object layer.

Every request carries the access token in its query string, so no URL and no exception of the SDK may leave
this module unredacted.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from penstock.clients.answers import Answer, Fault, Usage, classify, rule
from penstock.clients.sessions import BodyTooLarge, BodyTooSlow, ThreadLocal, network_error, new_session
from penstock.clients.transport import Attempt, Outcome, VendorClient
from penstock.core.errors import PenstockError, error
from penstock.core.pacing import longest_wait
from penstock.sources.meta_ads import META_API_VERSION, WRITE_COST
from penstock.sources.stream import Request

if TYPE_CHECKING:
    from facebook_business.api import FacebookAdsApi

# One table for all of Meta's errors; the first rule that fits decides.
# https://developers.facebook.com/docs/marketing-api/error-reference
# https://developers.facebook.com/docs/graph-api/guides/error-handling
RULES = (
    rule("META_APP_SECRET_PROOF_INVALID", text=r"appsecret_proof"),
    rule("META_AUTH_ERROR", codes=(190, 102)),
    rule("META_AUTH_ERROR", statuses=(401,)),
    rule("META_VERSION_DEPRECATED", codes=(2635,)),
    rule("META_VERSION_DEPRECATED", codes=(12,), text=r"version|deprecated"),
    rule("META_ACCOUNT_QUOTA_BLOCK", codes=(17,)),
    rule("META_ACCOUNT_QUOTA_BLOCK", codes=(613,), subcodes=(1487742,)),
    rule("META_TOO_MUCH_DATA", text=r"reduce the amount of data"),
    rule("META_TOO_MUCH_DATA", codes=(100,), subcodes=(1504018,)),
    rule("META_TOO_MUCH_DATA", codes=(2,), subcodes=(1504038,)),
    rule("META_RANGE_TOO_OLD", codes=(3018,)),
    rule("META_RANGE_TOO_OLD", text=r"37 months"),
    rule("META_REPORT_FAILED", codes=(-2,), subcodes=(2490547,)),
    rule("META_INVALID_QUERY", codes=(2,), subcodes=(1504041, 1504042)),
    rule("META_INVALID_QUERY", codes=(100,), subcodes=(2446289,)),
    rule("META_TRANSIENT", codes=(100,), subcodes=(2446211,)),
    rule("META_TRANSIENT", codes=(100,), text=r"cannot include .* in summary param"),
    rule("META_TRANSIENT", codes=(1, 2, 104, 341, 960, 2601)),
    rule("META_RATE_LIMIT", codes=(4, 32, 613, 80000, 80001, 80002, 80003, 80004, 80005, 80006, 80008, 80009, 80014)),
    rule("META_RATE_LIMIT", statuses=(429,)),
    rule("META_ACCOUNT_DISABLED", text=r"\b1487\d{3}\b|account (?:has been|is) disabled"),
    rule("META_BREAKDOWN_RETIRED", codes=(100,), text=r"breakdown.*(?:no longer|removed|deprecated|opt[- ]?in)"),
    rule("META_PERMISSION_DENIED", codes=(100,), subcodes=(33,)),
    rule("META_FIELD_FORBIDDEN", codes=(10, 100, 200), text=r"missing permissions?|permission.*\bfields?\b"),
    rule("META_PERMISSION_DENIED", codes=(3, 10, 294, 803, *range(200, 300))),
    rule("META_INVALID_QUERY", codes=(100, 2500)),
    rule("META_PERMISSION_DENIED", statuses=(403,)),
    rule("META_TRANSIENT", statuses=(500, 502, 503, 504)),
)

# What a sub-code of an expired or refused token means for the person who has to act.
AUTH_SUBCODES = {
    "458": "the app was removed from the account",
    "459": "the user has to pass a checkpoint at facebook.com",
    "460": "the password was changed",
    "463": "the token has expired",
    "464": "the user is not confirmed",
    "467": "the token is invalid",
}

# Usage of the app, of the ad account and of its business, in percent.
# https://developers.facebook.com/docs/graph-api/overview/rate-limiting
USAGE_HEADERS = (
    "x-app-usage",
    "x-ad-account-usage",
    "x-business-use-case-usage",
    "x-fb-ads-insights-throttle",
    "x-fb-ads-insights-reach-throttle",
)
USAGE_PERCENTS = (
    "call_count",
    "total_time",
    "total_cputime",
    "acc_id_util_pct",
    "app_id_util_pct",
)
SLOW_DOWN_PERCENT = 75.0
STOP_PERCENT = 95.0
SLOWEST_PAUSE_S = 10.0  # between calls just below the stop
STOP_S = 300.0  # when the headers do not say for how long; an account's score decays within this time

RATE_LIMIT_WAIT_S = 60.0  # doubled with every try
QUOTA_BLOCK_S = 600.0
LONGEST_QUOTA_BLOCK_S = 3600.0

FRESH_REPORT_S = 60.0  # so long a new report may be unknown to the vendor's other servers

REPORT_FIELDS = (
    "async_status,async_percent_completion,error_code,error_subcode,error_message,error_user_title,error_user_msg"
)
PAGING = ("limit", "after")


class ReportState(StrEnum):
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class ReportStatus:
    """How far a report at the vendor is; `error` says why it failed."""

    state: ReportState
    percent: int = 0
    error: PenstockError | None = None


class MetaClient(VendorClient):
    """One ad account of the Marketing API."""

    source = "meta_ads"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._account_id = self._account_id.removeprefix("act_")  # however it was written, it is one bucket
        self._version = str(self._credentials.extra.get("api_version") or META_API_VERSION)
        self._apis: ThreadLocal[FacebookAdsApi] = ThreadLocal(self._connect, disconnect)
        self._submitted: dict[str, dt.datetime] = {}
        self._reports_lock = threading.Lock()

    def check(self) -> str:
        number = self._account_id.removeprefix("act_")
        body = self.send(Request("GET", f"act_{number}", {"fields": "account_id,name,currency,timezone_name"}))
        return f"Meta ad account {body.get('name')} ({number}), {body.get('currency')}, {body.get('timezone_name')}"

    def close(self) -> None:
        self._apis.close()

    # -- reports that the vendor prepares

    def submit_report(self, request: Request) -> str:
        """Start the report that answers an insights request; the id outlives this client."""
        params = {key: value for key, value in request.params.items() if key not in PAGING}
        body = self.send(Request("POST", request.path, params, limit=request.limit, cost=WRITE_COST))
        remote_id = body.get("report_run_id") if isinstance(body, dict) else None
        if not remote_id:
            raise error("META_REPORT_FAILED", "Meta accepted the report but gave it no id")
        with self._reports_lock:
            self._submitted[str(remote_id)] = self._clock()
        return str(remote_id)

    def poll_report(self, remote_id: str) -> ReportStatus:
        """How far a report is. Raises only what polling again later will not mend."""
        try:
            body = self.send(Request("GET", remote_id, {"fields": REPORT_FIELDS}))
        except PenstockError as failure:
            if not is_unknown_object(failure):
                raise
            if self._is_fresh(remote_id):
                return ReportStatus(ReportState.RUNNING)
            gone = error("META_REPORT_FAILED", f"Meta does not know report {remote_id} any more")
        else:
            return report_status(body, self._redact)
        return ReportStatus(ReportState.FAILED, 0, gone)

    def _is_fresh(self, remote_id: str) -> bool:
        with self._reports_lock:
            submitted_at = self._submitted.get(remote_id)
        return submitted_at is not None and (self._clock() - submitted_at).total_seconds() < FRESH_REPORT_S

    # -- the wire

    def _connect(self) -> FacebookAdsApi:
        from facebook_business.api import FacebookAdsApi
        from facebook_business.session import FacebookSession

        session = FacebookSession(
            app_secret=self._credentials.secret or None,
            access_token=self._credentials.token,
        )
        session.GRAPH = self._credentials.base_url.rstrip("/")
        bounded = new_session()
        bounded.params = session.requests.params
        session.requests.close()
        session.requests = bounded
        # Not FacebookAdsApi.init: that would set a default API for the process and start the crash reporter.
        return FacebookAdsApi(session, api_version=self._version)

    def _ready(self) -> None:
        self._apis.get()

    def _call(self, request: Request) -> Answer:
        outcome = self._exchange_graph(request)
        if isinstance(outcome, PenstockError):
            raise outcome
        return outcome

    def _exchange_graph(self, request: Request) -> Answer | PenstockError:
        """The answer, or the error of getting none; returned, because a raised one would chain the URL."""
        from facebook_business.exceptions import FacebookRequestError
        from requests import RequestException

        api = self._apis.get()
        path = tuple(part for part in request.path.split("/") if part)
        try:
            reply = api.call(request.method, path, params=dict(request.params))
        except FacebookRequestError as refused:
            return Answer(refused.http_status(), lower(refused.http_headers()), body_bytes(refused.body()))
        except (RequestException, BodyTooLarge, BodyTooSlow) as failure:
            return network_error(failure, self._redact)
        except TypeError:
            # The SDK looks for a key in bodies that are no objects.
            return error("RESPONSE_NOT_JSON", "Meta's answer is no JSON object")
        return Answer(reply.status(), lower(reply.headers()), reply.body().encode())

    def _error(self, attempt: Attempt, answer: Answer) -> PenstockError | None:
        fault = read_fault(attempt.request, answer, self._retry_after(answer))
        if fault is None:
            return self._redirect_error(answer)
        code = classify(RULES, fault)
        message = self._redact(fault.message)
        if code == "META_AUTH_ERROR" and fault.subcode in AUTH_SUBCODES:
            message = f"{AUTH_SUBCODES[fault.subcode]}: {message}"
        failure = error(
            code,
            message,
            http_status=fault.status,
            provider_code=fault.code or None,
            provider_subcode=fault.subcode or None,
            request_id=fault.request_id,
            retry_after=fault.retry_after,
        )
        self._set_waits(failure, fault, answer, attempt.number)
        return failure

    def _set_waits(self, failure: PenstockError, fault: Fault, answer: Answer, number: int) -> None:
        regain = usage_of(answer.headers).regain_seconds
        if failure.code == "META_ACCOUNT_QUOTA_BLOCK":
            wait = min(regain or fault.retry_after or QUOTA_BLOCK_S, LONGEST_QUOTA_BLOCK_S)
            failure.retry_after = wait
            failure.resets_at = self._clock() + dt.timedelta(seconds=wait)
        elif failure.code == "META_RATE_LIMIT" and fault.retry_after is None and fault.code:
            failure.retry_after = max(regain or 0.0, RATE_LIMIT_WAIT_S * 2.0 ** (number - 1))

    def _learn(self, outcome: Outcome) -> None:
        """Slow down from 75 % of the vendor's limit, stop at 95 % for as long as it asks."""
        usage = usage_of(outcome.answer.headers)
        if usage.percent < SLOW_DOWN_PERCENT:
            return
        key = self._key(outcome.request)
        self._limiter.observe(key, usage.percent)
        if usage.percent >= STOP_PERCENT:
            pause = usage.regain_seconds or STOP_S
        else:
            pause = SLOWEST_PAUSE_S * (usage.percent - SLOW_DOWN_PERCENT) / (STOP_PERCENT - SLOW_DOWN_PERCENT)
        if pause > 0:
            self._limiter.block(key, pause, f"{usage.percent:g} % of the vendor's limit is used")


def disconnect(api: FacebookAdsApi) -> None:
    api._session.requests.close()


def lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (headers or {}).items()}


def body_bytes(body: Any) -> bytes:
    """The SDK keeps a failed call's body as text, or parsed where it is JSON."""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def read_fault(request: Request, answer: Answer, wait: float | None) -> Fault | None:
    """The error object of an answer; None for a good one. A status of 200 may carry one."""
    try:
        body = answer.json()
    except PenstockError:
        body = None
    found = body.get("error") if isinstance(body, dict) else None
    if found is None and answer.status < 400:
        return None
    details = found if isinstance(found, dict) else {}
    texts = (details.get("message"), details.get("error_user_title"), details.get("error_user_msg"))
    return Fault(
        status=answer.status,
        message=" | ".join(str(text) for text in texts if text) or f"HTTP {answer.status}: {answer.excerpt()}",
        code=str(details.get("code", "")),
        subcode=str(details.get("error_subcode", "")),
        request_id=details.get("fbtrace_id") or answer.headers.get("x-fb-trace-id"),
        family=request.limit,
        retry_after=wait,
    )


def usage_of(headers: Mapping[str, str]) -> Usage:
    """The fullest of all limits that the usage headers name."""
    usage = Usage()
    for name in USAGE_HEADERS:
        for entry in usage_entries(headers.get(name)):
            percents = [number(entry.get(key)) for key in USAGE_PERCENTS]
            usage.percent = max(usage.percent, *percents)
            minutes = number(entry.get("estimated_time_to_regain_access"))
            seconds = max(minutes * 60.0, number(entry.get("reset_time_duration")) if max(percents) >= 100 else 0.0)
            if seconds > 0:
                usage.regain_seconds = max(usage.regain_seconds or 0.0, longest_wait(seconds))
    return usage


def usage_entries(header: str | None) -> Iterator[Mapping[str, Any]]:
    """The objects of a usage header; the business one lists them per business id."""
    if header is None:
        return
    try:
        value = json.loads(header)
    except ValueError:
        return
    if not isinstance(value, dict):
        return
    nested: Iterable[Any] = [entry for entries in value.values() if isinstance(entries, list) for entry in entries]
    yield from (entry for entry in nested if isinstance(entry, dict))
    yield value


def number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def is_unknown_object(failure: PenstockError) -> bool:
    return failure.provider_code == "100" and failure.provider_subcode == "33"


def report_status(body: Any, redact: Any) -> ReportStatus:
    """Completed means the status and 100 %; one of them alone is a report still running."""
    status = str(body.get("async_status") or "") if isinstance(body, dict) else ""
    percent = int(number(body.get("async_percent_completion"))) if isinstance(body, dict) else 0
    if status in ("Job Failed", "Job Skipped"):
        return ReportStatus(ReportState.FAILED, percent, report_error(status, body, redact))
    if status == "Job Completed" and percent == 100:
        return ReportStatus(ReportState.COMPLETED, percent)
    return ReportStatus(ReportState.RUNNING, percent)


def report_error(status: str, body: Mapping[str, Any], redact: Any) -> PenstockError:
    """Why a report failed: since v25 the vendor says so in fields of the report."""
    texts = [body.get(key) for key in ("error_message", "error_user_title", "error_user_msg")]
    message = redact(" | ".join(str(text) for text in (status, *texts) if text))
    code, subcode = body.get("error_code"), body.get("error_subcode")
    fault = Fault(200, message, str(code or ""), str(subcode or ""))
    found = classify(RULES, fault, "META_REPORT_FAILED")
    return error(
        "META_TOO_MUCH_DATA" if found == "META_TOO_MUCH_DATA" else "META_REPORT_FAILED",
        message,
        provider_code=str(code) if code else None,
        provider_subcode=str(subcode) if subcode else None,
    )
