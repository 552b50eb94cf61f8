"""What `make source` writes works at once: on a copy of the project, its tests run, and only the last asks for more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.airflow_home import PROJECT

pytestmark = [pytest.mark.db, pytest.mark.e2e]

NEEDED = ("include", "penstock_provider", "plugins", "sandbox", "stack", "tests")
FILES = (".env.example", "airflow_settings.yaml", "docker-compose.yaml", "pyproject.toml")
DOCS = ("docs/model.md", "docs/runbook.md")
GENERATED = (
    "tests/unit/test_source_acme.py",
    "tests/simulated/test_acme_client.py",
    "tests/db/test_source_acme.py",
    "tests/contract/test_source_contract.py",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    tmp_path.chmod(0o711)
    for folder in NEEDED:
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "images"))
    (tmp_path / "docs").mkdir()
    for name in (*FILES, *DOCS):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project / "plugins"), str(project)])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_a_new_source_reads_its_sandbox_into_the_warehouse_and_agrees_with_its_totals(project: Path) -> None:
    written = run(project, "-m", "stack.new_source", "acme")
    assert written.returncode == 0, written.stderr
    tested = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "acme", *GENERATED)
    assert "1 failed" in tested.stdout, tested.stdout
    assert "next (16 left): plugins/penstock/sources/acme.py:3: what one record is" in tested.stdout
    assert tested.stdout.count("FAILED tests/") == 1
    written_python = sorted(str(path) for path in project.rglob("*acme*.py"))
    style = run(project, "-m", "ruff", "check", *written_python)
    assert style.returncode == 0, style.stdout
