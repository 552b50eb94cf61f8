"""Recurrence rules as Google Calendar takes them: lines RRULE, RDATE and EXDATE of RFC 5545. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from penstock.core.errors import PenstockError, error

MAX_LINE = 1000

_LINE = re.compile(r"(RRULE|EXRULE|RDATE|EXDATE)((?:;[A-Z-]+=[^:;]+)*):(.+)", re.ASCII)
_DATES = re.compile(r"\d{8}(T\d{6}Z?)?(,\d{8}(T\d{6}Z?)?)*", re.ASCII)
_FREQUENCIES = frozenset({"DAILY", "WEEKLY", "MONTHLY", "YEARLY"})
"""Google has no event that repeats more often than once a day."""


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: compiled.fullmatch(value) is not None


def _numbers(lowest: int, highest: int) -> Callable[[str], bool]:
    """A list of whole numbers; negative ones count from the end, nought is none."""

    def check(value: str) -> bool:
        parts = value.split(",")
        if not all(re.fullmatch(r"[+-]?\d{1,4}", part, re.ASCII) for part in parts):
            return False
        return all(lowest <= abs(int(part)) <= highest for part in parts)

    return check


# https://www.rfc-editor.org/rfc/rfc5545#section-3.3.10
_PARTS: Mapping[str, Callable[[str], bool]] = {
    "FREQ": _FREQUENCIES.__contains__,
    "UNTIL": _matches(r"\d{8}(T\d{6}Z?)?"),
    "COUNT": _matches(r"[1-9]\d{0,4}"),
    "INTERVAL": _matches(r"[1-9]\d{0,4}"),
    "BYDAY": _matches(r"([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU)(,([+-]?\d{1,2})?(MO|TU|WE|TH|FR|SA|SU))*"),
    "BYHOUR": _matches(r"([01]?\d|2[0-3])(,([01]?\d|2[0-3]))*"),
    "BYMINUTE": _matches(r"[0-5]?\d(,[0-5]?\d)*"),
    "BYSECOND": _matches(r"[0-5]?\d(,[0-5]?\d)*"),
    "BYMONTHDAY": _numbers(1, 31),
    "BYYEARDAY": _numbers(1, 366),
    "BYWEEKNO": _numbers(1, 53),
    "BYMONTH": _matches(r"(0?[1-9]|1[0-2])(,(0?[1-9]|1[0-2]))*"),
    "BYSETPOS": _numbers(1, 366),
    "WKST": _matches(r"MO|TU|WE|TH|FR|SA|SU"),
}


def check_rule(line: Any) -> str:
    """The line as it is sent: upper case, with its name; a bare rule is taken for an RRULE.

    Raises CALENDAR_EVENT_INVALID.
    """
    if not isinstance(line, str) or not line.strip() or len(line) > MAX_LINE:
        raise _refused(line, "is no text")
    text = line.strip()
    if text[:5].upper() == "FREQ=":
        text = f"RRULE:{text}"
    if text[:6].upper() in ("RRULE:", "EXRULE"):
        text = text.upper()  # the names of time zones in the other lines have small letters
    match = _LINE.fullmatch(text)
    if match is None:
        raise _refused(line, "is no RRULE, RDATE or EXDATE")
    name, parameters, value = match.groups()
    if name in ("RRULE", "EXRULE"):
        _check_parts(line, value)
    elif not _DATES.fullmatch(value):
        raise _refused(line, "lists no dates")
    return f"{name}{parameters}:{value}"


def _check_parts(line: str, value: str) -> None:
    seen: set[str] = set()
    for part in value.split(";"):
        key, equals, content = part.partition("=")
        if not equals or key not in _PARTS or key in seen:
            raise _refused(line, f"has a part {part[:40]!r} that is unknown or there twice")
        if not _PARTS[key](content):
            raise _refused(line, f"has no sense in {part[:40]!r}")
        seen.add(key)
    if "FREQ" not in seen:
        raise _refused(line, "names no FREQ")
    if {"COUNT", "UNTIL"} <= seen:
        raise _refused(line, "has both COUNT and UNTIL")


def _refused(line: Any, why: str) -> PenstockError:
    return error("CALENDAR_EVENT_INVALID", f"the recurrence {str(line)[:80]!a} {why}")
