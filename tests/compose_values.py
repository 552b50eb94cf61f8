"""Variables in docker-compose.yaml, as docker compose puts them in."""

from __future__ import annotations

import re
from collections.abc import Mapping

INNERMOST = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z0-9_]+)(?::(?P<kind>[-?])(?P<text>[^{}]*))?\}")


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its variables' values or defaults, which may hold variables themselves. Raises KeyError for a
    required one that is missing.

    https://docs.docker.com/reference/compose-file/interpolation/
    """

    def replacement(match: re.Match[str]) -> str:
        value = values.get(match["name"])
        if not value and match["kind"] == "?":
            raise KeyError(match["name"])
        return value or match["text"] or ""

    while INNERMOST.search(text):
        text = INNERMOST.sub(replacement, text)
    return text.replace("$$", "$")
