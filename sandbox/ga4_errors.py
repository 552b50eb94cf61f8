"""Errors of Google's APIs as they word them.

https://developers.google.com/analytics/devguides/reporting/data/v1/errors,
https://developers.google.com/analytics/devguides/reporting/data/v1/quotas
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SCHEMA_PAGE = "https://developers.google.com/analytics/devguides/reporting/data/v1/api-schema"
_QUOTA_PAGE = "https://developers.google.com/analytics/devguides/reporting/data/v1/quotas"
_EXPLORER = "https://ga-dev-tools.google/ga4/dimensions-metrics-explorer/"

STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""https://cloud.google.com/apis/design/errors"""


@dataclass(eq=False)
class GoogleError(Exception):
    """One refusal with its HTTP status."""

    status: int
    message: str
    details: list[dict[str, Any]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        name = STATUS_NAMES.get(self.status, "UNKNOWN")
        error: dict[str, Any] = {"code": self.status, "message": self.message, "status": name}
        return {"error": {**error, "details": self.details} if self.details else error}


def unauthenticated() -> GoogleError:
    message = (
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
    )
    return GoogleError(401, message, [_info("ACCESS_TOKEN_TYPE_UNSUPPORTED")])


def no_permission() -> GoogleError:
    message = (
        "User does not have sufficient permissions for this property. To learn more about Property ID, see "
        "https://developers.google.com/analytics/devguides/reporting/data/v1/property-id."
    )
    return GoogleError(403, message)


def scope_insufficient() -> GoogleError:
    message = "Request had insufficient authentication scopes."
    return GoogleError(403, message, [_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")])


def api_disabled(project: str) -> GoogleError:
    message = (
        f"Google Analytics Data API has not been used in project {project} before or it is disabled. Enable it by "
        "visiting https://console.developers.google.com/apis/api/analyticsdata.googleapis.com/overview?project="
        f"{project} then retry."
    )
    return GoogleError(403, message, [_info("SERVICE_DISABLED", consumer=f"projects/{project}")])


def _info(reason: str, **metadata: str) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": "analyticsdata.googleapis.com", **metadata},
    }


def invalid(message: str) -> GoogleError:
    return GoogleError(400, message)


def unknown_field(kind: str, name: str) -> GoogleError:
    """kind: dimension or metric."""
    message = f"Field {name} is not a valid {kind}. For a list of valid dimensions and metrics, see {_SCHEMA_PAGE} "
    return invalid(message)


def incompatible(names: Sequence[str]) -> GoogleError:
    message = (
        f"Please remove {', '.join(names)} to make the request compatible. The request's dimensions & metrics are "
        f"incompatible. To learn more, see {_EXPLORER}"
    )
    return invalid(message)


def too_many(kind: str, limit: int, asked: int) -> GoogleError:
    """kind: dimensions, metrics or dateRanges."""
    return invalid(
        f"Requests are limited to {limit} {kind} within a nested request. This request is for {asked} {kind}."
    )


def unknown_json_field(name: str) -> GoogleError:
    message = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
    violation = {"description": message}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return GoogleError(400, message, details)


def not_a_property(name: str) -> GoogleError:
    message = (
        f"A Property ID of {name} was passed. Property IDs are numeric values. To learn more about Property ID, see "
        "https://developers.google.com/analytics/devguides/reporting/data/v1/property-id."
    )
    return invalid(message)


def quota(text: str, consequence: str = "Please send fewer requests.") -> GoogleError:
    return GoogleError(429, f"{text} {consequence} To learn more, see {_QUOTA_PAGE}")


QUOTA_TEXTS = {
    "concurrentRequests": ("Exhausted concurrent requests quota.", "Please send fewer requests concurrently."),
    "tokensPerDay": (
        "Exhausted property tokens per day.",
        "These quota tokens will return at midnight Pacific time.",
    ),
    "tokensPerHour": ("Exhausted property tokens per hour.", "These quota tokens will return in under an hour."),
    "tokensPerProjectPerHour": (
        "Exhausted property tokens for a project per hour.",
        "These quota tokens will return in under an hour.",
    ),
    "serverErrorsPerProjectPerHour": (
        "Exhausted server errors quota.",
        "This property has had too many server errors in the last hour.",
    ),
    "potentiallyThresholdedRequestsPerHour": (
        "Exhausted potentially thresholded requests quota.",
        "Please wait until the next hour.",
    ),
}


def quota_exhausted(name: str) -> GoogleError:
    """name: a key of `PropertyQuota`."""
    return quota(*QUOTA_TEXTS[name])


def server_error(status: int) -> GoogleError:
    messages = {
        500: "Internal error encountered.",
        503: "The service is currently unavailable.",
        504: "Deadline expired before operation could complete.",
    }
    return GoogleError(status, messages.get(status, "Unknown error."))
