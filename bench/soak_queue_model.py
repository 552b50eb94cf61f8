"""`python -m bench.soak_queue_model`: the notification queue against its model, far longer than the tests do.

Every run starts from another seed; a failure prints the shortest story that leads to it.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from penstock.warehouse.migrations import migrate
from penstock.warehouse.session import Warehouse
from stack.postgres import EmbeddedPostgres
from tests.db.test_notification_model import QueueMachine


@contextlib.contextmanager
def database() -> Iterator[str]:
    """A throw-away Postgres without fsync."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-model-"))
    folder.chmod(0o711)  # the server's own user must get through
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    try:
        server.start()
        dsn = server.create_database("model")
        migrate(dsn)
        yield dsn
    finally:
        server.stop(immediate=True)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """The command line; a failure is raised."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak_queue_model", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100, help="of one run")
    options = parser.parse_args()
    with database() as dsn, Warehouse(dsn, application_name="model") as warehouse:
        QueueMachine.warehouse = warehouse
        run_state_machine_as_test(
            QueueMachine,
            settings=settings(
                max_examples=options.runs,
                stateful_step_count=options.steps,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(f"{options.runs} runs of up to {options.steps} steps: the queue did what the model says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
