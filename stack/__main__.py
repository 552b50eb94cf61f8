"""`python -m stack <command>`: what the Makefile calls."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import psycopg
import requests

from penstock.core.errors import PenstockError
from stack import commands
from stack.airflow_api import ApiError
from stack.local import AlreadyRunning, NotRunning
from stack.postgres import PostgresError
from stack.processes import ServiceError
from stack.settings import SettingsError
from stack.terminal import Stopped, complain, end_on_signals

EXPECTED = (
    AlreadyRunning,
    NotRunning,
    ApiError,
    PostgresError,
    ServiceError,
    SettingsError,
    PenstockError,
    psycopg.Error,
    requests.RequestException,
)
"""Errors whose message is all that a person needs; anything else is a defect and shows where."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with 2 when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    add = parser.add_subparsers(dest="command", required=True, metavar="command").add_parser
    add("up", help="start everything and stay until Ctrl-C").set_defaults(run=commands.up)
    add("demo", help="run every DAG once, compare with the vendors' totals, stop").set_defaults(run=commands.demo)
    add("status", help="what runs, and how the last syncs went").set_defaults(run=commands.status)
    add("down", help="stop a stack from another shell").set_defaults(run=commands.down)
    add("reset", help="delete all state, the embedded warehouse included").set_defaults(run=commands.reset)
    add("migrate", help="bring the warehouse's schema up to date").set_defaults(run=commands.migrate)
    add("init", help="prepare a deployment: schema, settings, accounts").set_defaults(run=commands.init)
    add("settings", help="show airflow_settings.yaml as it is filled in, secrets hidden").set_defaults(
        run=commands.show_settings
    )
    add("test-connections", help="try every connection and account").set_defaults(run=commands.test_connections)
    airflow = add("airflow", help="run an airflow command, after `--`")
    airflow.add_argument("arguments", nargs="+")
    airflow.set_defaults(run=commands.airflow)
    backfill = add("backfill", help="Airflow's backfill of one source")
    backfill.add_argument("source")
    backfill.add_argument("first", type=commands.day, metavar="from", help="first day, YYYY-MM-DD")
    backfill.add_argument("last", type=commands.day, metavar="to", help="last day, itself included")
    backfill.set_defaults(run=commands.backfill)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 failed, 128 + n ended by signal n."""
    options = parse(arguments)
    end_on_signals()
    logging.getLogger("stack").addHandler(logging.NullHandler())  # what people have to know is said
    try:
        return int(options.run(options))
    except Stopped as stopped:
        return 128 + stopped.number
    except BrokenPipeError:  # whoever read our lines has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EXPECTED as error:
        complain(f"{options.command}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
