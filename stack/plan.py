"""What of the stack is real and what stands in for it: decided by which credentials the environment has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from penstock.core.databases import CONCERN_SETS, WAREHOUSE_VARIABLES
from stack.settings import SettingsError

LIBPQ_FIELDS = {"host": "host", "port": "port", "user": "login", "password": "password", "dbname": "schema"}
"""libpq parameter -> field of an Airflow connection; everything else goes into the connection's extra."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """How a vendor is named in the environment.

    conn_id: Airflow connection, and registry name of the source.
    platform: value in `platform_connections.platform`; None for a vendor without accounts there.
    credential: the variable whose presence makes the vendor real.
    account: the variable with the one account that a deployment may have by environment alone.
    base_url: the variable that moves the vendor elsewhere; `default_url` is the vendor itself.
    sandbox_path: where the sandbox serves it.
    more: its other variables that hold a host, a login or a secret. On the sandbox they must not count: half a login
        would be mixed with the sandbox's, and the sandbox's tokens would go to a host that is not its own.
    """

    conn_id: str
    title: str
    platform: str | None
    credential: str
    account: str | None
    base_url: str
    default_url: str
    sandbox_path: str
    more: tuple[str, ...] = ()

    @property
    def bound(self) -> tuple[str, ...]:
        """The variables that count together with the credential alone."""
        names = (self.base_url, self.account, *self.more)
        return tuple(name for name in names if name and name != self.credential)


VENDORS = (
    Vendor(
        conn_id="meta_ads",
        title="Meta Ads",
        platform="META",
        credential="META_ACCESS_TOKEN",
        account="META_AD_ACCOUNT_ID",
        base_url="META_BASE_URL",
        default_url="https://graph.facebook.com",  # https://developers.facebook.com/docs/graph-api/overview
        sandbox_path="/meta",
        more=("META_APP_SECRET",),
    ),
    Vendor(
        conn_id="ga4",
        title="Google Analytics 4",
        platform="GA4",
        credential="GA4_CREDENTIALS_JSON",
        account="GA4_PROPERTY_ID",
        base_url="GA4_BASE_URL",
        default_url="https://analyticsdata.googleapis.com",  # https://developers.google.com/analytics/devguides/reporting/data/v1/rest
        sandbox_path="/ga4",
    ),
    Vendor(
        conn_id="klaviyo",
        title="Klaviyo",
        platform="KLAVIYO",
        credential="KLAVIYO_API_KEY",
        account="KLAVIYO_ACCOUNT_ID",
        base_url="KLAVIYO_BASE_URL",
        default_url="https://a.klaviyo.com",  # https://developers.klaviyo.com/en/reference/api_overview
        sandbox_path="/klaviyo",
    ),
    Vendor(
        conn_id="google_ads",
        title="Google Ads",
        platform="GOOGLE_ADS",
        credential="GOOGLE_ADS_DEVELOPER_TOKEN",
        account="GOOGLE_ADS_CUSTOMER_ID",
        base_url="GOOGLE_ADS_BASE_URL",
        default_url="https://googleads.googleapis.com",  # https://developers.google.com/google-ads/api/rest/overview
        sandbox_path="/google_ads",
        more=(
            "GOOGLE_ADS_REFRESH_TOKEN",
            "GOOGLE_ADS_CLIENT_ID",
            "GOOGLE_ADS_CLIENT_SECRET",
            "GOOGLE_ADS_CREDENTIALS_JSON",
            "GOOGLE_ADS_LOGIN_CUSTOMER_ID",
            "GOOGLE_ADS_TOKEN_URL",
        ),
    ),
    Vendor(
        conn_id="google_calendar",
        title="Google Calendar",
        platform=None,
        credential="GOOGLE_CLIENT_SECRET",
        account=None,
        base_url="GOOGLE_CALENDAR_BASE_URL",
        default_url="https://www.googleapis.com",  # https://developers.google.com/workspace/calendar/api/v3/reference
        sandbox_path="/google",
        more=("GOOGLE_CLIENT_ID", "GOOGLE_CALENDAR_TOKEN_URL"),
    ),
    Vendor(
        conn_id="steam",
        title="Steam",
        platform=None,
        credential="STEAM_BASE_URL",  # the store asks for none: naming its address is the wish to read it
        account=None,
        base_url="STEAM_BASE_URL",
        default_url="https://store.steampowered.com",  # https://partner.steamgames.com/doc/store/getreviews
        sandbox_path="/steam",
    ),
    Vendor(
        conn_id="nivoda",
        title="Nivoda",
        platform=None,
        credential="NIVODA_PASSWORD",
        account=None,
        base_url="NIVODA_ENDPOINT",
        default_url="https://integrations.nivoda.net/api/diamonds",
        sandbox_path="/nivoda/api/diamonds",
        more=("NIVODA_USERNAME",),
    ),
    Vendor(
        conn_id="slack",
        title="Slack",
        platform=None,
        credential="SLACK_BOT_TOKEN",
        account=None,
        base_url="SLACK_BASE_URL",
        default_url="https://slack.com/api/",  # https://docs.slack.dev/apis/web-api/
        sandbox_path="/slack/api/",
        more=("PENSTOCK_ALERT_CHANNEL",),
    ),
)


KLAVIYO = next(vendor for vendor in VENDORS if vendor.conn_id == "klaviyo")
SLACK = next(vendor for vendor in VENDORS if vendor.conn_id == "slack")
NIVODA = next(vendor for vendor in VENDORS if vendor.conn_id == "nivoda")
STEAM = next(vendor for vendor in VENDORS if vendor.conn_id == "steam")

SANDBOX_PACE = "600/60"
"""Calls/seconds that the sandbox's store is asked to allow, so that a demo is not spent waiting."""


NIVODA_PACE = "25"
"""Requests a second that the sandbox is read with: the most that the vendor allows, so that a demo ends soon."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which vendors are real, and where the warehouse is (None: the embedded one)."""

    values: Mapping[str, str]
    real: tuple[Vendor, ...]
    sandboxed: tuple[Vendor, ...]
    warehouse_dsn: str | None
    warehouse_from: str | None

    @property
    def is_make_believe(self) -> bool:
        """Whether databases and vendors are all stand-ins: sample rows written there, and what becomes of them, reach
        nobody."""
        is_embedded = self.warehouse_dsn is None and not self.given_connections & set(CONCERN_SETS)
        return is_embedded and self.sandboxed == VENDORS

    @property
    def given_connections(self) -> frozenset[str]:
        """Ids of connections that the environment carries in Airflow's own form."""
        prefix = "AIRFLOW_CONN_"
        return frozenset(
            name.removeprefix(prefix).lower()
            for name, value in self.values.items()
            if value and name.startswith(prefix)
        )

    def databases(self, warehouse_dsn: str) -> dict[str, str]:
        """Connection id -> connection string, of the warehouse and of every concern with a database of its own."""
        own = {
            conn_id: connection_dsn(self.values[f"AIRFLOW_CONN_{conn_id.upper()}"], f"AIRFLOW_CONN_{conn_id.upper()}")
            for conn_id in CONCERN_SETS
            if conn_id in self.given_connections
        }
        return own | {"warehouse": warehouse_dsn}

    def lines(self, *, has_sandbox: bool = True) -> list[str]:
        """What the start says, one line per part."""
        if self.warehouse_dsn is None:
            lines = [f"warehouse: embedded Postgres ({WAREHOUSE_VARIABLES[0]} is not set)"]
        else:
            lines = [f"warehouse: {_location(self.warehouse_dsn)} (from {self.warehouse_from})"]
        for vendor in VENDORS:
            lines.append(f"{vendor.title}: {self._origin(vendor, has_sandbox)}")
        if self.warehouse_dsn and has_sandbox and any(vendor.platform for vendor in self.sandboxed):
            lines.append("note: the sandbox's accounts and their made-up numbers go into that warehouse")
        return lines

    def _origin(self, vendor: Vendor, has_sandbox: bool) -> str:
        if vendor in self.sandboxed:
            return self._stand_in(vendor) if has_sandbox else f"no credentials ({vendor.credential} is not set)"
        if vendor.conn_id in self.given_connections:
            return f"as AIRFLOW_CONN_{vendor.conn_id.upper()} says"
        return f"{self.values.get(vendor.base_url) or vendor.default_url} (from {vendor.credential})"

    def _stand_in(self, vendor: Vendor) -> str:
        ignored = [name for name in vendor.bound if self.values.get(name)]
        if not ignored:
            return f"sandbox ({vendor.credential} is not set)"
        verb = "is" if len(ignored) == 1 else "are"
        return f"sandbox ({', '.join(ignored)} {verb} ignored without {vendor.credential})"

    def settings_values(
        self, *, warehouse_dsn: str, vault_keys: str, sandbox: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Values for `airflow_settings.yaml`.

        vault_keys: ours, unless the environment has its own. sandbox: what `sandbox_values` answers, if one runs.
        """
        derived = {"PENSTOCK_ENCRYPTION_KEYS": vault_keys, **(sandbox or {})}
        # Without a sandbox a host counts by itself: accounts may carry tokens of their own.
        ignored = {name for vendor in self.sandboxed for name in vendor.bound} if sandbox else frozenset()
        given = {name: value for name, value in self.values.items() if value and name not in ignored}
        return derived | given | warehouse_values(warehouse_dsn)


def sandbox_values(plan: Plan, url: str, credentials: Mapping[str, Any]) -> dict[str, str]:
    """Where the sandboxed vendors are, and Slack's bot.

    credentials: what the sandbox answers to GET /sandbox/credentials.
    """
    values = {vendor.base_url: url + vendor.sandbox_path for vendor in plan.sandboxed}
    if any(vendor.conn_id == "google_ads" for vendor in plan.sandboxed):
        values["GOOGLE_ADS_TOKEN_URL"] = f"{url}/google/token"
    if any(vendor.conn_id == "google_calendar" for vendor in plan.sandboxed):
        values["GOOGLE_CALENDAR_TOKEN_URL"] = f"{url}/google/token"
        values["GOOGLE_CLIENT_ID"] = credentials["google"]["client_id"]
        values["GOOGLE_CLIENT_SECRET"] = credentials["google"]["client_secret"]
    if STEAM in plan.sandboxed:
        values |= {"STEAM_STOREFRONT_LIMIT": SANDBOX_PACE, "STEAM_REVIEWS_LIMIT": SANDBOX_PACE}
    if SLACK in plan.sandboxed:
        channels = {name: channel_id for channel_id, name in credentials["slack"]["channels"].items()}
        values[SLACK.credential] = credentials["slack"]["token"]
        values["PENSTOCK_ALERT_CHANNEL"] = channels["alerts"]
    if NIVODA in plan.sandboxed:
        values |= {"NIVODA_USERNAME": credentials["nivoda"]["username"], "NIVODA_REQUESTS_PER_SECOND": NIVODA_PACE}
        values[NIVODA.credential] = credentials["nivoda"]["password"]
        # The whole stock, and no more tasks than two cores can run at once.
        values |= {"NIVODA_BASE_FILTER": "none", "NIVODA_CONCURRENCY": "4"}
    return values


def make(values: Mapping[str, str]) -> Plan:
    """Decide. Raises SettingsError when a warehouse is named that cannot be understood."""
    real = tuple(vendor for vendor in VENDORS if _is_given(vendor, values))
    dsn, origin = _warehouse(values)
    return Plan(
        values=values,
        real=real,
        sandboxed=tuple(vendor for vendor in VENDORS if vendor not in real),
        warehouse_dsn=dsn,
        warehouse_from=origin,
    )


def warehouse_values(dsn: str) -> dict[str, str]:
    """WAREHOUSE_HOST and the rest, as `airflow_settings.yaml` names them."""
    parameters = _parameters(dsn, "the warehouse URL")
    known = {f"WAREHOUSE_{field.upper()}": parameters.pop(name, "") for name, field in LIBPQ_FIELDS.items()}
    return known | {"WAREHOUSE_EXTRA": json.dumps(parameters, sort_keys=True) if parameters else ""}


def connection_dsn(value: str, name: str) -> str:
    """A libpq URL from an AIRFLOW_CONN_ variable, which holds a URL or JSON. Raises SettingsError."""
    if not value.lstrip().startswith("{"):
        split = urlsplit(value)
        return make_conninfo(**_parameters(split._replace(scheme="postgresql").geturl(), name))
    try:
        fields = json.loads(value)
        extra = fields.get("extra") or {}
        options = json.loads(extra) if isinstance(extra, str) else dict(extra)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{name} is neither a URL nor JSON: {error.msg}") from error
    parameters = {parameter: str(fields[field]) for parameter, field in LIBPQ_FIELDS.items() if fields.get(field)}
    return make_conninfo(**parameters, **{key: str(item) for key, item in options.items() if key.startswith("ssl")})


def _is_given(vendor: Vendor, values: Mapping[str, str]) -> bool:
    return bool(values.get(vendor.credential) or values.get(f"AIRFLOW_CONN_{vendor.conn_id.upper()}"))


def _warehouse(values: Mapping[str, str]) -> tuple[str | None, str | None]:
    given = values.get("AIRFLOW_CONN_WAREHOUSE")
    if given:
        return connection_dsn(given, "AIRFLOW_CONN_WAREHOUSE"), "AIRFLOW_CONN_WAREHOUSE"
    for name in WAREHOUSE_VARIABLES:
        value = values.get(name)
        if value:
            return make_conninfo(**_parameters(value, name)), name
    return None, None


def _parameters(dsn: str, name: str) -> dict[str, str]:
    try:
        parameters = conninfo_to_dict(dsn.replace("postgres://", "postgresql://", 1))
    except ProgrammingError as error:
        # The error quotes the text, and the text may hold a password.
        raise SettingsError(f"{name} is not a Postgres URL (postgresql://user:password@host:port/database)") from error
    return {key: str(value) for key, value in parameters.items() if value is not None}


def _location(dsn: str) -> str:
    parameters = _parameters(dsn, "the warehouse URL")
    host = parameters.get("host", "localhost")
    return f"{host}:{parameters.get('port', '5432')}/{parameters.get('dbname', '')}"
