"""The vendors. Adding one = a file here, its transforms, its client, one line in `REGISTRY`."""

from __future__ import annotations

from penstock.core.errors import error
from penstock.sources import ga4, google_ads, klaviyo, meta_ads
from penstock.sources.stream import Source

REGISTRY: tuple[Source, ...] = (meta_ads.SOURCE, ga4.SOURCE, klaviyo.SOURCE)
"""What the platform ETL reads; its DAGs follow it."""

SOURCES: tuple[Source, ...] = (*REGISTRY, google_ads.SOURCE)
"""Every vendor whose accounts can be read."""


def by_name(name: str) -> Source:
    """The source of a registry name (`meta_ads`). Raises SOURCE_NOT_SUPPORTED."""
    for source in SOURCES:
        if source.name == name:
            return source
    raise error("SOURCE_NOT_SUPPORTED", f"there is no source {name!r}")


def by_platform(platform: str) -> Source:
    """The source of a platform (`META`). Raises SOURCE_NOT_SUPPORTED."""
    for source in SOURCES:
        if source.platform == platform:
            return source
    raise error("SOURCE_NOT_SUPPORTED", f"there is no source for platform {platform!r}")
