"""`retention`: by hand without a word it only counts; meant, it archives, deletes and reports."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import Deployment

pytestmark = [
    pytest.mark.dags,
    pytest.mark.db,
    pytest.mark.e2e,
    # Here Airflow itself runs, and it and its libraries warn about each other.
    pytest.mark.filterwarnings("default"),
]

FILL = """
insert into activity_log (entity_type, entity_id, action, created_at)
select 'request', gen_random_uuid(), 'edited', now() - make_interval(days => %s) from generate_series(1, %s)
"""


def live_and_archived(deployment: Deployment) -> tuple[Any, ...]:
    (row,) = deployment.rows(
        "select (select count(*) from activity_log) as live, (select count(*) from archived_activity_log) as archived"
    )
    return row["live"], row["archived"]


def test_it_counts_then_moves_and_one_bad_policy_holds_up_no_other(deployment: Deployment) -> None:
    deployment.execute(FILL, 100, 30)
    deployment.execute(FILL, 10, 7)
    policies = {"activity_log": (90, 365), "notification_queue": (0, 5), "carrier_pigeons": (1, 2)}
    for entity_type, days in policies.items():
        deployment.execute(
            "insert into retention_policies (entity_type, active_retention_days, archive_retention_days) "
            "values (%s, %s, %s) on conflict (entity_type) do update set active_retention_days = %s",
            entity_type,
            *days,
            days[0],
        )
    conf = {"entity_types": list(policies)}
    dry = deployment.run("retention", run_conf={**conf, "entity_types": ["activity_log"]})
    assert dry.state == "success"
    assert dry.labels["policy.enforce_policy"] == ["activity_log"]
    assert live_and_archived(deployment) == (37, 0)

    real = deployment.run("retention", run_conf={**conf, "dry_run": False})
    assert real.state == "failed"
    states = dict(zip(real.labels["policy.enforce_policy"], real.tasks["policy.enforce_policy"], strict=True))
    assert states == {"activity_log": "success", "notification_queue": "failed"}
    assert real.tries["policy.enforce_policy"] == [1, 1], "a policy is not right at the second try"
    assert live_and_archived(deployment) == (7, 30)
    runs = deployment.rows(
        "select entity_type, status, rows_found, rows_archived from reporting.retention_report where not is_dry_run "
        "order by 1"
    )
    assert [tuple(run.values()) for run in runs] == [
        ("activity_log", "SUCCEEDED", 30, 30),
        ("carrier_pigeons", "UNKNOWN", 0, 0),
        ("notification_queue", "REFUSED", 0, 0),
    ]
    told = " ".join(alert["text"] for alert in deployment.alerts_a_minute_later())
    assert "RETENTION_POLICY_INVALID" in told
    assert "RETENTION_ENTITY_UNKNOWN" in told
