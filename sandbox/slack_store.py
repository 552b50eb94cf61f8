"""What the Slack sandbox knows: channels, people, messages, switches."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sandbox.state import State

CHANNELS: Mapping[str, str] = {
    "C00ALERTS": "alerts",
    "C0REPORTS": "reports",
    "C0ARCHIVED": "old-alerts",
    "C0PRIVATE": "not-invited",
    "C0PUBLIC": "can-be-joined",
}
ARCHIVED, NOT_INVITED, JOINABLE = "C0ARCHIVED", "C0PRIVATE", "C0PUBLIC"
USERS: Mapping[str, str] = {"U0ANNA": "anna@example.com", "U0OMAR": "omar@example.com"}

_MANY_CHANNELS = re.compile(r"C1[0-9A-Z]{3,8}")
_MANY_USERS = re.compile(r"U1[0-9A-Z]{3,8}")


@dataclass(slots=True)
class Switches:
    """How the workspace behaves; a door changes them.

    channel_seconds: a channel takes one message in so many. history_lag: seconds until a message shows in the
    history. history_error: what conversations.history is refused with. history_per_minute: calls of it (tier 3).
    workspace_per_minute: messages a minute of all channels together, 0 for no such limit (Slack publishes none).
    errors: channel -> the error string that its messages are refused with.
    """

    channel_seconds: float = 1.0
    history_lag: float = 0.0
    history_error: str = ""
    history_per_minute: int = 50
    workspace_per_minute: int = 0
    errors: dict[str, str] = field(default_factory=dict)

    def change(self, values: Mapping[str, Any]) -> None:
        """Set some. Raises ValueError for an unknown name."""
        unknown = set(values) - {each.name for each in fields(self)}
        if unknown:
            raise ValueError(f"no such switch: {', '.join(sorted(unknown))}")
        for name, value in values.items():
            setattr(self, name, value)


class Store:
    """The messages of one workspace, in the order in which Slack took them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0.0
        self._by_channel: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._all: list[dict[str, Any]] = []
        self.switches = Switches()
        self.joined: set[str] = set()

    def add(self, channel: str, message: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Keep a message; it gets its time stamp, which no other has."""
        with self._lock:
            self._last = max(now, self._last + 1e-6)
            stored = {**message, "ts": f"{self._last:.6f}"}
            self._by_channel[channel].append(stored)
            self._all.append({"channel": channel, **stored})
        return stored

    def messages(self) -> list[dict[str, Any]]:
        with self._lock:
            return list(self._all)

    def history(self, channel: str, oldest: float, latest: float) -> list[dict[str, Any]]:
        """A channel's messages between two instants, newest first."""
        with self._lock:
            held = self._by_channel[channel][::-1]
        return [each for each in held if oldest < float(each["ts"]) < latest]


def store_of(state: State) -> Store:
    """The workspace's store; a new one after a reset."""
    store: Store = state.remembered("slack").setdefault("store", Store())
    return store


def channel_of(wanted: str) -> str | None:
    """The id of a channel that is named by id or by name; a user's id is the direct message with them."""
    if is_user(wanted):
        return direct(wanted)
    if wanted in CHANNELS or _MANY_CHANNELS.fullmatch(wanted) or is_direct(wanted):
        return wanted
    return next((identity for identity, name in CHANNELS.items() if name == wanted.removeprefix("#")), None)


def is_user(user: str) -> bool:
    return user in USERS or _MANY_USERS.fullmatch(user) is not None


def direct(user: str) -> str:
    return f"D0{user[1:]}"


def is_direct(channel: str) -> bool:
    return channel.startswith("D0") and is_user(f"U{channel[2:]}")


def user_by_email(email: str) -> str | None:
    return next((user for user, address in USERS.items() if address == email.lower()), None)


MAX_TEXT = 40_000
"""Longer texts are refused (msg_too_long)."""

MAX_BLOCKS = 50
MAX_BLOCK_TEXT = 13_200
"""Of all blocks together; observed, not documented: https://github.com/slackapi/bolt-js/issues/2509"""

MAX_METADATA = 8_000
_TEXT_LIMITS = {"section": 3000, "header": 150}


def message_error(arguments: Mapping[str, Any]) -> str | None:
    """What Slack refuses a message for; None: it is good."""
    text, blocks = str(arguments.get("text", "")), arguments.get("blocks") or []
    if not text and not blocks and not arguments.get("attachments"):
        return "no_text"
    if len(text) > MAX_TEXT:
        return "msg_too_long"
    return _blocks_error(blocks) or _metadata_error(arguments.get("metadata"))


def _blocks_error(blocks: Any) -> str | None:
    if not isinstance(blocks, list) or any(not isinstance(block, dict) or "type" not in block for block in blocks):
        return "invalid_blocks_format"
    ids = [block["block_id"] for block in blocks if "block_id" in block]
    is_bad = len(blocks) > MAX_BLOCKS or len(set(ids)) != len(ids) or any(len(each) > 255 for each in ids)
    if is_bad or any(_is_bad(block) for block in blocks):
        return "invalid_blocks"
    return "msg_blocks_too_long" if sum(map(_units, map(_text, blocks))) > MAX_BLOCK_TEXT else None


def _is_bad(block: Mapping[str, Any]) -> bool:
    """A section whose text is blank or over 3,000 characters; a header over 150."""
    limit = _TEXT_LIMITS.get(str(block["type"]))
    if limit is None or not isinstance(block.get("text"), Mapping):
        return False
    return not _text(block).strip() or _units(_text(block)) > limit


def _text(block: Mapping[str, Any]) -> str:
    text = block.get("text")
    return str(text.get("text", "")) if isinstance(text, Mapping) else ""


def _units(text: str) -> int:
    """Characters as JavaScript counts them."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _metadata_error(metadata: Any) -> str | None:
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("event_type"), str):
        return "invalid_metadata_format"
    if not isinstance(metadata.get("event_payload"), Mapping):
        return "invalid_metadata_schema"
    return "metadata_too_large" if len(str(metadata)) > MAX_METADATA else None


def keys(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The senders' own keys of the messages, in their order, as their metadata tell."""
    found: list[str] = []
    for each in messages:
        payload = each.get("metadata", {}).get("event_payload", {})
        found.append(str(next(iter(payload.values()), "")))
    return found
