"""Templates of notifications: the old worker's semantics, and data that means harm."""

from __future__ import annotations

import random
import re

import pytest

from penstock.core.slack_messages import FALLBACK_CHARACTERS, MESSAGE_CHARACTERS, SECTION_CHARACTERS, message
from penstock.core.templates import clean, escape, render

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


@pytest.mark.parametrize(
    ("template", "data", "text"),
    [
        ("Hello {{name}}", {"name": "Anna"}, "Hello Anna"),
        ("{{ name }}", {"name": "Anna"}, "Anna"),
        ("{{name}} {{unknown}}", {"name": "Anna"}, "Anna {{unknown}}"),
        ("{{constructor}} {{__class__}}", {}, "{{constructor}} {{__class__}}"),
        ("{{a.b}}", {"a": {"b": 1}}, "{{a.b}}"),
        ("{{n}} {{f}} {{t}} {{z}}.", {"n": 0, "f": 1.5, "t": True, "z": None}, "0 1.5 true ."),
        ("{{list}}", {"list": ["a", {"b": 1}]}, '["a", {"b": 1}]'),
        ("{{a}}", {"a": "{{b}}", "b": "never"}, "{{b}}"),
        ("{{a}}", {"a": "x < y & z > 0"}, "x &lt; y &amp; z &gt; 0"),
        ("<https://x.example/{{id}}|{{t}}>", {"id": "1|2", "t": "a|b\nc"}, "<https://x.example/1 2|a b c>"),
        ("<{{a}}>", {"a": "!channel"}, "<channel>"),
        ("<!{{a}}>", {"a": "channel"}, "@channel"),
        ("no placeholder", {"a": 1}, "no placeholder"),
        ("", {"a": 1}, ""),
    ],
)
def test_names_are_replaced_once_and_unknown_ones_stay(template: str, data: dict[str, object], text: str) -> None:
    assert render(template, data) == text


def test_a_broadcast_pings_only_where_the_configuration_allows_it_and_the_template_spells_it_out() -> None:
    template = "<!channel> {{x}}"
    assert render(template, {"x": "<!here>"}) == "@channel &lt;!here&gt;"
    assert render(template, {"x": "<!here>"}, allow_broadcast=True) == "<!channel> &lt;!here&gt;"
    assert render("<!{{x}}>", {"x": "everyone"}, allow_broadcast=True) == "@everyone"


def test_characters_that_no_screen_should_get_are_taken_out() -> None:
    assert clean("a\x00b\ud800c\u202ed\r\ne\x07") == "ab\ufffdcd\ne"
    assert escape("<&>") == "&lt;&amp;&gt;"


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
