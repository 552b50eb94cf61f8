"""Alerts on their way to Slack: one message a minute and DAG, whatever fails meanwhile; what it holds back is told
with the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.sources.stream import Limit
from penstock.warehouse.limits import SharedLimiter
from penstock.warehouse.session import Warehouse

PACE = Limit(1, 60.0)
KEPT = "1 day"
"""What Slack has not taken by then is in the logs alone: old failures would bury those of today."""

_HOLD = "insert into penstock.held_alerts (dag_id, body) select %(dag_id)s, unnest(%(bodies)s::text[])"
_IS_KEPT = f"held_at >= now() - interval '{KEPT}'"
_READ = f"""
select alert_id, body from penstock.held_alerts where dag_id = %(dag_id)s and {_IS_KEPT} order by alert_id
"""  # noqa: S608 - a constant
_FORGET = f"""
delete from penstock.held_alerts where alert_id = any(%(ids)s::bigint[]) or not {_IS_KEPT}
"""  # noqa: S608 - a constant
_WAITING = f"select distinct dag_id from penstock.held_alerts where {_IS_KEPT} order by 1"  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class Held:
    """An alert that Slack has not taken yet."""

    alert_id: int
    body: str


class HeldAlerts:
    """The table `penstock.held_alerts`. Raises psycopg.Error when the warehouse is away."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse

    def hold(self, dag_id: str, bodies: Sequence[str]) -> None:
        with self._warehouse.connection() as connection:
            connection.execute(_HOLD, {"dag_id": dag_id, "bodies": list(bodies)})

    def due(self, dag_id: str) -> list[Held]:
        """All of the DAG's alerts when its minute is over, the caller then has the next one; else none."""
        limiter = SharedLimiter(self._warehouse, max_wait=0.0)
        if limiter.reserve(f"alerts:{dag_id}", [PACE]) > 0.0:
            return []
        with self._warehouse.connection() as connection:
            return [Held(*row) for row in connection.execute(_READ, {"dag_id": dag_id}).fetchall()]

    def forget(self, alerts: Sequence[Held]) -> None:
        """Slack has taken them. Before this is committed they may go out once more, never be lost."""
        with self._warehouse.connection() as connection:
            connection.execute(_FORGET, {"ids": [alert.alert_id for alert in alerts]})

    def waiting(self) -> list[str]:
        """The DAGs of which something is held."""
        with self._warehouse.connection() as connection:
            return [str(row[0]) for row in connection.execute(_WAITING).fetchall()]
