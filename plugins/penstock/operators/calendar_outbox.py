"""The task that drains the calendar outbox."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.observability import stats

from penstock.alerts import Alert, send
from penstock.core.errors import CATALOGUE
from penstock.hooks.google_calendar import GoogleCalendarHook
from penstock.hooks.vault import open_vault
from penstock.hooks.warehouse import WarehouseHook
from penstock.operators.platform_etl import WarehouseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from penstock.jobs.calendar_outbox import Accounts, CalendarStore, Choice, Drain, Notice, Orders
    from penstock.warehouse.session import Warehouse

METRICS = "penstock.calendar"
ALL_REASONS = "ALL"
MANUAL_HORIZON_S = 15.0
"""A run that a person started is over when nothing is due for so long: a little more than Google's limits make a
calendar wait."""

BATCH_VARIABLE = "CALENDAR_SYNC_BATCH_SIZE"
"""The old worker's name for the items of one batch; at most 50."""


class DrainCalendarOutboxOperator(WarehouseOperator):
    """Brings what waits in `sync_outbox` into Google Calendar; the timetable's runs stay for their minute.

    Runs by hand first do what the params ask for (replay, rebuild) and end when nothing is due. After SIGTERM the
    batches under way are finished and no others begun.

    :param calendar_conn_id: database with the outbox; rate limits and breakers are in the warehouse.
    :param google_calendar_conn_id: the OAuth client.
    """

    def __init__(
        self,
        *,
        calendar_conn_id: str = "calendar_db",
        google_calendar_conn_id: str = GoogleCalendarHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.calendar_conn_id = calendar_conn_id
        self.google_calendar_conn_id = google_calendar_conn_id
        self._drain: Drain | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        import psycopg

        from penstock.jobs.calendar_outbox import CalendarStore
        from penstock.warehouse.failures import classify

        params = context["params"]
        calendar = WarehouseHook(self.calendar_conn_id).warehouse
        holder = f"{self.dag_id}/{context['run_id']}"[:200]
        try:
            with self.open_warehouse() as shared:
                store = CalendarStore(calendar, holder, workspace_id=params["workspace"] or None)
                asked = self._do_what_is_asked(store, params)
                if params["dry_run"]:
                    return asked
                return {**asked, **self._run(store, self._accounts(store, shared), context)}
        except psycopg.Error as exc:
            # Not chained: the server's DETAIL quotes rows, and the traceback goes into the task's log.
            raise classify(exc) from None
        finally:
            calendar.close()

    def on_kill(self) -> None:
        """Airflow calls it on SIGTERM, while `execute` runs."""
        if self._drain is not None:
            self._drain.stop()

    def _accounts(self, store: CalendarStore, shared: Warehouse) -> Accounts:
        from airflow.sdk.log import mask_secret

        from penstock.jobs.calendar_outbox import Accounts
        from penstock.warehouse.limits import SharedBreaker, SharedLimiter

        hook = GoogleCalendarHook(self.google_calendar_conn_id)
        # What is further off is left to the queue, which serves other accounts meanwhile.
        limiter, breaker = SharedLimiter(shared, max_wait=2.0), SharedBreaker(shared)
        return Accounts(
            store,
            open_vault(),
            lambda connection_id, token: hook.open_client(connection_id, token, limiter, breaker, mask_secret),
            mask_secret,
        )

    def _do_what_is_asked(self, store: CalendarStore, params: Mapping[str, Any]) -> dict[str, Any]:
        """Replay and rebuild; on a dry run dead letters are only listed."""
        asked: dict[str, Any] = {}
        choice = replay_choice(params)
        if choice is not None and params["dry_run"]:
            letters = store.dead_letters(choice)
            for letter in letters:
                self.log.info("%(id)s %(operation)s %(event_key)s: %(dead_reason)s %(last_error)s", letter)
            asked["would_replay"] = len(letters)
        elif choice is not None:
            asked["replayed"] = len(store.replay(choice))
        if params["rebuild"] and not params["dry_run"]:
            asked["rebuild"] = store.request_rebuild(params["workspace"], f"DAG {self.dag_id}")
        return asked

    def _run(self, store: CalendarStore, accounts: Accounts, context: Context) -> dict[str, Any]:
        from penstock.jobs.calendar_outbox import Delivery, Drain

        delivery = Delivery(store, accounts)
        drain = Drain(store, accounts, delivery, orders(context), on_notice=lambda notice: tell(context, notice))
        self._drain = drain
        tally = drain.run()
        for event, count in tally.counts.items():
            stats.incr(f"{METRICS}.{event}", count)
        stats.gauge(f"{METRICS}.depth", tally.depth)
        stats.gauge(f"{METRICS}.oldest_seconds", tally.oldest_seconds or 0)
        summary = tally.summary()
        self.log.info("%s", summary)
        return summary


def orders(context: Context) -> Orders:
    """How this DAG run is to drain: that of the timetable stays, the others end with the work."""
    from penstock.jobs.calendar_outbox import RESIDENCE_S, Orders

    told = context["dag_run"].run_type
    run_type = str(getattr(told, "value", told))
    size = os.environ.get(BATCH_VARIABLE, "")
    return Orders(
        residence=RESIDENCE_S if run_type == "scheduled" else 0.0,
        horizon=MANUAL_HORIZON_S if run_type == "manual" else 0.0,
        batch=min(max(int(size), 1), 50) if size.isdecimal() else 50,
        late_after=float(context["params"]["late_after_minutes"]) * 60,
    )


def replay_choice(params: Mapping[str, Any]) -> Choice | None:
    """The dead letters that the params name; None: none."""
    from penstock.jobs.calendar_outbox import Choice

    if not params["replay"] and not params["items"]:
        return None
    return Choice(
        item_ids=params["items"] or None,
        reason=None if params["replay"] in (None, ALL_REASONS) else params["replay"],
        workspace_id=params["workspace"] or None,
    )


def tell(context: Context, notice: Notice) -> None:
    """One Slack message; whether Slack takes it changes nothing here."""
    ti = context["ti"]
    remedy = CATALOGUE.get(notice.code, CATALOGUE["UNKNOWN"]).remedy
    message = f"{notice.message} ({notice.about})" if notice.about else notice.message
    send(Alert(ti.dag_id, ti.task_id, notice.code, message, remedy, log_url=str(ti.log_url)))
