"""A run's partitions as a picture: how many stones each was to hold, and how many were read. SVG, no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, ROW, LABEL, TOP, BOTTOM = 900, 18, 210, 56, 24
ROOM = WIDTH - LABEL - 110

READ, SHORT, EXPECTED, INK = "#2f7ebc", "#d1495b", "#d9dee3", "#1f2933"


@dataclass(frozen=True, slots=True)
class Bar:
    """One partition. is_whole: read to its end without loss."""

    label: str
    expected: int
    read: int
    is_whole: bool


def draw(title: str, bars: Sequence[Bar]) -> str:
    """The picture: one row per partition, the expected stones in grey behind those that were read."""
    most = max((max(bar.expected, bar.read) for bar in bars), default=1) or 1
    mean = sum(bar.expected for bar in bars) / len(bars) if bars else 0.0
    height = TOP + ROW * len(bars) + BOTTOM
    at_mean = LABEL + ROOM * mean / most
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="12" y="42">stones per partition: grey expected, blue read, red not whole; '
        f"dashed: the mean of {mean:,.0f}</text>",
    ]
    parts += [row for number, bar in enumerate(bars) for row in _row(bar, TOP + ROW * number, most)]
    parts.append(
        f'<line x1="{at_mean:.1f}" x2="{at_mean:.1f}" y1="{TOP - 4}" y2="{height - BOTTOM + 4}" '
        f'stroke="{INK}" stroke-dasharray="3 3"/>'
    )
    return "\n".join([*parts, "</svg>"])


def _row(bar: Bar, top: int, most: int) -> list[str]:
    expected, read = ROOM * bar.expected / most, ROOM * bar.read / most
    colour = READ if bar.is_whole else SHORT
    baseline = top + ROW - 6
    return [
        f'<text x="{LABEL - 8}" y="{baseline}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LABEL}" y="{top + 1}" width="{expected:.1f}" height="{ROW - 3}" fill="{EXPECTED}"/>',
        f'<rect x="{LABEL}" y="{top + 4}" width="{read:.1f}" height="{ROW - 9}" fill="{colour}"/>',
        f'<text x="{LABEL + max(expected, read) + 6:.1f}" y="{baseline}">{bar.read:,} of {bar.expected:,}</text>',
    ]
