from __future__ import annotations

from pathlib import Path

from penstock.core.errors import CATALOGUE

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()


def test_the_runbook_says_of_every_code_what_to_do() -> None:
    lines = RUNBOOK.splitlines()
    row_of = {code: next((line for line in lines if line.startswith(f"| `{code}` |")), "") for code in CATALOGUE}
    lacking = [code for code, row in row_of.items() if not row.endswith(f"| {CATALOGUE[code].remedy} |")]

    assert lacking == [], "docs/runbook.md lacks these codes or their remedies"
