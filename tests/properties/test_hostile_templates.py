"""Templates of notifications, filled with data that means harm."""

from __future__ import annotations

import random
import re

from penstock.core.slack_messages import FALLBACK_CHARACTERS, MESSAGE_CHARACTERS, SECTION_CHARACTERS, message
from penstock.core.templates import render

TEMPLATES = (
    "Request *{{request_title}}* went from {{old_status}} to {{new_status}} by <@{{slack_id}}>",
    "<https://app.example.com/r/{{request_id}}|{{request_title}}> {{comment}}",
    "<{{url}}|open> {{request_title}}\n> {{comment}}",
    "```{{comment}}``` {{ request_title }} {{unknown}} {{constructor}}",
    "{{request_title}}",
)
HOSTILE = (
    "<!channel>", "<!here>", "<!everyone>", "<!subteam^S1|x>", "<@U0ANNA>", "<#C00ALERTS>", "!channel", "@U0ANNA",
    "#C00ALERTS", "<http://evil.example|https://bank.example>", "&lt;!channel&gt;", "{{request_title}}", "{{comment}}",
    "`", "```", "*", "_", "~", "|", ">", "<", "&", "\x00", "\ud800", "\udfff", "\u202e", "\u2066", "\u200f", "\r", "\n",
    "😀", "ﷺ", "a" * 3100, "<" * 900, "😀" * 1700, " ", "channel>", "<!", "!here|", "^", "\u2028", "\x1b[31m",
    "e\u0301" * 50,
)  # fmt: skip
BROADCAST = re.compile(r"<!(channel|here|everyone|subteam)", re.IGNORECASE)
MENTION = re.compile(r"<(@|#)[^>]*>")
BIDI_OR_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u200e\u200f\ud800-\udfff]")


def test_ten_thousand_hostile_events_ping_nobody_and_stay_within_slack_s_limits() -> None:
    rng = random.Random(7)
    names = ("request_title", "old_status", "new_status", "slack_id", "request_id", "comment", "url", "unknown2")
    for number in range(10_000):
        template = TEMPLATES[number % len(TEMPLATES)]
        data = {name: "".join(rng.choices(HOSTILE, k=rng.randint(0, 5))) for name in names}
        data["slack_id"] = "U0BOSS"  # the template's own mention
        text = render(template, data)
        assert not BROADCAST.search(text)
        assert {found[0] for found in MENTION.finditer(text)} <= {"<@U0BOSS>"}
        assert not BIDI_OR_CONTROL.search(text)
        _assert_within_limits(text, str(number))


def _assert_within_limits(text: str, key: str) -> None:
    built = message(text, key)
    assert 1 <= len(built.blocks) <= 50
    texts = [str(block["text"]["text"]) for block in built.blocks]
    assert all(0 < _units(each) <= SECTION_CHARACTERS and each.strip() for each in texts)
    assert sum(map(_units, texts)) <= MESSAGE_CHARACTERS
    assert 0 < _units(built.text) <= FALLBACK_CHARACTERS
    assert len({block["block_id"] for block in built.blocks}) == len(built.blocks)
    for each in texts:
        # No escaped character and no tag of the template is torn apart at a section's end.
        assert not re.search(r"&(?:a(?:mp?)?|l(?:t)?|g(?:t)?)?$", each)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
