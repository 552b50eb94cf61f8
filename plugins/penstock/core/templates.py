"""Templates of notifications: `{{name}}` is replaced by the event's value of that name.

Unknown names stay as they are; what a value holds is never read as a template again. Templates are written by
administrators and may use Slack's markup (https://docs.slack.dev/messaging/formatting-message-text); the values come
from events and may not: in them `&`, `<` and `>` are escaped, so that they can neither ping anybody nor pretend to be
a link.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_VALUE_CHARACTERS = 20_000
"""A longer value is cut: the whole message holds less than that."""

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_BROADCAST = re.compile(r"<!(channel|here|everyone|group|subteam\b)[^<>]*>", re.IGNORECASE)

# Control characters but for tab and line feed, halves of surrogate pairs, and what turns the direction of a line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape(text: str) -> str:
    """The three characters that Slack reads as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clean(text: str) -> str:
    """The text without characters that Slack or a screen would choke on."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _DIRECTION.sub("", _SURROGATE.sub("\ufffd", _CONTROL.sub("", lines)))


def render(template: str, data: Mapping[str, Any], *, allow_broadcast: bool = False) -> str:
    """The template with the values of `data`, as Slack's mrkdwn.

    allow_broadcast: whether `<!channel>` and its like, written out in the template, ping; never those that come from
    data.
    """
    pieces: list[str] = []
    end = 0
    template = clean(template)
    for match in _PLACEHOLDER.finditer(template):
        literal = template[end : match.start()]
        pieces.append(literal)
        end = match.end()
        name = match[1]
        pieces.append(_inserted(data[name], "".join(pieces)) if name in data else match[0])
    pieces.append(template[end:])
    return _without_broadcasts("".join(pieces), template if allow_broadcast else "")


def shown(value: Any) -> str:
    """A value as people read it: text as it is, null as nothing, true and false in words, the rest as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return clean(value[:MAX_VALUE_CHARACTERS])
    return clean(json.dumps(value, ensure_ascii=False, default=str)[:MAX_VALUE_CHARACTERS])


def _inserted(value: Any, before: str) -> str:
    """The escaped value; inside the template's own `<...>` also without what would change that tag's meaning."""
    text = escape(shown(value))
    opened = before.rfind("<")
    if opened <= before.rfind(">"):
        return text
    text = re.sub(r"[|\s]+", " ", text)
    is_first = opened == len(before) - 1
    return text.lstrip(" !@#") if is_first else text


def _without_broadcasts(text: str, allowed_in: str) -> str:
    def defused(match: re.Match[str]) -> str:
        return match[0] if match[0] in allowed_in else f"@{match[1].lower()}"

    return _BROADCAST.sub(defused, text)
