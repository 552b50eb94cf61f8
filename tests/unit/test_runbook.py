from __future__ import annotations

from pathlib import Path

import pytest

from penstock.core.errors import CATALOGUE

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()


@pytest.mark.parametrize("code", CATALOGUE)
def test_the_runbook_says_of_every_code_what_to_do(code: str) -> None:
    line = next((line for line in RUNBOOK.splitlines() if line.startswith(f"| `{code}` |")), "")
    assert line.endswith(f"| {CATALOGUE[code].remedy} |"), f"docs/runbook.md lacks {code} or its remedy"
