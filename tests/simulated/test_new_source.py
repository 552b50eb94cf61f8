"""`make source` on a copy of what it touches."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from stack import new_source
from tests.contract.test_source_contract import open_marks

NAME = "acme_shop"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the registries, the templates and the migrations."""
    shutil.copytree(new_source.PROJECT / new_source.TEMPLATES, tmp_path / new_source.TEMPLATES)
    shutil.copytree(new_source.PROJECT / new_source.MIGRATIONS, tmp_path / new_source.MIGRATIONS)
    shutil.copy(new_source.PROJECT / "pyproject.toml", tmp_path)
    for path in {entry.path for entry in new_source.ENTRIES}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(new_source.PROJECT / path, tmp_path / path)
    return tmp_path


def test_a_new_source_is_written_everywhere_and_says_what_to_fill_in(project: Path) -> None:
    written = new_source.write(project, NAME)
    for path in written:
        text = (project / path).read_text(encoding="utf-8")
        assert "@@" not in text, path
        assert NAME in text or "AcmeShop" in text or "ACME_SHOP" in text, path
        if path.endswith(".py"):
            ast.parse(text)
    marks = open_marks(project, NAME)
    assert len(marks) == 16
    assert marks[0].startswith(f"plugins/penstock/sources/{NAME}.py:3: what one record is")
    number = new_source.next_migration(new_source.PROJECT)
    migration = (project / new_source.MIGRATIONS / f"{number}_add_{NAME}.sql").read_text(encoding="utf-8")
    # As 0009_index_dated_rows.sql left the others: a look-up by key must not find another index than the primary key's.
    assert "(connection_id, record_date, report_key)'\n            ' where record_date is not null'" in migration


def test_the_title_is_the_vendor_s_and_the_address_is_one_that_a_host_can_have(project: Path) -> None:
    new_source.write(project, NAME, "ACME Shop")
    hook = (project / f"plugins/penstock/hooks/{NAME}.py").read_text(encoding="utf-8")
    assert 'hook_name = "ACME Shop"' in hook
    for path in (".env.example", "airflow_settings.yaml", "penstock_provider/__init__.py", "stack/plan.py"):
        assert "https://api.acme-shop.example" in (project / path).read_text(encoding="utf-8"), path
    assert 'https://api.acme-shop.example"' in hook


@pytest.mark.parametrize("title", ['Acme "Shop"', "Acme: shop", "Acme\nShop", "Acme #1"])
def test_a_title_that_would_break_what_it_is_written_into_is_refused(project: Path, title: str) -> None:
    with pytest.raises(new_source.NewSourceError, match="is no title"):
        new_source.write(project, NAME, title)


@pytest.mark.parametrize("name", ["Acme", "acme-shop", "1st", "acme_", "", "a/b"])
def test_a_name_that_is_none_is_refused(project: Path, name: str) -> None:
    with pytest.raises(new_source.NewSourceError):
        new_source.write(project, name)


def test_a_source_that_exists_and_a_registry_without_its_place_are_left_alone(project: Path) -> None:
    new_source.write(project, NAME)
    with pytest.raises(new_source.NewSourceError, match="there is a source"):
        new_source.write(project, NAME)
    registry = project / "sandbox/app.py"
    registry.write_text(registry.read_text(encoding="utf-8").replace("*control.routes", "*routes_of"), encoding="utf-8")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(new_source.NewSourceError, match=r"sandbox/app\.py has no"):
        new_source.write(project, "other")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
