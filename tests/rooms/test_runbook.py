from __future__ import annotations

import re
from pathlib import Path

from penstock.core.errors import CATALOGUE

PROJECT = Path(__file__).parents[2]
RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text()


def test_the_runbook_says_of_every_code_what_to_do() -> None:
    lines = RUNBOOK.splitlines()
    row_of = {code: next((line for line in lines if line.startswith(f"| `{code}` |")), "") for code in CATALOGUE}
    lacking = [code for code, row in row_of.items() if not row.endswith(f"| {CATALOGUE[code].remedy} |")]

    assert lacking == [], "docs/runbook.md lacks these codes or their remedies"


def test_a_variable_that_a_remedy_names_is_one_that_can_be_set() -> None:
    settings = (PROJECT / ".env.example").read_text()
    remedies = " ".join(spec.remedy for spec in CATALOGUE.values())
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b", remedies)) - set(CATALOGUE)
    assert "META_API_VERSION" in named
    assert [name for name in sorted(named) if f"{name}=" not in settings] == []
