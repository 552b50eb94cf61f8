"""A Klaviyo account with as many Placed Order events as a benchmark asks for.

The stream ends at today's midnight (UTC) and holds a thousand events an hour. Event n is a function of its hour and
its place in it, so that a page is a template with the hour put in: no list is ever held, no row is built by itself.
"""

from __future__ import annotations

import bisect
import datetime as dt
import functools
import itertools
import json
from collections.abc import Iterator

from sandbox.faults import RECORD_ACTIONS, spoil
from sandbox.klaviyo_door import Ask
from sandbox.klaviyo_events import EVENT_SHAPE, span
from sandbox.klaviyo_objects import PLACED_ORDER, metric_id
from sandbox.shops import VendorAccount, digest
from sandbox.state import State

ACCOUNT_ID = "BENCH1"
EVENTS_PER_HOUR = 1000
_STEP = 3600 / EVENTS_PER_HOUR

_HOUR_NUMBER, _HOUR_TEXT = b"\x01HOUR\x01", b"\x01TIME\x01"


def account(state: State) -> VendorAccount:
    """The benchmark's account, in the first shop's zone and currency."""
    return VendorAccount(
        "KLAVIYO",
        state.business.shops[0],
        ACCOUNT_ID,
        "Benchmark",
        {"api_key": f"pk_bench{digest(state.seed, 'bench'):016x}"},
    )


def events(ask: Ask) -> bytes:
    """One page of the stream, as the text of the answer."""
    conditions = ask.conditions()
    ask.includes()
    metric = metric_id(ask.state, ask.account, PLACED_ORDER)
    wanted = next((each.value for each in conditions if each.field == "metric_id"), metric)
    is_descending = ask.sort("-datetime").startswith("-")
    window = span(ask, conditions, ("datetime", "timestamp"))
    total = ask.state.bench_events if wanted == metric else 0
    first_hour = _first_hour(ask.state)
    low, high = (_position(first_hour, total, edge) for edge in (window.start, window.end))
    size, start = ask.page_size(), int(ask.cursor().get("o", 0))
    if is_descending:
        begin, end = max(low, high - start - size), max(low, high - start)
    else:
        begin, end = min(high, low + start), min(high, low + start + size)
    following = {"o": start + size} if start + size < high - low else None
    rows = b",".join(_rows(ask.base_url, metric, first_hour, begin, end, is_descending))
    links = json.dumps(ask.links(following)).encode()
    return b'{"data":[' + _with_extras(ask, rows) + b'],"links":' + links + b"}"


def _first_hour(state: State) -> int:
    """Hours since 1970 at which the stream begins."""
    midnight = state.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    return int(midnight.timestamp()) // 3600 - -(-state.bench_events // EVENTS_PER_HOUR)


def _seconds(first_hour: int, number: int) -> int:
    """When event `number` happened, in seconds since 1970."""
    hour, place = divmod(number, EVENTS_PER_HOUR)
    return (first_hour + hour) * 3600 + int(place * _STEP)


def _position(first_hour: int, total: int, instant: dt.datetime) -> int:
    """How many events lie before the instant."""
    return bisect.bisect_left(range(total), instant.timestamp(), key=lambda number: _seconds(first_hour, number))


def _rows(base_url: str, metric: str, first_hour: int, begin: int, end: int, is_descending: bool) -> Iterator[bytes]:
    """The rows [begin, end), an hour at a time."""
    hours = range(begin // EVENTS_PER_HOUR, -(-end // EVENTS_PER_HOUR))
    for hour in reversed(hours) if is_descending else hours:
        places = (max(begin - hour * EVENTS_PER_HOUR, 0), min(end - hour * EVENTS_PER_HOUR, EVENTS_PER_HOUR))
        number = first_hour + hour
        text = dt.datetime.fromtimestamp(number * 3600, tz=dt.UTC).strftime("%Y-%m-%dT%H")
        template = _template(base_url, metric, places, is_descending)
        stamps = tuple(number * 3600 + int(place * _STEP) for place in range(*places))
        dated = template % (tuple(reversed(stamps)) if is_descending else stamps)
        yield dated.replace(_HOUR_NUMBER, b"%06x" % number).replace(_HOUR_TEXT, text.encode())


@functools.lru_cache(maxsize=64)
def _template(base_url: str, metric: str, places: tuple[int, int], is_descending: bool) -> bytes:
    """The rows of an hour, with holes for the hour and, as %d, for every row's seconds."""
    numbers = range(*places)
    rows = (_row(base_url, metric, place) for place in (reversed(numbers) if is_descending else numbers))
    return b",".join(rows)


@functools.lru_cache(maxsize=2 * EVENTS_PER_HOUR)
def _row(base_url: str, metric: str, place: int) -> bytes:
    identity = f"b0HOUR{place:04x}"
    minutes, seconds = divmod(int(place * _STEP), 60)
    value = round(20 + place * 0.37, 2)
    url = f"{base_url}/api/events/{identity}"
    row = {
        "type": "event",
        "id": identity,
        "attributes": {
            "timestamp": 0,
            "event_properties": {
                "$event_id": f"order-HOUR-{place:04d}",
                "$value": value,
                "$currency_code": "CHF",
                "OrderId": f"HOUR-{place:04d}",
                "Items": ["Classic", "Strap"][: 1 + place % 2],
                "Item Count": 1 + place % 2,
                "Source Name": "web",
                "Is First Order": place % 3 == 0,
            },
            "datetime": f"TIME:{minutes:02d}:{seconds:02d}+00:00",
            "uuid": f"000000b0-{place:04x}-4000-8000-000000HOUR",
        },
        "relationships": {
            name: {
                **({"data": {"type": name, "id": other}} if other else {}),
                "links": {"self": f"{url}/relationships/{name}/", "related": f"{url}/{name}/"},
            }
            for name, other in (("profile", f"01BENCH{place:019d}"), ("metric", metric), ("attributions", ""))
        },
        "links": {"self": f"{url}/"},
    }
    text = json.dumps(row, separators=(",", ":")).encode().replace(b"%", b"%%")
    return (
        text.replace(b'"timestamp":0', b'"timestamp":%d')
        .replace(b"HOUR", _HOUR_NUMBER)
        .replace(b"TIME:", _HOUR_TEXT + b":")
    )


def _with_extras(ask: Ask, rows: bytes) -> bytes:
    """The rows, and on the first page the malformed ones that faults add."""
    rules = [rule for rule in ask.call.faults if rule.action in RECORD_ACTIONS and rule.action != "new_field"]
    if not rules or ask.cursor() or not rows:
        return rows
    sample = json.loads(rows[: rows.index(b',{"type":"event"')] if b',{"type":"event"' in rows else rows)
    extras = itertools.islice(spoil([sample], rules, EVENT_SHAPE), 1, None)
    return b",".join([rows, *(json.dumps(each).encode("ascii") for each in extras)])
