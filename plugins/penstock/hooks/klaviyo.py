"""Airflow connection `klaviyo` -> client of the Klaviyo API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from airflow.sdk import Connection

from penstock.hooks.vendor import VendorHook

if TYPE_CHECKING:
    from penstock.clients.credentials import Credentials


class KlaviyoHook(VendorHook):
    """Klaviyo.

    Connection: host = base URL, password = private API key, extra `revision`, `account_id` (as a check).
    An account's own credentials: `api_key`, or `access_token` as the old workers named it.
    """

    conn_name_attr = "klaviyo_conn_id"
    default_conn_name = "klaviyo"
    conn_type = "klaviyo"
    hook_name = "Klaviyo"
    source: ClassVar[str] = "klaviyo"
    needs_account: ClassVar[bool] = False  # a private key belongs to exactly one account
    # https://developers.klaviyo.com/en/reference/api_overview
    default_base_url: ClassVar[str] = "https://a.klaviyo.com"

    def __init__(self, klaviyo_conn_id: str = default_conn_name) -> None:
        super().__init__(klaviyo_conn_id)

    def credentials_of(self, connection: Connection | None, own: Mapping[str, str]) -> Credentials:
        from penstock.clients.credentials import Credentials

        token = own.get("api_key") or own.get("access_token") or (connection.password if connection else None)
        if not token:
            raise self.missing()
        extra = connection.extra_dejson if connection else {}
        return Credentials(base_url=self.base_url(connection), token=token, extra=extra)
