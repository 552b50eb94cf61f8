"""Lines for people, and what Ctrl-C means."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody asked the command to end. Not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def end_on_signals() -> None:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into Stopped; later ones change nothing: the end is under way."""
    for number in end_signals():
        signal.signal(number, _stop)


def end_signals() -> list[signal.Signals]:
    """Those that ask this process to end: Ctrl-C, SIGTERM and SIGHUP.

    nohup has SIGHUP ignored, so that the command outlives its terminal. SIGINT counts even so: shells ignore it for
    what they start in the background, and there it is sent on purpose.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in _SIGNALS if not (ignored and number == signal.SIGHUP)]


def _stop(number: int, frame: FrameType | None) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def speaker(clock: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """A `say` that writes lines with the seconds since now."""
    began = clock()

    def say(line: str) -> None:
        print(f"[{clock() - began:5.0f} s] {line}", flush=True)

    return say


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Columns of text under a header row; `right` names those that are aligned to the right."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def complain(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
