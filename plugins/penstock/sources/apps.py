"""The keyed sources. Adding one = its `KeyedSource`, `include/sql/apps/transform/<name>.sql`, one line here."""

from __future__ import annotations

from penstock.core.errors import error
from penstock.sources import steam
from penstock.sources.keyed import KeyedSource

APP_SOURCES: tuple[KeyedSource, ...] = (steam.STOREFRONT, steam.REVIEWS)


def by_name(name: str) -> KeyedSource:
    """The keyed source of this name. Raises SOURCE_NOT_SUPPORTED."""
    for source in APP_SOURCES:
        if source.name == name:
            return source
    known = ", ".join(source.name for source in APP_SOURCES)
    raise error("SOURCE_NOT_SUPPORTED", f"there is no keyed source {name!r}; there are {known}")
