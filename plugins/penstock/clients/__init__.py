"""The vendors' protocols, one client per source."""

from __future__ import annotations

from penstock.clients.ga4 import GA4Client
from penstock.clients.google_ads import GoogleAdsClient
from penstock.clients.klaviyo import KlaviyoClient
from penstock.clients.meta_ads import MetaClient
from penstock.clients.transport import VendorClient

CLIENTS: dict[str, type[VendorClient]] = {
    MetaClient.source: MetaClient,
    GA4Client.source: GA4Client,
    KlaviyoClient.source: KlaviyoClient,
    GoogleAdsClient.source: GoogleAdsClient,
}
