"""Graph API errors as the vendor words them.

Codes and sub-codes: https://developers.facebook.com/docs/marketing-api/error-reference and
https://developers.facebook.com/docs/graph-api/guides/error-handling
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

NEWEST_VERSION = "v26.0"
LIVE_VERSIONS = ("v25.0", "v26.0")
"""https://developers.facebook.com/docs/marketing-api/versions : v24.0 and older are over for the Marketing API."""

_RATE_LIMIT_PAGE = "https://developers.facebook.com/docs/graph-api/overview/rate-limiting"
_FIELDS_PAGE = "https://developers.facebook.com/docs/marketing-api/reference/ads-insights/"


@dataclass(eq=False)
class GraphError(Exception):
    """One refusal: what the body's `error` object holds, and the HTTP status it comes with.

    reason: the word of the `WWW-Authenticate` header (`invalid_token`, `invalid_request`, ...).
    """

    status: int
    code: int
    message: str
    subcode: int | None = None
    kind: str = "OAuthException"
    is_transient: bool = False
    user_title: str | None = None
    user_message: str | None = None
    reason: str = "invalid_request"

    def body(self, trace_id: str) -> dict[str, Any]:
        """The JSON body; keys without a value are left out, as Graph does."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind, "code": self.code}
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.subcode is not None or self.is_transient:
            error["is_transient"] = self.is_transient
        if self.user_title is not None:
            error["error_user_title"] = self.user_title
        if self.user_message is not None:
            error["error_user_msg"] = self.user_message
        error["fbtrace_id"] = trace_id
        return {"error": error}

    def challenge(self) -> str:
        """The `WWW-Authenticate` header that Graph sends with every refusal."""
        return f'OAuth "Facebook Platform" "{self.reason}" "{self.message}"'


def trace_id(*parts: object) -> str:
    """An `fbtrace_id` of the usual form, always the same for the same parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
    return "A" + digest[:22]


# Authentication


def no_token(path: str) -> GraphError:
    if path.split("/")[0] == "me":
        message = "An active access token must be used to query information about the current user."
        return GraphError(400, 2500, message)
    return GraphError(400, 104, "An access token is required to request this resource.")


def malformed_token() -> GraphError:
    return GraphError(400, 190, "Invalid OAuth access token - Cannot parse access token", reason="invalid_token")


def expired_token(now: dt.datetime) -> GraphError:
    over = now - dt.timedelta(hours=1)
    message = (
        f"Error validating access token: Session has expired on {_spoken(over)}. The current time is {_spoken(now)}."
    )
    return GraphError(401, 190, message, subcode=463, reason="invalid_token")


def revoked_token() -> GraphError:
    message = "Error validating access token: The user has not authorized application."
    return GraphError(401, 190, message, subcode=458, reason="invalid_token")


def password_changed() -> GraphError:
    message = (
        "Error validating access token: The session has been invalidated because the user changed their password "
        "or Facebook has changed the session for security reasons."
    )
    return GraphError(401, 190, message, subcode=460, reason="invalid_token")


def missing_proof() -> GraphError:
    return GraphError(
        400, 100, "API calls from the server require an appsecret_proof argument", kind="GraphMethodException"
    )


def invalid_proof() -> GraphError:
    return GraphError(400, 100, "Invalid appsecret_proof provided in the API argument", kind="GraphMethodException")


def _spoken(instant: dt.datetime) -> str:
    return instant.strftime("%A, %d-%b-%y %H:%M:%S UTC")


# Permissions and objects


def no_permission() -> GraphError:
    message = "(#200) Ad account owner has NOT grant ads_management or ads_read permission"
    return GraphError(403, 200, message, reason="insufficient_scope")


def permission_missing() -> GraphError:
    message = "(#10) Application does not have permission for this action"
    return GraphError(403, 10, message, reason="insufficient_scope")


def field_forbidden(field: str) -> GraphError:
    message = f"(#10) Requires business_management permission to read the field '{field}'. Missing permissions"
    return GraphError(403, 10, message, reason="insufficient_scope")


def unknown_object(object_id: str, method: str = "get") -> GraphError:
    message = (
        f"Unsupported {method} request. Object with ID '{object_id}' does not exist, cannot be loaded due to missing "
        "permissions, or does not support this operation. Please read the Graph API documentation at "
        "https://developers.facebook.com/docs/graph-api"
    )
    return GraphError(400, 100, message, subcode=33, kind="GraphMethodException")


def unknown_path(path: str) -> GraphError:
    return GraphError(400, 2500, f"Unknown path components: /{path}")


def version_over() -> GraphError:
    message = (
        "(#2635) You are calling a deprecated version of the Ads API. "
        f"Please update to the latest version: {NEWEST_VERSION}."
    )
    return GraphError(400, 2635, message)


# Queries


def invalid_parameter(message: str) -> GraphError:
    return GraphError(400, 100, f"(#100) {message}")


def invalid_choice(parameter: str, choices: Sequence[str]) -> GraphError:
    listed = ", ".join(choices)
    return invalid_parameter(f"{parameter} must be one of the following values: {listed}")


def unknown_insights_fields(names: Sequence[str]) -> GraphError:
    verb = "is" if len(names) == 1 else "are"
    message = f"{', '.join(names)} {verb} not valid for fields param. please check {_FIELDS_PAGE} for all valid values"
    return invalid_parameter(message)


def unknown_node_field(name: str, node_type: str) -> GraphError:
    return invalid_parameter(f"Tried accessing nonexisting field ({name}) on node type ({node_type})")


def breakdown_combination(breakdowns: Sequence[str]) -> GraphError:
    listed = ", ".join(breakdowns)
    message = f"Current combination of data breakdown columns (action_type, {listed}) is invalid"
    return GraphError(400, 100, f"(#100) {message}", subcode=1487534)


def range_too_old() -> GraphError:
    message = "(#3018) The start date of the time range cannot be beyond 37 months from the current date"
    return GraphError(400, 3018, message)


def invalid_cursor() -> GraphError:
    return GraphError(400, 100, "(#100) Invalid cursors values: after cursor is not valid for this query")


# Load


def too_much_data() -> GraphError:
    message = "Please reduce the amount of data you're asking for, then retry your request"
    return GraphError(500, 1, message, reason="unknown_error")


def unknown_error() -> GraphError:
    return GraphError(500, 1, "An unknown error occurred", subcode=99, is_transient=True, reason="unknown_error")


def service_unavailable() -> GraphError:
    message = "Service temporarily unavailable"
    return GraphError(503, 2, message, is_transient=True, reason="unknown_error")


def app_limit() -> GraphError:
    return GraphError(400, 4, "(#4) Application request limit reached", subcode=1504022, is_transient=True)


def account_blocked() -> GraphError:
    """The score of one ad account is used up; says `is_transient: false` although it passes by itself."""
    return GraphError(
        400,
        17,
        "User request limit reached",
        subcode=2446079,
        user_title="Ad Account Has Too Many API Calls",
        user_message="There have been too many calls from this ad-account. Please wait a bit and try again.",
    )


BUSINESS_LIMITS = {
    "ads_insights": 80000,
    "pages": 80001,
    "instagram": 80002,
    "custom_audience": 80003,
    "ads_management": 80004,
    "leadgen": 80005,
    "messenger": 80006,
    "catalog_management": 80009,
    "catalog_batch": 80014,
}
"""Business use case -> code. https://developers.facebook.com/docs/graph-api/overview/rate-limiting#error-codes-2"""


def business_limit(use_case: str) -> GraphError:
    code = BUSINESS_LIMITS[use_case]
    message = (
        f"(#{code}) There have been too many calls to this ad-account. Wait a bit and try again. "
        f"For more info, please refer to {_RATE_LIMIT_PAGE}."
    )
    return GraphError(
        400,
        code,
        message,
        subcode=2446079,
        user_title="Ad account has too many API calls",
        user_message="There have been too many calls to this ad-account. Wait a bit and try again.",
    )


def custom_limit() -> GraphError:
    return GraphError(400, 613, "(#613) Calls to this api have exceeded the rate limit.", subcode=1487742)


def batch_too_large(limit: int) -> GraphError:
    return GraphError(400, 100, f"(#100) Too many requests in batch message. Maximum batch size is {limit}")


_BY_CODE: dict[int, GraphError] = {
    1: unknown_error(),
    2: service_unavailable(),
    4: app_limit(),
    10: permission_missing(),
    17: account_blocked(),
    32: GraphError(400, 32, "(#32) Page request limit reached"),
    102: GraphError(401, 102, "Session key invalid or no longer valid", reason="invalid_token"),
    104: no_token("act"),
    190: revoked_token(),
    200: no_permission(),
    341: GraphError(400, 341, "(#341) Feed action request limit reached", is_transient=True),
    613: custom_limit(),
    960: GraphError(400, 960, "(#960) Request aborted: a dependent request failed.", is_transient=True),
    2601: GraphError(500, 2601, "(#2601) Loading async report failed", subcode=1815107, is_transient=True),
    2635: version_over(),
    3018: range_too_old(),
    **{code: business_limit(use_case) for use_case, code in BUSINESS_LIMITS.items()},
}


def by_code(code: int) -> GraphError:
    """The error of this code, for faults; one that the sandbox has no words for is a plain 400."""
    known = _BY_CODE.get(code)
    return replace(known) if known is not None else GraphError(400, code, f"(#{code}) Invalid request")
