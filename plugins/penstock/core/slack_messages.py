"""A rendered notification as Slack's Block Kit, within Slack's limits.

https://docs.slack.dev/reference/block-kit/blocks/section-block
https://docs.slack.dev/reference/methods/chat.postMessage#truncating
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SECTION_CHARACTERS = 3000
"""Of one section's text."""

MESSAGE_CHARACTERS = 12_000
"""Of all sections together: Slack answers msg_blocks_too_long somewhere above 13,000, which it documents nowhere."""

FALLBACK_CHARACTERS = 3000
"""Of `text`, which phones and screen readers show: Slack advises at most 4,000."""

MAX_BLOCKS = 50
CUT = "\n… _(shortened)_"
EVENT_TYPE = "penstock_notification"
EMPTY = "(empty message)"

# What must not be torn apart: an escaped character, a link or a mention.
_ATOM = re.compile(r"&(?:amp|lt|gt);|<[^<>\n]{1,500}>")


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """The arguments of one chat.postMessage, without the channel."""

    text: str
    blocks: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, Any]


def message(text: str, key: str) -> SlackMessage:
    """The message of a rendered text; `key` finds it again in the channel's history.

    Long texts are split over sections; what is too long for a message is cut and says so.
    """
    sections = _sections(text)
    blocks: list[Mapping[str, Any]] = [
        {
            "type": "section",
            "block_id": block_id(key) if number == 0 else f"{block_id(key)}:{number}",
            # verbatim: Slack makes no link and no mention of what merely looks like one
            "text": {"type": "mrkdwn", "text": part, "verbatim": True},
        }
        for number, part in enumerate(sections)
    ]
    fallback, rest = cut(text.strip() or EMPTY, FALLBACK_CHARACTERS - len(CUT))
    return SlackMessage(fallback + CUT if rest else fallback, blocks, metadata(key))


def metadata(key: str) -> Mapping[str, Any]:
    """The message's metadata: https://docs.slack.dev/messaging/message-metadata."""
    return {"event_type": EVENT_TYPE, "event_payload": {"notification_id": key}}


def block_id(key: str) -> str:
    """The second place of the key, for workspaces that refuse metadata. Slack allows 255 characters."""
    return f"n:{key}"


def plain(text: str, key: str) -> SlackMessage:
    """The message without blocks: what is tried when Slack does not like them."""
    fallback, rest = cut(text.strip() or EMPTY, FALLBACK_CHARACTERS - len(CUT))
    return SlackMessage(fallback + CUT if rest else fallback, (), metadata(key))


def carries(stored: Mapping[str, Any], key: str) -> bool:
    """Whether a message from a channel's history is the one with that key."""
    held = stored.get("metadata")
    payload = held.get("event_payload") if isinstance(held, Mapping) else None
    if isinstance(payload, Mapping) and payload.get("notification_id") == key:
        return True
    blocks = stored.get("blocks")
    return isinstance(blocks, Sequence) and any(
        isinstance(block, Mapping) and block.get("block_id") == block_id(key) for block in blocks
    )


def cut(text: str, limit: int) -> tuple[str, str]:
    """The longest part of `text` that Slack counts as at most `limit` characters, cut where it can be read best, and
    the rest. Slack counts as JavaScript does: an emoji may be two."""
    length = _fitting(text, limit)
    if length >= len(text):
        return text, ""
    place = text.rfind("\n", length // 2, length)
    place = place if place > 0 else text.rfind(" ", length // 2, length)
    place = _before_atom(text, place + 1 if place > 0 else length)
    return text[:place], text[place:]


def _sections(text: str) -> list[str]:
    whole, rest = cut(text.strip() or EMPTY, MESSAGE_CHARACTERS - len(CUT))
    left = whole + CUT if rest else whole
    sections: list[str] = []
    while left and len(sections) < MAX_BLOCKS:
        part, left = cut(left, SECTION_CHARACTERS)
        # A section of blanks alone would be refused.
        if part.strip():
            sections.append(part)
    return sections


def _fitting(text: str, limit: int) -> int:
    """How many of the text's characters fit into `limit` UTF-16 units."""
    if len(text) * 2 <= limit:
        return len(text)
    units = text[:limit].encode("utf-16-le", "surrogatepass")[: limit * 2]
    return len(units.decode("utf-16-le", "ignore"))


def _before_atom(text: str, place: int) -> int:
    """`place`, or the start of the atom that it would tear apart."""
    start = max(0, place - 502)
    for match in _ATOM.finditer(text, start, place + 502):
        if match.start() < place < match.end():
            return match.start() or place
    return place
