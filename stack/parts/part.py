"""The shape of one concern's part of the demo."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Ground:
    """What a part works on.

    warehouse_dsn: libpq connection string with the password inside. sandbox_url: without a slash at the end.
    vault_keys: keys of stored credentials, newest first. since: when this demo began.
    """

    warehouse_dsn: str = field(repr=False)
    sandbox_url: str
    vault_keys: str = field(repr=False)
    since: dt.datetime


@dataclass(frozen=True, slots=True)
class PartResult:
    """data: what `demo-report.json` holds under the part's name. lines: the same for people. problems: whatever keeps
    the demo from being a success, nothing having happened among it."""

    data: Mapping[str, Any]
    lines: Sequence[str]
    problems: Sequence[str]


class Part(Protocol):
    """One concern in the demo."""

    @property
    def name(self) -> str: ...

    @property
    def dag_id(self) -> str:
        """The DAG that does the concern's work; where it is not deployed, the part is left out."""
        ...

    @property
    def params(self) -> Mapping[str, Any] | None:
        """What its run of the demo is triggered with; None: as the scheduler starts it, or with the form's defaults."""
        ...

    @property
    def is_always_triggered(self) -> bool:
        """Whether a run that the scheduler has started by itself would not do."""
        ...

    def prepare(self, ground: Ground) -> None:
        """Write what other people's systems would have written; called before the DAGs are unpaused, at each demo."""
        ...

    def is_over(self, ground: Ground) -> bool:
        """Whether nothing of the concern is left to be done."""
        ...

    def result(self, ground: Ground) -> PartResult:
        """Compare what arrived with what the sandbox says is true."""
        ...
