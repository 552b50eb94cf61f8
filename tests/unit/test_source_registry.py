from __future__ import annotations

import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from penstock.core.errors import ConfigurationError
from penstock.sources import REGISTRY, by_name, by_platform
from penstock.sources.stream import Account, Kind, Slice, Stream

TRANSFORMS = Path(__file__).parents[2] / "include/sql/platform_etl/transform"
ACCOUNT = Account(
    "c0", "shop", "1", time_zone="America/New_York", facts={"metrics": {"Placed Order": "M1", "Opened Email": "M2"}}
)
STREAMS = [(source, stream) for source in REGISTRY for stream in source.streams]
WHOLE = ("ga4", "totals")  # one call answers it


def window(stream: Stream, **params: str) -> Slice:
    if stream.kind is Kind.ENTITY:
        return Slice(0, stream.name, params=params)
    start = dt.datetime(2026, 10, 30, tzinfo=ZoneInfo("America/New_York"))
    return Slice(0, stream.name, start, start + dt.timedelta(days=3), params)


def test_sources_are_found_by_name_and_platform() -> None:
    known = {("meta_ads", "META"), ("ga4", "GA4"), ("klaviyo", "KLAVIYO")}
    assert known <= {(source.name, source.platform) for source in REGISTRY}
    for source in REGISTRY:
        assert by_name(source.name) is source
        assert by_platform(source.platform) is source


def test_an_unknown_source_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigurationError):
        by_name("myspace_ads")
    with pytest.raises(ConfigurationError):
        by_platform("MYSPACE")


def test_stream_names_are_unique_and_every_transform_has_its_file() -> None:
    for source in REGISTRY:
        names = [stream.name for stream in source.streams]
        assert len(names) == len(set(names))
        assert [name for name in source.transforms if not (TRANSFORMS / f"{name}.sql").is_file()] == []


def test_every_stream_asks_a_limited_family_and_says_its_page_size() -> None:
    for source, stream in STREAMS:
        variants = stream.variants(ACCOUNT)
        assert variants
        for params in variants:
            request = stream.request(ACCOUNT, window(stream, **params), None)
            assert request.limit in source.limits
            assert "None" not in repr((request.path, request.params, request.body or {}))
            smaller = stream.request(ACCOUNT, window(stream, **params).with_page_size(7), None)
            assert (stream, smaller != request) == (stream, stream.page_size > stream.min_page_size)


def test_a_page_token_changes_the_request() -> None:
    for source, stream in STREAMS:
        params = stream.variants(ACCOUNT)[0]
        first = stream.request(ACCOUNT, window(stream, **params), None)
        changes = stream.request(ACCOUNT, window(stream, **params), "77") != first
        assert (source.name, stream.name, changes) == (source.name, stream.name, (source.name, stream.name) != WHOLE)
