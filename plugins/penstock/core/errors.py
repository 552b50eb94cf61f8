"""Every error of Penstock, grouped by what to do about it, not by what caused it.

    PenstockError
     ├─ FatalError               nothing to try again until a person acts
     │   ├─ ConfigurationError   wrong setting, unknown account, invalid query
     │   ├─ AuthError            credentials refused or expired
     │   ├─ PermissionDenied     credentials accepted, access refused
     │   └─ ContractError        the vendor changed, or we call a retired version
     ├─ RetryableError           the same call may succeed later
     │   ├─ RateLimited          wait `retry_after` seconds, then go on
     │   ├─ QuotaExhausted       nothing until `resets_at`; the run is put back, not failed
     │   ├─ VendorUnavailable    5xx, time-outs, broken answers
     │   └─ TooMuchData          ask for less: smaller pages, then a smaller window
     ├─ SkippableError           this record or object only
     │   ├─ NotFound
     │   └─ UnreadableRecord     kept in the rejected records with its reason
     └─ InternalError            our database, our lease, our bug

`CATALOGUE` is the one table of codes: the class to raise and the remedy that people read in
`etl_runs.error`, in the Slack alert and in the runbook.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any


@dataclass
class PenstockError(Exception):
    """An error with everything `etl_runs.error` stores.

    Parameters
    ----------
    code: key of `CATALOGUE`.
    message: what happened, without secrets; the transport redacts before raising.
    service, task: the part of Penstock that failed, as the old workers reported it.
    retry_after: seconds the vendor asked us to wait.
    resets_at: when the quota is whole again (aware datetime).
    http_status, provider_code, provider_subcode, request_id: what the vendor said.
    context: account, stream, slice and the like, added on the way up.
    """

    code: str
    message: str
    service: str = "penstock"
    task: str = ""
    retry_after: float | None = None
    resets_at: dt.datetime | None = None
    http_status: int | None = None
    provider_code: str | None = None
    provider_subcode: str | None = None
    request_id: str | None = None
    context: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        values = (
            self.code,
            self.message,
            self.service,
            self.task,
            self.retry_after,
            self.resets_at,
            self.http_status,
            self.provider_code,
            self.provider_subcode,
            self.request_id,
            self.context,
        )
        return (type(self), values)

    @property
    def remedy(self) -> str:
        return CATALOGUE.get(self.code, CATALOGUE["UNKNOWN"]).remedy

    @property
    def retryable(self) -> bool:
        return isinstance(self, RetryableError)

    def as_json(self) -> dict[str, Any]:
        """The object stored in `etl_runs.error`: the old worker's keys first, then ours."""
        extra = {
            "class": type(self).__name__,
            "retryable": self.retryable,
            "retry_after_s": self.retry_after,
            "resets_at": self.resets_at.isoformat() if self.resets_at else None,
            "http_status": self.http_status,
            "provider_code": self.provider_code,
            "provider_subcode": self.provider_subcode,
            "request_id": self.request_id,
            "operator_action": self.remedy,
            **self.context,
        }
        known = {key: value for key, value in extra.items() if value is not None}
        return {
            "code": self.code,
            "message": self.message,
            "service": self.service,
            "task": self.task,
            **known,
        }


class FatalError(PenstockError):
    """Nothing to try again until a person acts."""


class ConfigurationError(FatalError):
    """A setting, an account or a query is wrong."""


class AuthError(FatalError):
    """Credentials refused or expired."""


class PermissionDenied(FatalError):
    """Credentials accepted, access refused."""


class ContractError(FatalError):
    """The vendor's API is not what the code was written for."""


class RetryableError(PenstockError):
    """The same call may succeed later."""


class RateLimited(RetryableError):
    """Wait `retry_after` seconds, then go on."""


class QuotaExhausted(RetryableError):
    """Nothing until `resets_at`: the run is put back with `not_before`."""


class VendorUnavailable(RetryableError):
    """5xx, time-outs, broken answers."""


class TooMuchData(RetryableError):
    """The vendor asks for a smaller question."""


class SkippableError(PenstockError):
    """This record or object only; the run goes on."""


class NotFound(SkippableError):
    """The object does not exist at the vendor."""


class UnreadableRecord(SkippableError):
    """A record that cannot be stored; kept in the rejected records."""


class InternalError(PenstockError):
    """Our database, our lease, our bug."""


DEFECTS = (TypeError, AttributeError, LookupError, NameError, ImportError, ValueError)
"""What Python raises where the code is wrong: it answers the same next time, so nobody tries again."""


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One line of the catalogue: the class to raise, and what a person does."""

    kind: type[PenstockError]
    remedy: str


NOTHING = "Nothing: Penstock waits and goes on by itself."

CATALOGUE: dict[str, ErrorSpec] = {
    # Meta Marketing API. Codes and sub-codes: https://developers.facebook.com/docs/marketing-api/error-reference
    "META_AUTH_ERROR": ErrorSpec(AuthError, "Issue a new system-user token and put it into the account's credentials."),
    "META_APP_SECRET_PROOF_INVALID": ErrorSpec(AuthError, "Correct the app secret in the connection `meta_ads`."),
    "META_PERMISSION_DENIED": ErrorSpec(
        PermissionDenied, "Grant ads_read and assign the ad account to the system user."
    ),
    "META_FIELD_FORBIDDEN": ErrorSpec(
        PermissionDenied, "Grant the permission that the message names, or drop the field."
    ),
    "META_ACCOUNT_DISABLED": ErrorSpec(
        ConfigurationError, "The client settles the ad account with Meta; then run it again."
    ),
    "META_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "META_ACCOUNT_QUOTA_BLOCK": ErrorSpec(QuotaExhausted, NOTHING),
    "META_TOO_MUCH_DATA": ErrorSpec(
        TooMuchData, "Nothing: the slice splits itself. If one day is still too much, drop breakdowns."
    ),
    "META_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
    "META_REPORT_FAILED": ErrorSpec(
        VendorUnavailable, "Read the vendor's message; the report was tried again and split already."
    ),
    "META_REPORT_TIMEOUT": ErrorSpec(TooMuchData, "Nothing: the report is split and asked again."),
    "META_INVALID_QUERY": ErrorSpec(
        ConfigurationError, "Correct the stream's fields or breakdowns in sources/meta_ads.py."
    ),
    "META_RANGE_TOO_OLD": ErrorSpec(ConfigurationError, "Meta keeps 37 months: choose a later start."),
    "META_VERSION_DEPRECATED": ErrorSpec(ContractError, "Raise META_API_VERSION."),
    "META_BREAKDOWN_RETIRED": ErrorSpec(ContractError, "Remove the breakdown from sources/meta_ads.py."),
    # Google Analytics Data API. https://developers.google.com/analytics/devguides/reporting/data/v1/errors
    "GA4_PERMISSION_DENIED": ErrorSpec(PermissionDenied, "Add the service account as Viewer to the GA4 property."),
    "GA4_API_DISABLED": ErrorSpec(
        ConfigurationError, "Enable the Google Analytics Data API in the Google Cloud project."
    ),
    "GA4_AUTH_ERROR": ErrorSpec(AuthError, "Replace the service-account key, and check the machine's clock."),
    "GA4_PROPERTY_NOT_FOUND": ErrorSpec(ConfigurationError, "Use the numeric id of a GA4 property."),
    "GA4_INVALID_QUERY": ErrorSpec(
        ConfigurationError, "Check the report's dimensions and metrics with checkCompatibility."
    ),
    "GA4_CONCURRENCY_LIMIT": ErrorSpec(RateLimited, "Nothing; if it repeats, lower the slots of pool `ga4`."),
    "GA4_QUOTA_HOUR": ErrorSpec(QuotaExhausted, NOTHING),
    "GA4_QUOTA_DAY": ErrorSpec(
        QuotaExhausted, "Nothing today; if it repeats, read fewer reports or use Analytics 360."
    ),
    "GA4_SERVER_ERROR_BUDGET": ErrorSpec(QuotaExhausted, NOTHING),
    "GA4_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
    "GA4_ERROR": ErrorSpec(ConfigurationError, "Read the vendor's message: Google refused the request."),
    # Klaviyo. https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling
    "KLAVIYO_AUTH_ERROR": ErrorSpec(
        AuthError, "Create a new private API key (pk_...) and put it into the account's credentials."
    ),
    "KLAVIYO_PERMISSION_DENIED": ErrorSpec(
        PermissionDenied, "Give the private key the read scope that the message names."
    ),
    "KLAVIYO_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "KLAVIYO_DAILY_REPORT_LIMIT": ErrorSpec(
        QuotaExhausted, "Nothing: the run goes on when the day's 225 report calls are back."
    ),
    "KLAVIYO_INVALID_QUERY": ErrorSpec(
        ConfigurationError, "Check the account's conversion metric id and the stream's filters."
    ),
    "KLAVIYO_NO_CONVERSION_METRIC": ErrorSpec(
        ConfigurationError,
        "Put the id of the metric that counts orders into the account's settings as `conversion_metric_id`, or connect "
        "the shop to Klaviyo; then start a HISTORICAL run of the account.",
    ),
    "KLAVIYO_REVISION_RETIRED": ErrorSpec(ContractError, "Raise KLAVIYO_REVISION."),
    "KLAVIYO_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
    # Google Ads API. https://developers.google.com/google-ads/api/docs/common-errors
    "GOOGLE_ADS_AUTH_ERROR": ErrorSpec(
        AuthError, "Connect Google Ads again: put a new refresh token into the account's credentials."
    ),
    "GOOGLE_ADS_DEVELOPER_TOKEN": ErrorSpec(
        ConfigurationError, "Check the developer token, its access level and its Google Cloud project."
    ),
    "GOOGLE_ADS_PERMISSION_DENIED": ErrorSpec(
        PermissionDenied, "Give the user access to the customer, or name the manager in `login_customer_id`."
    ),
    "GOOGLE_ADS_CUSTOMER_NOT_ENABLED": ErrorSpec(
        ConfigurationError, "The customer is closed, suspended or unknown: settle it with Google, or deactivate it."
    ),
    "GOOGLE_ADS_MANAGER_ACCOUNT": ErrorSpec(
        ConfigurationError, "A manager account has no numbers of its own: register the customers below it."
    ),
    "GOOGLE_ADS_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "GOOGLE_ADS_QUOTA_DAY": ErrorSpec(
        QuotaExhausted, "Nothing today; if it repeats, apply for Standard access of the developer token."
    ),
    "GOOGLE_ADS_PAGE_EXPIRED": ErrorSpec(VendorUnavailable, NOTHING),
    "GOOGLE_ADS_TOO_MUCH_DATA": ErrorSpec(TooMuchData, "Nothing: the window is halved and asked again."),
    "GOOGLE_ADS_INVALID_QUERY": ErrorSpec(
        ConfigurationError, "Check the customer id; if it is right, correct the query in sources/google_ads.py."
    ),
    "GOOGLE_ADS_VERSION_SUNSET": ErrorSpec(ContractError, "Raise GOOGLE_ADS_API_VERSION."),
    "GOOGLE_ADS_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
    "GOOGLE_ADS_ERROR": ErrorSpec(ConfigurationError, "Read the vendor's message: Google refused the request."),
    # Slack
    "SLACK_AUTH_ERROR": ErrorSpec(AuthError, "Put a valid bot token (xoxb-...) into the connection `slack`."),
    "SLACK_CHANNEL_ERROR": ErrorSpec(
        ConfigurationError, "Invite the bot to the channel, or correct the configured channel."
    ),
    "SLACK_SCOPE_MISSING": ErrorSpec(
        PermissionDenied,
        "Give the bot im:write, and users:read.email where people are named by e-mail address; install it again.",
    ),
    "SLACK_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "SLACK_ERROR": ErrorSpec(VendorUnavailable, "Read Slack's error string in the message."),
    # Notifications: reasons of dead letters
    "SLACK_QUOTA": ErrorSpec(
        QuotaExhausted, "Nothing for an hour; if it repeats, the workspace's plan allows fewer messages."
    ),
    "SLACK_MESSAGE_REFUSED": ErrorSpec(
        SkippableError, "Slack's error string says what it refuses: correct the template, then replay."
    ),
    "NOTIFICATION_NO_CONFIG": ErrorSpec(
        SkippableError, "The row names no notification_config, or one that was deleted: correct the producer."
    ),
    "NOTIFICATION_CONFIG_INACTIVE": ErrorSpec(
        SkippableError, "Nothing, or set notification_config.is_active and replay what is still wanted."
    ),
    "NOTIFICATION_NO_DESTINATION": ErrorSpec(
        SkippableError, "Give the notification_config a channel_id, or its user's profile a slack_id; then replay."
    ),
    "NOTIFICATION_NO_TEMPLATE": ErrorSpec(
        SkippableError, "Write a template into the notification_config, then replay."
    ),
    "NOTIFICATION_BAD_DATA": ErrorSpec(
        SkippableError, "event_data must be a JSON object of at most 256 kB: correct the producer."
    ),
    "NOTIFICATION_FLOOD": ErrorSpec(
        SkippableError, "Over 3,600 rows waited for one channel: stop the producer's loop, then replay what is wanted."
    ),
    "NOTIFICATION_EXPIRED": ErrorSpec(
        SkippableError, "Read last_error for what held it up; replay it if it is still of use."
    ),
    "NOTIFICATION_ATTEMPTS_EXHAUSTED": ErrorSpec(
        SkippableError, "Read last_error; once mended, replay: what did arrive is found and not sent again."
    ),
    "NOTIFICATION_AMBIGUOUS": ErrorSpec(
        SkippableError, "Look into the channel whether the message is there; if not, replay it."
    ),
    "NOTIFICATION_CANCELLED": ErrorSpec(SkippableError, "Nothing: a person cancelled it before it was sent."),
    "NOTIFICATIONS_LATE": ErrorSpec(
        InternalError, "Look at reporting.queue_health: the drain may be off, a channel parked or something paused."
    ),
    # Google Calendar. https://developers.google.com/workspace/calendar/api/guides/errors
    "OAUTH_INVALID": ErrorSpec(
        AuthError, "The workspace's owner connects the Google account again; the items then return by themselves."
    ),
    "CALENDAR_NOT_CONNECTED": ErrorSpec(
        ConfigurationError, "Connect a Google account to the workspace; the items then return by themselves."
    ),
    "CALENDAR_CLIENT_INVALID": ErrorSpec(
        ConfigurationError, "Correct the OAuth client's id and secret in the connection `google_calendar`."
    ),
    "CALENDAR_API_DISABLED": ErrorSpec(
        ConfigurationError, "Enable the Google Calendar API in the Google Cloud project of the OAuth client."
    ),
    "CALENDAR_FORBIDDEN": ErrorSpec(
        PermissionDenied, "Give the connected account the right to change events of this calendar, then replay."
    ),
    "CALENDAR_NOT_FOUND": ErrorSpec(
        NotFound, "The calendar does not exist for the connected account: correct its id, then rebuild the workspace."
    ),
    "CALENDAR_NOT_ORGANIZER": ErrorSpec(
        PermissionDenied, "Somebody else organises this event: delete its binding, then rebuild the workspace."
    ),
    "CALENDAR_EVENT_INVALID": ErrorSpec(
        UnreadableRecord, "The item's payload breaks the contract as the message says: correct the producer."
    ),
    "CALENDAR_EVENT_REFUSED": ErrorSpec(
        UnreadableRecord, "Google refused the event: read its message, correct the source object, write a new item."
    ),
    "CALENDAR_ID_CONFLICT": ErrorSpec(
        UnreadableRecord, "Google neither makes nor revives this event: look for it in the calendar, then replay."
    ),
    "CALENDAR_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "CALENDAR_QUOTA": ErrorSpec(
        QuotaExhausted, "Nothing: the connection rests for some hours. If it repeats, write fewer events."
    ),
    "CALENDAR_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
    "CALENDAR_LATE": ErrorSpec(
        InternalError, "Look at reporting.queue_health: a paused DAG, a workspace put off, or a scheduler that is down."
    ),
    # Steam's store, and the apps that are read from it
    "STEAM_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "STEAM_NOT_FOUND": ErrorSpec(NotFound, "Nothing: the app is stamped and asked for again after its interval."),
    "STEAM_INVALID_QUERY": ErrorSpec(ConfigurationError, "Correct the request in sources/steam.py."),
    "STEAM_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
    "APPS_GIVEN_UP": ErrorSpec(
        ConfigurationError,
        "Read public.sync_status.last_error_message; once mended: select penstock.revive_app(<appid>).",
    ),
    # Nivoda
    "NIVODA_AUTH_ERROR": ErrorSpec(AuthError, "Correct user name and password in the connection `nivoda`."),
    "NIVODA_TOKEN_REFUSED": ErrorSpec(AuthError, "Nothing: a new token is asked for at once."),
    "NIVODA_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "NIVODA_INVALID_QUERY": ErrorSpec(
        ConfigurationError, "Correct the base filter, or the fields and filters in sources/nivoda.py."
    ),
    "NIVODA_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
    "NIVODA_ERROR": ErrorSpec(
        VendorUnavailable, "Read the vendor's message: it names no known cause, and the call was tried again already."
    ),
    # Diamond ingestion
    "NIVODA_PARTITION_TOO_LARGE": ErrorSpec(
        ConfigurationError, "Start a run with more partitions: the feed grew beyond the vendor's largest offset."
    ),
    "NIVODA_UNREADABLE_ITEMS": ErrorSpec(
        ContractError, "Compare penstock.nivoda_rejected_stones with sources/nivoda.py: the vendor changed its answer."
    ),
    "NIVODA_PARTITION_KILLED": ErrorSpec(
        InternalError, "Clear the mapped task, or trigger with `retry_run_id`: the partition resumes at its checkpoint."
    ),
    "NIVODA_PARTITIONS_FAILED": ErrorSpec(
        InternalError, "See reporting.nivoda_runs, mend the cause, then clear the failed tasks or use `retry_run_id`."
    ),
    "NIVODA_GATE_BLOCKED": ErrorSpec(
        InternalError, "Approve the consolidation in the UI, or retry the failed partitions with `retry_run_id`."
    ),
    "NIVODA_COVERAGE": ErrorSpec(
        ContractError, "Set the extra `key_field` of the connection `nivoda` to the field that finds more stones."
    ),
    "NIVODA_BRAKE": ErrorSpec(InternalError, "Ask the vendor why so many stones are missing; nothing was deleted."),
    # Any vendor
    "NETWORK_TIMEOUT": ErrorSpec(VendorUnavailable, "Check the network between this machine and the vendor."),
    "NETWORK_UNREACHABLE": ErrorSpec(VendorUnavailable, "Check the network, the host and the port of the connection."),
    "TLS_ERROR": ErrorSpec(
        ConfigurationError, "Check the machine's clock and certificates, and the host of the connection."
    ),
    "RESPONSE_NOT_JSON": ErrorSpec(VendorUnavailable, NOTHING),
    "RESPONSE_TRUNCATED": ErrorSpec(VendorUnavailable, NOTHING),
    "RESPONSE_REPEATED_CURSOR": ErrorSpec(
        VendorUnavailable, "The vendor gave the same page token twice. If it repeats, report it to the vendor."
    ),
    "RESPONSE_TOO_LARGE": ErrorSpec(TooMuchData, "Nothing: smaller pages are asked for."),
    "RESPONSE_FOREIGN_LINK": ErrorSpec(
        ContractError, "Check the connection's host: the answer sends us to another one."
    ),
    "CIRCUIT_OPEN": ErrorSpec(
        VendorUnavailable, "The vendor failed repeatedly; calls start again when the pause is over."
    ),
    "RATE_LIMIT_WAIT_TOO_LONG": ErrorSpec(RateLimited, NOTHING),
    # Data
    "SCHEMA_MISMATCH": ErrorSpec(
        UnreadableRecord, "Look at staging_ingest.rejected_records; correct the source, then replay."
    ),
    "MISSING_KEY": ErrorSpec(
        UnreadableRecord, "The vendor sent a record without its id: report it to the vendor with the payload."
    ),
    "WRONG_TYPE": ErrorSpec(
        UnreadableRecord, "Compare the payload with the stream's fields; if the vendor changed, correct the source."
    ),
    "FORBIDDEN_CHARACTER": ErrorSpec(
        UnreadableRecord, "The text holds a NUL or half a surrogate pair, which Postgres cannot store."
    ),
    "ROWCOUNT_MISMATCH": ErrorSpec(
        VendorUnavailable, "The vendor's own count differs from the rows it sent; the slice is read again."
    ),
    "TOTALS_MISMATCH": ErrorSpec(InternalError, "Look at reporting.reconciliation for the account and day."),
    "ACCOUNT_CHANGED": ErrorSpec(
        ConfigurationError,
        "Start a HISTORICAL run of the account: its days before the change stand in the old zone or currency.",
    ),
    # Configuration
    "CREDENTIAL_NOT_FOUND": ErrorSpec(
        ConfigurationError, "Create the Airflow connection, or store credentials with the account."
    ),
    "CREDENTIAL_INVALID": ErrorSpec(
        ConfigurationError, "Correct the credentials: the message says which part cannot be read."
    ),
    "CREDENTIAL_UNDECRYPTABLE": ErrorSpec(
        ConfigurationError, "The encryption key of this row is missing from PENSTOCK_ENCRYPTION_KEYS."
    ),
    "CONFIG_NO_ACCOUNT": ErrorSpec(
        ConfigurationError, "Add an active row to platform_connections for this shop and platform, or end its pause."
    ),
    "ACCOUNT_IN_FLIGHT": ErrorSpec(
        RetryableError, "Nothing: the task tries again. Start it later if the run in flight takes long."
    ),
    "QUOTA_STALLED": ErrorSpec(
        ConfigurationError,
        "The vendor let nothing through for a day: look for another user of the quota, or read fewer streams.",
    ),
    "CONFIG_INVALID": ErrorSpec(ConfigurationError, "Correct the setting that the message names."),
    "SOURCE_NOT_SUPPORTED": ErrorSpec(
        ConfigurationError, "Use a platform of the source registry, or add it: docs/adding_a_source.md."
    ),
    # Retention
    "RETENTION_POLICY_INVALID": ErrorSpec(
        ConfigurationError, "Correct the days of this entity type in retention_policies; nothing was touched."
    ),
    "RETENTION_TOO_MANY_ROWS": ErrorSpec(
        ConfigurationError,
        "Look at the policy. If its days are meant, trigger `retention` with dry_run off and a higher confirm_above.",
    ),
    "RETENTION_ENTITY_UNKNOWN": ErrorSpec(
        ConfigurationError, "Correct the entity type in retention_policies, or add it to core/retention.py."
    ),
    "RETENTION_ARCHIVE_MISMATCH": ErrorSpec(
        ConfigurationError, "Add the columns that the message names to the archive table; nothing was moved."
    ),
    "RETENTION_ROWS_LOCKED": ErrorSpec(
        InternalError, "Nothing: the next run takes them. If it repeats, look for a transaction that never ends."
    ),
    # Ours
    "DB_WRITE_ERROR": ErrorSpec(
        InternalError, "Look at the database's log; the run starts again by itself when it was a passing fault."
    ),
    "DB_UNAVAILABLE": ErrorSpec(
        InternalError,
        "Check that the database is up and that its connection (`warehouse`, or the concern's own) points at it.",
    ),
    "MIGRATION_PENDING": ErrorSpec(
        ConfigurationError, "Run the DAG warehouse_migrate (or `make migrate`), then start the run again."
    ),
    "LEASE_LOST": ErrorSpec(InternalError, "Nothing: another worker has taken the run over."),
    "SLICES_FAILED": ErrorSpec(
        InternalError,
        "Some slices failed: penstock.slices names them. What was read is loaded; run again to fill the rest.",
    ),
    "ATTEMPTS_EXHAUSTED": ErrorSpec(
        InternalError, "The run's worker died several times: look at the task log for memory or time-outs."
    ),
    "UNKNOWN": ErrorSpec(
        InternalError, "Unexpected: file a bug with the error of the run, so that it gets a code of its own."
    ),
}


def error(code: str, message: str, **details: Any) -> PenstockError:
    """The error of this code, in the class the catalogue gives it; details as in `PenstockError`."""
    return CATALOGUE[code].kind(code, message, **details)
