"""Partial answers, as Google's APIs give them: `fields=nextPageToken,items(id,extendedProperties/private)`.

https://developers.google.com/workspace/calendar/api/guides/performance#partial-response
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_WORD = re.compile(r"[A-Za-z0-9_*.-]+|[,()/]")

Tree = dict[str, Any]
"""Names and what is wanted of each; an empty one: everything."""


def selected(value: Any, fields: str) -> Any:
    """What of an answer was asked for."""
    return _pick(value, _read(iter(_WORD.findall(fields))))


def _read(words: Iterator[str]) -> Tree:
    """Up to the bracket that closes this level."""
    tree: Tree = {}
    place = tree
    for word in words:
        if word == ")":
            break
        if word == ",":
            place = tree
        elif word == "(":
            place.update(_read(words))
        elif word != "/":
            place = place.setdefault(word, {})
    return tree


def _pick(value: Any, tree: Tree) -> Any:
    if not tree or "*" in tree:
        return value
    if isinstance(value, list):
        return [_pick(item, tree) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _pick(value[name], wanted) for name, wanted in tree.items() if name in value}
