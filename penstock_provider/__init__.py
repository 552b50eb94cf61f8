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
KLAVIYO_URL = "https://a.klaviyo.com"  # https://developers.klaviyo.com/en/reference/api_overview

PORT = "443"  # the list's button Test needs one, though the base URL does not


def get_provider_info() -> dict[str, Any]:
    """What Airflow's provider manager asks for; the shape is airflow/provider_info.schema.json."""
    return {
        "package-name": "penstock-provider",
        "name": "Penstock",
        "description": "Rate-limited vendor APIs into Postgres: Meta Ads, Google Analytics 4, Klaviyo.",
        "connection-types": [_meta_ads(), _ga4(), _klaviyo()],
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
