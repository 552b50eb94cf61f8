"""The part of Penstock that pip installs: our connection types, for the connection form of Airflow's UI.

Airflow reads connection types from installed distributions alone, never from `plugins/`. The hook classes
named here live in `plugins/penstock/hooks`, which Airflow puts on its path itself.
"""

from __future__ import annotations

from typing import Any

META_GRAPH_URL = "https://graph.facebook.com"  # https://developers.facebook.com/docs/graph-api/overview
GA4_DATA_URL = (
    "https://analyticsdata.googleapis.com"  # https://developers.google.com/analytics/devguides/reporting/data/v1/rest
)
GOOGLE_ADS_URL = "https://googleads.googleapis.com"  # https://developers.google.com/google-ads/api/rest/overview
STEAM_URL = "https://store.steampowered.com"  # https://partner.steamgames.com/doc/store/getreviews
KLAVIYO_URL = "https://a.klaviyo.com"  # https://developers.klaviyo.com/en/reference/api_overview
NIVODA_URL = "https://integrations.nivoda.net/api/diamonds"

GOOGLE_CALENDAR_URL = "https://www.googleapis.com"  # https://developers.google.com/workspace/calendar/api/v3/reference

PORT = "443"  # the list's button Test needs one, though the base URL does not


def get_provider_info() -> dict[str, Any]:
    """What Airflow's provider manager asks for; the shape is airflow/provider_info.schema.json."""
    return {
        "package-name": "penstock-provider",
        "name": "Penstock",
        "description": "Rate-limited vendor APIs into Postgres: Meta Ads, GA4, Klaviyo, Google Ads, Steam, Nivoda.",
        "connection-types": [_meta_ads(), _ga4(), _klaviyo(), _google_ads(), _steam(), _nivoda(), _google_calendar()],
    }


def _meta_ads() -> dict[str, Any]:
    return _connection_type(
        connection_type="meta_ads",
        hook_name="Meta Ads",
        hook_class_name="penstock.hooks.meta_ads.MetaAdsHook",
        hidden=("login", "schema"),
        labels={"host": "Base URL", "password": "Access token"},
        placeholders={
            "host": META_GRAPH_URL,
            "port": PORT,
            "password": "System user token; accounts may carry tokens of their own",
        },
        fields={
            "app_secret": _secret("App secret", "Optional. With it every call carries appsecret_proof."),
            "app_id": _text("App id", "Optional."),
            "account_id": _text("Ad account id", "Optional. The account that the test button reads, act_ or not."),
        },
    )


def _ga4() -> dict[str, Any]:
    return _connection_type(
        connection_type="ga4",
        hook_name="Google Analytics 4",
        hook_class_name="penstock.hooks.ga4.GA4Hook",
        hidden=("login", "schema"),
        labels={"host": "Base URL", "password": "Service account JSON"},
        placeholders={"host": GA4_DATA_URL, "port": PORT, "password": "The key file's content, in one line"},
        fields={
            "google_conn_id": _text(
                "Google connection", "Optional. A connection of Airflow's Google provider instead."
            ),
            "key_path": _text("Key file path", "Optional. Path of a service account file on the workers."),
            "credential_config_file": _text(
                "Credential configuration file", "Optional. Workload identity federation: a path or the JSON itself."
            ),
            "impersonation_chain": _text("Impersonation chain", "Optional. Service accounts, separated by commas."),
            "account_id": _text("Property id", "Optional. The property that the test button reads."),
        },
    )


def _klaviyo() -> dict[str, Any]:
    return _connection_type(
        connection_type="klaviyo",
        hook_name="Klaviyo",
        hook_class_name="penstock.hooks.klaviyo.KlaviyoHook",
        hidden=("login", "schema"),
        labels={"host": "Base URL", "password": "Private API key"},
        placeholders={"host": KLAVIYO_URL, "port": PORT, "password": "pk_..."},
        fields={"account_id": _text("Account id", "Optional. The six-character id of the account, as a check.")},
    )


def _google_ads() -> dict[str, Any]:
    return _connection_type(
        connection_type="google_ads",
        hook_name="Google Ads",
        hook_class_name="penstock.hooks.google_ads.GoogleAdsHook",
        hidden=("login", "schema"),
        labels={"host": "Base URL", "password": "Developer token"},
        placeholders={"host": GOOGLE_ADS_URL, "port": PORT, "password": "Of the manager account's API Center"},
        fields={
            "refresh_token": _secret("Refresh token", "Of a user with access; accounts may carry their own."),
            "client_id": _text("OAuth client id", "The client that refresh tokens were given to."),
            "client_secret": _secret("OAuth client secret", "Of the same client."),
            "service_account_json": _secret("Service account JSON", "Optional. Instead of a refresh token."),
            "login_customer_id": _text("Login customer id", "Optional. The manager through which access flows."),
            "account_id": _text("Customer id", "Optional. The customer that the test button reads."),
        },
    )


def _google_calendar() -> dict[str, Any]:
    return _connection_type(
        connection_type="google_calendar",
        hook_name="Google Calendar",
        hook_class_name="penstock.hooks.google_calendar.GoogleCalendarHook",
        hidden=("schema",),
        labels={"host": "Base URL", "login": "OAuth client id", "password": "OAuth client secret"},
        placeholders={"host": GOOGLE_CALENDAR_URL, "port": PORT, "login": "....apps.googleusercontent.com"},
        fields={"token_uri": _text("Token URL", "Optional. Where refresh tokens are exchanged.")},
    )


def _steam() -> dict[str, Any]:
    pace = "Optional. Calls/seconds, such as 200/300, where another pace than the public one is allowed."
    return _connection_type(
        connection_type="steam",
        hook_name="Steam",
        hook_class_name="penstock.hooks.steam.SteamHook",
        hidden=("login", "password", "schema"),
        labels={"host": "Base URL"},
        placeholders={"host": STEAM_URL, "port": PORT},
        fields={
            "storefront_limit": _text("Limit of details", pace),
            "reviews_limit": _text("Limit of reviews", pace),
            "pause_seconds": _text("Pause", "Optional. Seconds of silence after a refusal; 30."),
        },
    )


def _nivoda() -> dict[str, Any]:
    return _connection_type(
        connection_type="nivoda",
        hook_name="Nivoda",
        hook_class_name="penstock.hooks.nivoda.NivodaHook",
        hidden=("schema",),
        labels={"host": "Endpoint", "login": "User name", "password": "Password"},
        placeholders={"host": NIVODA_URL, "port": PORT, "login": "me@example.com"},
        fields={
            "requests_per_second": _text("Requests a second", "Of all workers together; 10, at most 25."),
            "count_batch": _text("Counts in one call", "Optional. 1; the vendor may refuse more."),
            "without_enums": _text("Without enumerations", "true on staging, whose values break its own schema."),
            "base_filter": _text("Base filter", "shop (what a shop shows), none, or fields of DiamondQuery as JSON."),
            "key_field": _text("Partition key", "dollar_value or dollar_per_carat."),
            "markup": _text("Markup", "Selling price by vendor's price, such as 1.25."),
        },
    )


def _connection_type(
    *,
    connection_type: str,
    hook_name: str,
    hook_class_name: str,
    hidden: tuple[str, ...],
    labels: dict[str, str],
    placeholders: dict[str, str],
    fields: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    return {
        "connection-type": connection_type,
        "hook-name": hook_name,
        "hook-class-name": hook_class_name,
        "ui-field-behaviour": {
            "hidden-fields": list(hidden),
            "relabeling": labels,
            "placeholders": placeholders,
        },
        "conn-fields": fields,
    }


def _text(label: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"]}}


def _secret(label: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], "format": "password"}}
