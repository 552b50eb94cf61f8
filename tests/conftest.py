"""What all tests share: see `postgres_fixture` for the databases."""

from __future__ import annotations

pytest_plugins = ["tests.postgres_fixture", "tests.sandbox_fixture"]
