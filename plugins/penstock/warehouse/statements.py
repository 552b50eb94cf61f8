"""Cuts a SQL script into its statements, so that each can be sent with parameters and an error can name its line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock.core.errors import error

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* )
  | (?P<block> /\* )
  | (?P<string> (?<![\w$])[eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | "(?:[^"]|"")*" )
  | (?P<dollar> (?<![\w$])\$(?P<tag>[A-Za-z_]\w*)?\$ .*? \$(?(tag)(?P=tag))\$ )
  | (?P<atomic> \bbegin\s+atomic\b )
  | (?P<end> ; )
  | (?P<space> \s+ )
  | (?P<other> [^\s;'"$/\-]+? (?=[\s;'"$/\-]|$) | . )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon, and the line (from 1) on which it begins."""

    text: str
    line: int

    def line_of(self, position: int) -> int:
        """The script's line of the server's 1-based character position inside this statement."""
        return self.line + self.text.count("\n", 0, position - 1)


def split(script: str) -> list[Statement]:
    """The statements of the script, in order; comments between them are left out.

    Raises CONFIG_INVALID for `begin atomic` bodies, whose semicolons end no statement: quote them with `$$`.
    """
    statements: list[Statement] = []
    first: int | None = None  # where the running statement begins
    last = position = 0
    while position < len(script):
        match = _TOKEN.match(script, position)
        if match is None:  # cannot happen: `other` takes any character
            raise error("CONFIG_INVALID", f"line {_line(script, position)}: not SQL")
        kind = match.lastgroup
        end = _block_comment_end(script, position) if kind == "block" else match.end()
        if kind == "atomic":
            raise error("CONFIG_INVALID", f"line {_line(script, position)}: quote the function's body with $$")
        if kind == "end":
            if first is not None:
                statements.append(Statement(script[first:last], _line(script, first)))
            first = None
        elif kind not in ("comment", "block", "space"):
            first = position if first is None else first
            last = end
        position = end
    if first is not None:
        statements.append(Statement(script[first:last], _line(script, first)))
    return statements


def _line(script: str, position: int) -> int:
    return script.count("\n", 0, position) + 1


def _block_comment_end(script: str, start: int) -> int:
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(script, start):
        depth += 1 if match.group() == "/*" else -1
        if depth == 0:
            return match.end()
    return len(script)
