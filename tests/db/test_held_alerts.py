"""Alerts that Slack has not taken: how long they are kept."""

from __future__ import annotations

from penstock.warehouse.held_alerts import HeldAlerts
from penstock.warehouse.session import Warehouse


def test_an_alert_that_slack_has_not_taken_in_a_day_is_not_sent_any_more(warehouse: Warehouse) -> None:
    held = HeldAlerts(warehouse)
    held.hold("metrics_sync", ["of last week"])
    held.hold("notification_drain", ["of yesterday"])
    with warehouse.connection() as connection:
        connection.execute("update penstock.held_alerts set held_at = now() - interval '25 hours'")
    held.hold("notification_drain", ["of today"])
    assert held.waiting() == ["notification_drain"]
    due = held.due("notification_drain")
    assert [alert.body for alert in due] == ["of today"]
    held.forget(due)
    with warehouse.connection() as connection:
        assert connection.execute("select body from penstock.held_alerts").fetchall() == []
