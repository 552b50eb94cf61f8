"""Rendered texts as Block Kit."""

from __future__ import annotations

import pytest

from penstock.core.slack_messages import (
    CUT,
    FALLBACK_CHARACTERS,
    SECTION_CHARACTERS,
    SlackMessage,
    carries,
    cut,
    message,
    metadata,
    plain,
)


def sections(text: str) -> list[str]:
    return [str(block["text"]["text"]) for block in message(text, "k").blocks]


def test_a_short_text_is_one_section_with_the_key_in_both_its_places() -> None:
    built = message("*hello*", "42")
    assert built.text == "*hello*"
    assert built.metadata == {"event_type": "penstock_notification", "event_payload": {"notification_id": "42"}}
    (block,) = built.blocks
    assert block["block_id"] == "n:42"
    assert block["text"] == {"type": "mrkdwn", "text": "*hello*", "verbatim": True}


def test_a_long_text_is_split_at_lines_and_nothing_is_lost() -> None:
    text = "\n".join(f"line {number} " + "x" * 80 for number in range(100))
    parts = sections(text)
    assert len(parts) > 1
    assert "".join(parts) == text
    assert all(len(part) <= SECTION_CHARACTERS for part in parts)
    assert all(part.endswith("\n") for part in parts[:-1])


def test_what_is_too_long_for_a_message_says_so() -> None:
    parts = sections("word " * 10_000)
    assert parts[-1].endswith(CUT)
    assert sum(map(len, parts)) <= 12_000


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_an_empty_text_still_makes_a_message(text: str) -> None:
    assert sections(text) == ["(empty message)"]
    assert plain(text, "k").text == "(empty message)"


@pytest.mark.parametrize("atom", ["&amp;", "<https://example.com/a|a label of words>", "<@U0ANNA>"])
def test_links_and_escaped_characters_are_not_torn_apart(atom: str) -> None:
    for shift in range(len(atom)):
        text = "x" * (SECTION_CHARACTERS - shift) + atom + "y" * 10
        first, rest = cut(text, SECTION_CHARACTERS)
        assert first + rest == text
        assert (atom in first) != (atom in rest)


def test_an_emoji_counts_as_two_characters() -> None:
    first, rest = cut("😀" * 2000, 3000)
    assert (len(first), len(rest)) == (1500, 500)


@pytest.mark.parametrize(
    ("stored", "is_found"),
    [
        ({"metadata": {"event_payload": {"notification_id": "42"}}}, True),
        ({"blocks": [{"type": "divider"}, {"type": "section", "block_id": "n:42"}]}, True),
        ({"metadata": {"event_payload": {"notification_id": "43"}}}, False),
        ({"metadata": None, "blocks": None}, False),
        ({"blocks": [{"type": "section", "block_id": "n:43"}]}, False),
        ({"blocks": ["text", {"type": "section", "block_id": "n:42"}]}, True),
        ({"metadata": {"event_payload": "42"}, "blocks": [{"block_id": "n:42"}]}, True),
        ({"text": "42"}, False),
    ],
)
def test_a_message_is_known_by_either_place_of_its_key(stored: dict[str, object], is_found: bool) -> None:
    assert carries(stored, "42") is is_found


@pytest.mark.parametrize("atom", ["&amp;", "<https://x.example|y>"])
def test_an_atom_that_just_fits_stays(atom: str) -> None:
    text = "a" * 10 + atom + "b" * 50
    assert cut(text, 10 + len(atom)) == ("a" * 10 + atom, "b" * 50)
    assert cut(text, 9 + len(atom)) == ("a" * 10, atom + "b" * 50)


def test_every_section_is_whole_and_has_an_id_of_its_own() -> None:
    first, second = "a" * (SECTION_CHARACTERS - 1) + "\n", "b" * 10
    told = message(first + second, "7")
    assert told.blocks == [
        {"type": "section", "block_id": "n:7", "text": {"type": "mrkdwn", "text": first, "verbatim": True}},
        {"type": "section", "block_id": "n:7:1", "text": {"type": "mrkdwn", "text": second, "verbatim": True}},
    ]
    assert told.text == "a" * (FALLBACK_CHARACTERS - len(CUT)) + CUT
    assert plain(first + second, "7") == SlackMessage(told.text, (), metadata("7"))


@pytest.mark.parametrize(
    ("text", "limit", "first"),
    [
        ("aaaa\nbbbb cccc\ndddd eeee", 20, "aaaa\nbbbb cccc\n"),  # the last line that ends, before a later word
        ("aaaa\nbbbb\ncccc\ndddd", 16, "aaaa\nbbbb\ncccc\n"),
        ("aaaa bbbb cccc dddd", 16, "aaaa bbbb cccc "),
        ("a b" + "c" * 20, 10, "a b" + "c" * 7),  # no break in the second half
        ("aaa\n" + "c" * 20, 10, "aaa\n" + "c" * 6),
    ],
)
def test_a_text_is_cut_where_it_can_be_read_best(text: str, limit: int, first: str) -> None:
    assert cut(text, limit) == (first, text[len(first) :])
