"""The connection `steam`: no credential, an optional pace, a client that waits as it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.core.errors import PenstockError
from penstock.hooks.app_sources import APP_HOOKS
from penstock.hooks.steam import SteamHook, pace
from penstock.sources.apps import APP_SOURCES
from penstock.sources.steam import LIMITS
from tests.sandbox_fixture import Sandbox

pytestmark = pytest.mark.dags


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STEAM", json.dumps({"conn_type": "steam", **fields}))


def test_every_vendor_of_a_keyed_source_has_a_hook() -> None:
    assert {source.vendor for source in APP_SOURCES} <= set(APP_HOOKS)


def test_without_a_connection_the_public_store_is_read_at_the_public_pace() -> None:
    hook = SteamHook()
    assert hook.credentials().base_url == "https://store.steampowered.com"
    assert hook.limits() == LIMITS


def test_a_connection_moves_the_store_and_changes_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, host="http://store.example/steam", extra={"storefront_limit": "600/60", "reviews_limit": ""})
    hook = SteamHook()
    assert hook.credentials().base_url == "http://store.example/steam"
    (limit,) = hook.limits()["storefront"]
    assert (limit.count, limit.burst) == (600, 3)
    assert limit.period > 60
    assert hook.limits()["reviews"] == LIMITS["reviews"]


@pytest.mark.parametrize("text", ["fast", "0/60", "10/0", "10", "-1/60"])
def test_a_pace_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(PenstockError) as refused:
        pace(text)
    assert refused.value.code == "CONFIG_INVALID"
    assert text in refused.value.message


def test_the_test_button_reads_one_app(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    connect(monkeypatch, host=sandbox.base_url("steam"))
    is_ok, text = SteamHook().test_connection()
    assert is_ok
    assert text.startswith("Steam's store answers")
