"""The task that drains the notification queue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.observability import stats

from penstock.alerts import Alert, send, send_held
from penstock.core.errors import CATALOGUE, error
from penstock.hooks.slack import SlackAlertHook
from penstock.hooks.warehouse import WarehouseHook
from penstock.operators.platform_etl import WarehouseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from penstock.jobs.notifications import Choice, Courier, Drain, Notice, NotificationStore, Orders

METRICS = "penstock.notifications"
MANUAL_HORIZON_S = 5.0
"""A run that a person started is over when nothing is due for so long."""


class WorkspacePaused(AirflowFailException):
    """Slack refuses the token: nothing can be sent. The alert about it went out when it began."""

    is_reported = True


class DrainNotificationsOperator(WarehouseOperator):
    """Sends what waits in `notification_queue`, and stays for its minute.

    Scheduled runs take the place of the one before; runs that NOTIFY started stay when nobody else is there; runs by
    hand end when the queue is empty. After SIGTERM the messages under way are finished and no others begun.

    :param agency_conn_id: database with the queue; rate limits and breakers are in the warehouse.
    :param slack_conn_id: connection of the workspace's bot.
    """

    def __init__(
        self,
        *,
        agency_conn_id: str = "agency_db",
        slack_conn_id: str = SlackAlertHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agency_conn_id = agency_conn_id
        self.slack_conn_id = slack_conn_id
        self._drain: Drain | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        import psycopg

        from penstock.jobs.notifications import NotificationStore
        from penstock.warehouse.failures import classify

        agency = WarehouseHook(self.agency_conn_id).warehouse
        holder = f"{self.dag_id}/{context['run_id']}"[:200]
        try:
            with self.open_warehouse() as shared:
                store = NotificationStore(agency, holder)
                replayed = self._replay(store, context["params"])
                if context["params"]["dry_run"]:
                    return {"dry_run": True, "would_replay": replayed, "health": _json(store.health())}
                told = self._run(store, self._courier(shared), context)
                send_held()
                return {**told, "replayed": len(replayed)}
        except psycopg.Error as exc:
            # Not chained: the server's DETAIL quotes rows, and the traceback goes into the task's log.
            raise classify(exc) from None
        finally:
            agency.close()

    def on_kill(self) -> None:
        if self._drain is not None:
            self._drain.stop()

    def _courier(self, shared: Any) -> Courier:
        from penstock.jobs.notifications import Courier
        from penstock.warehouse.limits import SharedBreaker

        client = SlackAlertHook(self.slack_conn_id).client
        if client is None:
            raise error("CREDENTIAL_NOT_FOUND", f"the connection `{self.slack_conn_id}` holds no bot token")
        return Courier(client, SharedBreaker(shared))

    def _replay(self, store: NotificationStore, params: Mapping[str, Any]) -> list[str]:
        """The dead letters that the params ask for: back in the queue, or only listed on a dry run."""
        choice = replay_choice(params)
        if choice is None:
            return []
        if params["dry_run"]:
            ids = [str(letter["id"]) for letter in store.dead_letters(choice)]
        else:
            ids = store.replay(choice)
        self.log.info("%d dead letters: %s", len(ids), ", ".join(ids[:20]))
        return ids

    def _run(self, store: NotificationStore, courier: Courier, context: Context) -> dict[str, Any]:
        from penstock.jobs.notifications import Drain

        drain = Drain(store, courier, orders(context), on_notice=lambda notice: tell(context, notice))
        self._drain = drain
        tally = drain.run()
        for event, count in tally.counts.items():
            stats.incr(f"{METRICS}.{event}", count)
        for name in ("depth", "ready", "oldest_seconds", "dead"):
            stats.gauge(f"{METRICS}.{name}", tally.health.get(name) or 0)
        told = tally.as_json()
        self.log.info("%s", told)
        if tally.paused_workspaces:
            raise WorkspacePaused(f"Slack refuses to be written to: {', '.join(tally.paused_workspaces)} is paused")
        return told


def orders(context: Context) -> Orders:
    """How this DAG run is to drain."""
    from penstock.jobs.notifications import Orders

    params = context["params"]
    run_type = context["dag_run"].run_type
    kind = str(getattr(run_type, "value", run_type))
    limit, late_after = params["limit"], float(params["late_after_minutes"]) * 60
    if kind == "manual":
        return Orders(residence=0.0, horizon=MANUAL_HORIZON_S, limit=limit, late_after=late_after)
    return Orders(takes_over=kind == "scheduled", limit=limit, late_after=late_after)


def replay_choice(params: Mapping[str, Any]) -> Choice | None:
    """Which dead letters the params name; None: none."""
    from penstock.jobs.notifications import Choice

    ids, reason, since = params["replay_ids"], params["replay_reason"], params["replay_since"]
    if not ids and not reason and not since:
        return None
    moment = dt.datetime.fromisoformat(since) if since else None
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return Choice(ids=ids or None, reason=reason or None, since=moment)


def tell(context: Context, notice: Notice) -> None:
    """One alert to a person; it goes to Slack directly and never through the queue."""
    values: Mapping[str, Any] = context
    ti = values["ti"]
    send(
        Alert(
            dag_id=str(ti.dag_id),
            task_id=str(ti.task_id),
            code=notice.code,
            message=notice.message,
            remedy=CATALOGUE.get(notice.code, CATALOGUE["UNKNOWN"]).remedy,
            account=notice.about,
            log_url=str(getattr(ti, "log_url", "") or ""),
        )
    )


def _json(health: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in health.items() if not isinstance(value, dt.datetime)}
