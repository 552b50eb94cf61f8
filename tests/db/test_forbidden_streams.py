"""A key that lacks the scope of one stream: that stream waits for a person, the others go on as if nothing were."""

from __future__ import annotations

import datetime as dt

import pytest

from penstock.warehouse.session import Warehouse
from tests.pipeline import Outcome, Pipeline
from tests.sandbox_fixture import NOW, Sandbox

STREAMS = ("flows", "lists", "segments")
FORBIDDEN = {"vendor": "klaviyo", "path": "/api/segments", "action": "status", "params": {"status": 403}}


@pytest.fixture
def pipeline(warehouse: Warehouse, sandbox: Sandbox) -> Pipeline:
    opened = Pipeline(warehouse, sandbox.url, now=lambda: sandbox.state.clock.now())
    opened.register(opened.accounts("KLAVIYO")[:1])
    return opened


def sync(pipeline: Pipeline, sandbox: Sandbox, day: int, *, is_forbidden: bool) -> Outcome:
    """The run of that day, counted from the first."""
    sandbox.state.reset()
    sandbox.now(NOW + dt.timedelta(days=day))
    sandbox.faults(*([FORBIDDEN] if is_forbidden else []))
    with pipeline.warehouse.connection() as conn:
        # What the database itself dates is a day older, too.
        conn.execute("update core_warehouse.etl_runs set completed_at = completed_at - interval '1 day'")
        conn.execute("truncate penstock.rate_limits")
    return pipeline.sync("klaviyo", streams=STREAMS)[0]


def cursor_days(pipeline: Pipeline) -> dict[str, int]:
    """Per stream, how many days after the first run its cursor stands."""
    rows = pipeline.fetch(
        "select stream, extract(day from cursor_at - %(now)s)::int from penstock.stream_cursors", now=NOW
    )
    return dict(rows)


def account(pipeline: Pipeline) -> tuple[object, ...]:
    return pipeline.fetch("select state, consecutive_failures, last_error_code from platform_connections")[0]


def test_it_is_told_once_and_stops_no_cursor_but_its_own(pipeline: Pipeline, sandbox: Sandbox) -> None:
    assert sync(pipeline, sandbox, 0, is_forbidden=True).status == "PARTIAL"
    assert account(pipeline) == ("NEEDS_PERMISSION", 1, "SLICES_FAILED")
    assert set(cursor_days(pipeline)) == {"flows", "lists"}

    for day in (1, 2):
        assert sync(pipeline, sandbox, day, is_forbidden=True).status == "SUCCEEDED", "the alert was sent"
        assert account(pipeline) == ("NEEDS_PERMISSION", 0, "KLAVIYO_PERMISSION_DENIED")
        assert cursor_days(pipeline) == {"flows": day, "lists": day}
        told = "select warnings #>> '{0,stream}', warnings #>> '{0,code}' from core_warehouse.etl_runs "
        newest = pipeline.fetch(told + "order by created_at desc limit 1")
        assert newest == [("segments", "KLAVIYO_PERMISSION_DENIED")]
    assert sandbox.answered("klaviyo", status=403) == 1, "one call asks whether it is still forbidden"


def test_once_it_is_allowed_it_is_read_and_the_account_is_well(pipeline: Pipeline, sandbox: Sandbox) -> None:
    sync(pipeline, sandbox, 0, is_forbidden=True)
    assert sync(pipeline, sandbox, 1, is_forbidden=False).status == "SUCCEEDED"
    assert account(pipeline) == ("OK", 0, None)
    assert cursor_days(pipeline) == {"flows": 1, "lists": 1, "segments": 1}
    assert pipeline.fetch("select count(*) > 0 from staging_ingest.klaviyo_segments") == [(True,)]
    assert sync(pipeline, sandbox, 2, is_forbidden=True).status == "PARTIAL", "forbidden again: that is news"


def test_a_run_of_other_streams_does_not_forget_it(pipeline: Pipeline, sandbox: Sandbox) -> None:
    sync(pipeline, sandbox, 0, is_forbidden=True)
    assert pipeline.sync("klaviyo", streams=["lists"])[0].status == "SUCCEEDED"
    assert account(pipeline)[0] == "NEEDS_PERMISSION"
    assert sync(pipeline, sandbox, 1, is_forbidden=True).status == "SUCCEEDED"


def test_a_stream_that_only_failed_still_holds_all_cursors(pipeline: Pipeline, sandbox: Sandbox) -> None:
    sandbox.faults(FORBIDDEN, {"vendor": "klaviyo", "path": "/api/lists", "action": "html"})
    assert pipeline.sync("klaviyo", streams=STREAMS)[0].status == "PARTIAL"
    assert cursor_days(pipeline) == {}


def test_days_of_another_stream_that_were_split_beside_it_are_read(pipeline: Pipeline, sandbox: Sandbox) -> None:
    """The halves are slices of their own, made while the forbidden one was refused: they are read in the same run."""
    pipeline.register(pipeline.accounts("META")[:1])
    no_ads = {"vendor": "meta", "path": "/ads$", "action": "status", "params": {"status": 403}}
    too_much = {"vendor": "meta", "path": "/insights$", "action": "too_much_data", "params": {"above_days": 20}}
    sandbox.faults(no_ads, too_much)
    october = {"job_type": "HISTORICAL", "window_start": dt.date(2026, 10, 1), "window_end": dt.date(2026, 10, 31)}
    for status in ("PARTIAL", "SUCCEEDED"):
        run = pipeline.sync("meta_ads", streams=["ads", "campaigns", "insights_account"], **october)[0]
        assert run.status == status
        days = "select count(*) from core_warehouse.fct_meta_daily where level = 'ACCOUNT'"
        assert pipeline.fetch(days) == [(30,)]
