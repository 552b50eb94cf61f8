from __future__ import annotations

import datetime as dt
import pickle

from penstock.core.errors import (
    CATALOGUE,
    FatalError,
    PenstockError,
    QuotaExhausted,
    RateLimited,
    RetryableError,
    SkippableError,
    error,
)


def test_every_code_has_a_class_and_says_what_a_person_does() -> None:
    assert [code for code, spec in CATALOGUE.items() if not spec.remedy.endswith(".")] == []
    assert [code for code, spec in CATALOGUE.items() if not issubclass(spec.kind, PenstockError)] == []


def test_an_error_has_the_class_of_its_code() -> None:
    failure = error("META_RATE_LIMIT", "slow down", retry_after=30.0)
    assert isinstance(failure, RateLimited)
    assert isinstance(failure, RetryableError)
    assert not isinstance(failure, FatalError | SkippableError)
    assert str(failure) == "META_RATE_LIMIT: slow down"


def test_an_error_survives_the_way_between_processes() -> None:
    reset = dt.datetime(2026, 11, 2, 8, tzinfo=dt.UTC)
    failure = error("GA4_QUOTA_DAY", "used up", resets_at=reset, context={"stream": "traffic"})
    copy = pickle.loads(pickle.dumps(failure))  # noqa: S301  our own bytes
    assert isinstance(copy, QuotaExhausted)
    assert copy.as_json() == failure.as_json()


def test_the_stored_error_begins_with_the_old_workers_keys_and_leaves_out_what_is_unknown() -> None:
    stored = error(
        "KLAVIYO_AUTH_ERROR", "refused", http_status=401, service="clients.klaviyo", task="extract"
    ).as_json()
    assert list(stored)[:4] == ["code", "message", "service", "task"]
    assert stored["operator_action"] == CATALOGUE["KLAVIYO_AUTH_ERROR"].remedy
    assert stored["retryable"] is False
    assert stored["http_status"] == 401
    assert "retry_after_s" not in stored
