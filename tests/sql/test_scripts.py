from __future__ import annotations

from penstock.warehouse import queries
from penstock.warehouse.statements import split


def test_every_script_of_the_project_is_cut_without_loss() -> None:
    scripts = sorted(queries.sql_root().rglob("*.sql"))
    assert len(scripts) > 10
    for path in scripts:
        script = path.read_text()
        assert "".join(each.text for each in split(script)).count("$$") == script.count("$$"), path
