"""The notification queue in the demo: rows that strangers queued in every state the old worker knew, and what people
then see in the sandbox's Slack."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import requests
from psycopg.rows import TupleRow

from stack.parts.part import Ground, PartResult

Connection = psycopg.Connection[TupleRow]

CHANNELS = 20
ROWS_PER_CHANNEL = 15
TIMEOUT = 60  # seconds
NAMESPACE = uuid.UUID("0b9e5f0a-54e7-4b62-8d4c-1f3a5d6c7e88")

_PROFILE = """
insert into public.profiles (id, first_name, slack_id) values (%(id)s, %(name)s, %(slack_id)s)
on conflict (id) do nothing
"""
_CONFIG = """
insert into public.notification_config (id, entity_type, event_type, channel_id, user_id, is_active, template)
values (%(id)s, 'request', 'status_change', %(channel)s, %(person)s, %(is_active)s, %(template)s)
on conflict (id) do nothing
"""
_ROW = """
insert into public.notification_queue (
    id, config_id, entity_id, entity_type, event_data, attempts, is_processed, next_attempt_at
) values (
    %(id)s, %(config)s, %(id)s, 'request', %(data)s, %(attempts)s, %(is_processed)s,
    now() + make_interval(secs => %(later)s)
)
on conflict (id) do nothing
"""
# What a worker leaves that dies between the post and its acknowledgement: nobody holds the row any more.
_STUCK = """
update public.notification_queue
set state = 'sending', sending_at = now() - interval '10 minutes', attempts = 1
where id = %(id)s and state = 'queued'
"""
_OPEN = """
select count(*) from public.notification_queue where id = any(%(ids)s) and state in ('queued', 'sending')
"""
_ENDED = """
select id::text, state, error_class from public.notification_queue where id = any(%(ids)s)
"""
_TEMPLATE = "Request *{{request_title}}* went from {{old_status}} to {{new_status}}"


@dataclass(frozen=True, slots=True)
class Wish:
    """A row, and what is to become of it: the channel it shows in (None: nowhere), or the reason why not."""

    name: str
    config: str
    expected: str
    channel: str | None = None
    title: Any = "Spring campaign"
    attempts: int = 0
    later: float = 0.0
    is_processed: bool = False
    is_stuck: bool = False

    def identity(self, since: str) -> uuid.UUID:
        """Its own in every demo: what an earlier one sent stays sent."""
        return uuid.uuid5(NAMESPACE, f"{since} {self.name}")


def channel(number: int) -> str:
    return f"C1DEMO{number:02d}"


def wishes() -> list[Wish]:
    """A backlog over many channels, and one row of every kind."""
    backlog = [
        Wish(f"backlog {number} {place}", f"channel {number}", "sent", channel(number), f"{place} <!channel>")
        for place in range(ROWS_PER_CHANNEL)
        for number in range(CHANNELS)
    ]
    return [
        *backlog,
        Wish("tried before", "channel 0", "sent", channel(0), attempts=3),
        Wish("for later", "channel 1", "sent", channel(1), later=10.0),
        Wish("stuck", "channel 2", "sent", channel(2), is_stuck=True),
        Wish("long", "channel 3", "sent", channel(3), "long text " * 4000),
        Wish("person", "person", "sent", "D00ANNA"),
        Wish("processed", "channel 4", "sent", is_processed=True),
        Wish("given up", "channel 4", "NOTIFICATION_ATTEMPTS_EXHAUSTED", attempts=5),
        Wish("nowhere", "nowhere", "NOTIFICATION_NO_DESTINATION"),
        Wish("inactive", "inactive", "NOTIFICATION_CONFIG_INACTIVE"),
    ]


class Notifications:
    """Every row is seen once in its place, or has ended with its reason."""

    name = "notifications"
    dag_id = "notification_drain"
    params: Mapping[str, Any] | None = None
    is_always_triggered = False

    def prepare(self, ground: Ground) -> None:
        with psycopg.connect(ground.warehouse_dsn, autocommit=True) as connection, connection.transaction():
            _write_configurations(connection)
            for wish in wishes():
                _write(connection, wish, _since(ground))

    def is_over(self, ground: Ground) -> bool:
        with psycopg.connect(ground.warehouse_dsn, autocommit=True) as connection:
            row = connection.execute(_OPEN, {"ids": _ids(ground)}).fetchone()
        return row == (0,)

    def result(self, ground: Ground) -> PartResult:
        seen = requests.get(f"{ground.sandbox_url}/sandbox/slack/seen", timeout=TIMEOUT).json()
        with psycopg.connect(ground.warehouse_dsn, autocommit=True) as connection:
            rows = connection.execute(_ENDED, {"ids": _ids(ground)}).fetchall()
        ended = {str(row[0]): str(row[2] or row[1]) for row in rows}
        problems = [
            *_wrong_ends(wishes(), _since(ground), ended),
            *_wrong_messages(wishes(), _since(ground), seen),
        ]
        sent = sum(end == "sent" for end in ended.values())
        data = {
            "rows": len(ended),
            "sent": sent,
            "seen_twice": len(seen["repeated"]),
            "channels": CHANNELS,
            "ended_otherwise": sorted(end for end in ended.values() if end != "sent"),
        }
        lines = [
            f"{len(ended)} rows of strangers: {sent} sent over {CHANNELS} channels and a direct message, "
            f"{len(seen['repeated'])} seen twice, {len(ended) - sent} ended with their reason"
        ]
        return PartResult(data, lines, problems)


def _since(ground: Ground) -> str:
    return ground.since.isoformat()


def _ids(ground: Ground) -> list[uuid.UUID]:
    return [wish.identity(_since(ground)) for wish in wishes()]


def _config_id(name: str) -> uuid.UUID:
    return uuid.uuid5(NAMESPACE, f"config {name}")


def _write_configurations(connection: Connection) -> None:
    anna = uuid.uuid5(NAMESPACE, "anna")
    known = connection.execute("select id from public.profiles where slack_id = 'U0ANNA'").fetchone()
    person = known[0] if known else anna
    if known is None:
        connection.execute(_PROFILE, {"id": anna, "name": "Anna", "slack_id": "U0ANNA"})
    places: dict[str, dict[str, Any]] = {
        f"channel {number}": {"channel": channel(number)} for number in range(CHANNELS)
    }
    places |= {"person": {"person": person}, "nowhere": {}, "inactive": {"channel": channel(0), "is_active": False}}
    for name, place in places.items():
        defaults = {"channel": None, "person": None, "is_active": True, "template": _TEMPLATE}
        connection.execute(_CONFIG, {"id": _config_id(name), **defaults, **place})


def _write(connection: Connection, wish: Wish, since: str) -> None:
    data = {"request_title": wish.title, "old_status": "new_request", "new_status": "completed"}
    parameters = {
        "id": wish.identity(since),
        "config": _config_id(wish.config),
        "data": json.dumps(data),
        "attempts": wish.attempts,
        "is_processed": wish.is_processed,
        "later": wish.later,
    }
    connection.execute(_ROW, parameters)
    if wish.is_stuck:
        connection.execute(_STUCK, parameters)


def _wrong_ends(wished: Sequence[Wish], since: str, ended: Mapping[str, str]) -> list[str]:
    return [
        f"row {wish.name!r} is {ended.get(str(wish.identity(since)))}, expected {wish.expected}"
        for wish in wished
        if ended.get(str(wish.identity(since))) != wish.expected
    ]


def _wrong_messages(wished: Sequence[Wish], since: str, seen: Mapping[str, Any]) -> list[str]:
    """Messages that are missing, twice or out of their channel's order."""
    problems = [f"message {key} is there {count} times" for key, count in seen["repeated"].items()]
    places: dict[str, list[str]] = {}
    for wish in wished:
        if wish.channel is not None:
            places.setdefault(wish.channel, []).append(str(wish.identity(since)))
    for place, expected in places.items():
        found = [key for key in seen["channels"].get(place, ()) if key in set(expected)]
        if sorted(found) != sorted(expected):
            problems.append(f"{place} shows {len(found)} of {len(expected)} messages")
        # The one that was for later comes when its time has come.
        elif place != channel(1) and found != expected:
            problems.append(f"{place} shows its messages out of order")
    return problems
