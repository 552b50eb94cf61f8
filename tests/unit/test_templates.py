"""Templates of notifications: the old worker's semantics."""

from __future__ import annotations

import pytest

from penstock.core.templates import clean, escape, render


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


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        ("<https://a.example|b> <https://c.example/{{v}}|d>", "x|y", "<https://a.example|b> <https://c.example/x y|d>"),
        ("<https://a.example|b> <https://c.example|d> {{v}}", "x|y", "<https://a.example|b> <https://c.example|d> x|y"),
        ("<https://a.example/{{v}}|b>", "@u", "<https://a.example/@u|b>"),
        ("<{{v}}>", "Xyz", "<Xyz>"),
        ("{{v}}", "a\rb\r\nc", "a\nb\nc"),
        ("{{v}}", {"k": "ü"}, '{"k": "ü"}'),
        ("{{v}}{{v}}", "<", "&lt;&lt;"),
    ],
)
def test_a_value_is_read_by_the_tag_that_it_stands_in(template: str, value: object, expected: str) -> None:
    assert render(template, {"v": value}) == expected
