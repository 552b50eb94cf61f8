"""Airflow connection `google_ads` -> client of the Google Ads API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Connection

from penstock.core.errors import error
from penstock.hooks.ga4 import refuse_foreign_token_uri, service_account
from penstock.hooks.vendor import VendorHook

if TYPE_CHECKING:
    from penstock.clients.credentials import Credentials

CLIENT_FIELDS = ("client_id", "client_secret")


class GoogleAdsHook(VendorHook):
    """Google Ads.

    Connection: host = base URL, password = developer token; extra `refresh_token` with `client_id` and
    `client_secret`, or `service_account_json`; `login_customer_id` (the manager through which access flows),
    `api_version`, `token_uri`, `account_id` (the customer that the test button reads).
    An account's own credentials: any of `refresh_token`, `client_id`, `client_secret`, `service_account_json`,
    `access_token`, `developer_token`, `login_customer_id`; what it does not name is the connection's.
    """

    conn_name_attr = "google_ads_conn_id"
    default_conn_name = "google_ads"
    conn_type = "google_ads"
    hook_name = "Google Ads"
    source: ClassVar[str] = "google_ads"
    # https://developers.google.com/google-ads/api/rest/overview
    default_base_url: ClassVar[str] = "https://googleads.googleapis.com"

    def __init__(self, google_ads_conn_id: str = default_conn_name) -> None:
        super().__init__(google_ads_conn_id)

    def credentials_of(self, connection: Connection | None, own: Mapping[str, str]) -> Credentials:
        from penstock.clients.credentials import Credentials

        shared = {name: value for name, value in (connection.extra_dejson if connection else {}).items() if value}
        url = self.base_url(connection)
        developer_token = own.get("developer_token") or (connection.password if connection else None)
        if not developer_token:
            raise self.missing()
        extra: dict[str, Any] = {"developer_token": developer_token}
        for name in ("login_customer_id", "api_version"):
            if value := own.get(name) or shared.get(name):
                extra[name] = value
        # An account's own token is the whole of its access: the connection's would reach another client's customers.
        grant, origin = (own, "the account") if has_grant(own) else (shared, f"connection `{self.conn_id}`")
        if grant.get("refresh_token"):
            extra |= self._refreshable(grant, shared, origin)
        elif grant.get("service_account_json"):
            extra["service_account"] = self._key_file(grant, url, origin, is_own=grant is own)
        elif not grant.get("access_token"):
            raise self.missing()
        return Credentials(base_url=url, token=grant.get("access_token", ""), extra=extra)

    @staticmethod
    def _refreshable(grant: Mapping[str, str], shared: Mapping[str, Any], origin: str) -> dict[str, str]:
        """The refresh token with the OAuth client that it was given to. Where tokens are asked for is the connection's
        affair alone, so that a row of the database cannot send a refresh token elsewhere."""
        found = {name: str(grant.get(name) or shared.get(name) or "") for name in CLIENT_FIELDS}
        missing = [name for name, value in found.items() if not value]
        if missing:
            message = f"{origin} has a refresh token, but nobody names {', '.join(missing)}"
            raise error("CREDENTIAL_INVALID", message, service="google_ads")
        token_uri = {"token_uri": str(shared["token_uri"])} if shared.get("token_uri") else {}
        return {"refresh_token": grant["refresh_token"], **found, **token_uri}

    @staticmethod
    def _key_file(grant: Mapping[str, str], url: str, origin: str, *, is_own: bool) -> dict[str, Any]:
        account = service_account(grant["service_account_json"], f"{origin}'s service_account_json")
        if is_own:
            refuse_foreign_token_uri(account, url)
        return account


def has_grant(fields: Mapping[str, str]) -> bool:
    return any(fields.get(name) for name in ("refresh_token", "service_account_json", "access_token"))
