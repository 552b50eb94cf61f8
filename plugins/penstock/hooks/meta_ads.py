"""Airflow connection `meta_ads` -> client of the Meta Marketing API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from airflow.sdk import Connection

from penstock.hooks.vendor import VendorHook

if TYPE_CHECKING:
    from penstock.clients.credentials import Credentials


class MetaAdsHook(VendorHook):
    """Meta Ads.

    Connection: host = base URL, password = access token of a system user, extra `app_secret` (then every call
    carries appsecret_proof), `api_version`, `account_id` (the account that the test button reads).
    An account's own credentials: `access_token`, `app_secret`.
    """

    conn_name_attr = "meta_ads_conn_id"
    default_conn_name = "meta_ads"
    conn_type = "meta_ads"
    hook_name = "Meta Ads"
    source: ClassVar[str] = "meta_ads"
    # https://developers.facebook.com/docs/graph-api/overview
    default_base_url: ClassVar[str] = "https://graph.facebook.com"

    def __init__(self, meta_ads_conn_id: str = default_conn_name) -> None:
        super().__init__(meta_ads_conn_id)

    def credentials_of(self, connection: Connection | None, own: Mapping[str, str]) -> Credentials:
        from penstock.clients.credentials import Credentials

        extra = dict(connection.extra_dejson) if connection else {}
        own_token = own.get("access_token")
        token = own_token or (connection.password if connection else None)
        if not token:
            raise self.missing()
        # A proof made with another app's secret is refused, so an account's own token goes with its own secret
        # wherever it names one.
        secret = own.get("app_secret") or extra.pop("app_secret", None) or None
        return Credentials(base_url=self.base_url(connection), token=token, secret=secret, extra=extra)
