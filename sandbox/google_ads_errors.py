"""Errors of the Google Ads API as it words them.

https://developers.google.com/google-ads/api/docs/common-errors,
https://developers.google.com/google-ads/api/reference/rpc/v26/GoogleAdsFailure
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sandbox.ga4_errors import STATUS_NAMES

FAILURE_TYPE = "type.googleapis.com/google.ads.googleads.{version}.errors.GoogleAdsFailure"
DEFAULT_VERSION = "v26"


@dataclass(eq=False)
class AdsError(Exception):
    """One refusal.

    kind, name: of the error code (`quotaError`, `RESOURCE_EXHAUSTED`); without a kind no GoogleAdsFailure is sent.
    quota: `quotaErrorDetails`.
    """

    status: int
    message: str
    kind: str = ""
    name: str = ""
    quota: dict[str, str] = field(default_factory=dict)

    def body(self, request_id: str, version: str = DEFAULT_VERSION) -> dict[str, Any]:
        """The JSON body; searchStream wraps it into an array."""
        summary = "Request contains an invalid argument." if self.status == 400 else self.message
        error: dict[str, Any] = {
            "code": self.status,
            "message": summary,
            "status": STATUS_NAMES.get(self.status, "UNKNOWN"),
        }
        if self.kind:
            detail: dict[str, Any] = {"errorCode": {self.kind: self.name}, "message": self.message}
            if self.quota:
                detail["details"] = {"quotaErrorDetails": self.quota}
            failure = {"@type": FAILURE_TYPE.format(version=version), "errors": [detail], "requestId": request_id}
            error["details"] = [failure]
        return {"error": error}


def unauthenticated() -> AdsError:
    return AdsError(
        401,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential.",
        "authenticationError",
        "OAUTH_TOKEN_INVALID",
    )


def revoked() -> AdsError:
    return AdsError(401, "The OAuth token was revoked.", "authenticationError", "OAUTH_TOKEN_REVOKED")


def developer_token_missing() -> AdsError:
    return AdsError(400, "The developer token is missing.", "requestError", "DEVELOPER_TOKEN_PARAMETER_MISSING")


def developer_token_invalid() -> AdsError:
    return AdsError(401, "The developer token is not valid.", "authenticationError", "DEVELOPER_TOKEN_INVALID")


def no_permission() -> AdsError:
    return AdsError(
        403,
        "User doesn't have permission to access customer. Note: If you're accessing a client customer, the manager's "
        "customer id must be set in the 'login-customer-id' header.",
        "authorizationError",
        "USER_PERMISSION_DENIED",
    )


def unknown_customer(customer_id: str) -> AdsError:
    message = f"No customer found for the provided customer id: {customer_id}."
    return AdsError(401, message, "authenticationError", "CUSTOMER_NOT_FOUND")


def not_enabled() -> AdsError:
    return AdsError(
        403,
        "The customer account can't be accessed because it is not yet enabled or has been deactivated.",
        "authorizationError",
        "CUSTOMER_NOT_ENABLED",
    )


def bad_query(name: str, message: str) -> AdsError:
    return AdsError(400, message, "queryError", name)


def unsupported_version(version: str) -> AdsError:
    message = f"Version {version} is deprecated. Requests to this version will be blocked."
    return AdsError(400, message, "requestError", "UNSUPPORTED_VERSION")


def too_fast(seconds: float) -> AdsError:
    quota = {"rateScope": "ACCOUNT", "rateName": "Requests per account", "retryDelay": f"{max(1, round(seconds))}s"}
    return AdsError(
        429,
        "Too many requests. Retry in a moment.",
        "quotaError",
        "RESOURCE_TEMPORARILY_EXHAUSTED",
        quota,
    )


def exhausted(seconds: float, scope: str = "DEVELOPER") -> AdsError:
    quota = {
        "rateScope": scope,
        "rateName": "Number of operations for explorer and basic access",
        "retryDelay": f"{round(seconds)}s",
    }
    message = f"Too many requests. Retry in {round(seconds)} seconds."
    return AdsError(429, message, "quotaError", "RESOURCE_EXHAUSTED", quota)


def internal(status: int) -> AdsError:
    names = {500: "INTERNAL_ERROR", 503: "TRANSIENT_ERROR", 504: "DEADLINE_EXCEEDED"}
    return AdsError(status, "An internal error has occurred.", "internalError", names.get(status, "INTERNAL_ERROR"))
