"""One throw-away Postgres per pytest session, and a fresh migrated database per test.

Every folder's tests load this file: what only a database needs is imported by the fixtures that open one.

The server runs without fsync in a temporary folder. A test's database is a copy of a migrated template and costs some
ten milliseconds. `PENSTOCK_POSTGRES_BIN` runs the same tests on another version of Postgres.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import psycopg

    from penstock.warehouse.session import Warehouse
    from stack.postgres import EmbeddedPostgres

TEMPLATE = "penstock_template"
ROOM_IN_MEMORY = 4 * 2**30
_NUMBERS = itertools.count(1)


def _base_folder() -> Path:
    """In memory where there is room: copying a database takes half the time."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_IN_MEMORY
    return memory if has_room else Path(tempfile.gettempdir())


def _remove_left_overs(base: Path) -> None:
    """Stop and delete the servers of sessions that were killed before they could do so."""
    from stack.postgres import EmbeddedPostgres

    for folder in base.glob("penstock-tests-*"):
        owner = folder.name.removeprefix("penstock-tests-").split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and folder.stat().st_uid == os.geteuid():
            EmbeddedPostgres(folder / "postgres", durable=False).stop(immediate=True)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for a server of the test's own. pytest's folders are closed to the user that the server runs as."""
    folder = Path(tempfile.mkdtemp(prefix=f"penstock-tests-{os.getpid()}-", dir=_base_folder()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A running server, for tests that need several databases or want to stop it."""
    from stack.postgres import EmbeddedPostgres

    base = _base_folder()
    if Path("/proc/self").exists():
        _remove_left_overs(base)
    folder = Path(tempfile.mkdtemp(prefix=f"penstock-tests-{os.getpid()}-", dir=base))
    folder.chmod(0o711)  # the server's own user must get through
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    try:
        yield server.start()
    finally:
        server.stop(immediate=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _migrated_template(postgres_server: EmbeddedPostgres) -> str:
    from penstock.warehouse.migrations import migrate

    migrate(postgres_server.create_database(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def empty_database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a database in which nothing was migrated."""
    name = f"empty_{next(_NUMBERS)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def fresh_database(postgres_server: EmbeddedPostgres, _migrated_template: str) -> Iterator[str]:
    """The DSN of a database with all migrations and views, for this test alone."""
    name = f"test_{next(_NUMBERS)}"
    yield postgres_server.create_database(name, template=_migrated_template)
    postgres_server.drop_database(name)


@pytest.fixture
def warehouse(fresh_database: str) -> Iterator[Warehouse]:
    """A `Warehouse` on a fresh database."""
    from penstock.warehouse.session import Warehouse

    with Warehouse(fresh_database, application_name="penstock-test", patience=5) as opened:
        yield opened


@pytest.fixture
def connect(fresh_database: str) -> Iterator[Callable[[], psycopg.Connection[tuple[object, ...]]]]:
    """Opens further autocommit connections to the test's database and closes them at the end."""
    import psycopg

    opened: list[psycopg.Connection[tuple[object, ...]]] = []

    def open_one() -> psycopg.Connection[tuple[object, ...]]:
        opened.append(psycopg.connect(fresh_database, autocommit=True))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()
