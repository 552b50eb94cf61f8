"""The sandbox for all contract tests, and the switch for those that need the vendors' own contract files.

Tests in `vendor/` read the files in the folder that `--contracts` or the environment variable CONTRACTS names; without
one they are not collected at all.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sandbox_fixture import Sandbox, running_sandbox, sandbox

__all__ = ["Sandbox", "running_sandbox", "sandbox"]

VENDOR_TESTS = Path(__file__).parent / "vendor"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contracts", metavar="FOLDER", help="folder with the vendors' machine-readable contracts")


def _folder(config: pytest.Config) -> str | None:
    # The option exists only when pytest was started on this folder; the environment variable always counts.
    return config.getoption("--contracts", default=None) or os.environ.get("CONTRACTS") or None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the vendor tests out when there is no contract to test against."""
    return True if collection_path == VENDOR_TESTS and _folder(config) is None else None


@pytest.fixture(scope="session")
def contracts(pytestconfig: pytest.Config) -> Path:
    """The folder with the vendors' contract files."""
    folder = Path(_folder(pytestconfig) or "").expanduser().resolve()
    if not folder.is_dir():
        raise pytest.UsageError(f"no folder with contracts: {folder}")
    return folder
