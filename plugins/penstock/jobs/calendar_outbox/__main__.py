"""The calendar outbox by hand: `python -m penstock.jobs.calendar_outbox list|replay|rebuild|pause|resume`."""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import os
import sys
from collections.abc import Sequence

import psycopg

from penstock.core.databases import DSN_VARIABLES, dsn_of_environment
from penstock.core.errors import CATALOGUE
from penstock.jobs.calendar_outbox.store import CalendarStore, Choice
from penstock.warehouse.failures import classify
from penstock.warehouse.session import Warehouse

OWN_VARIABLE = "PENSTOCK_CALENDAR_DSN"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse(arguments)
    try:
        with Warehouse(options.dsn, application_name="penstock-calendar", patience=5) as warehouse:
            return run(options, CalendarStore(warehouse, "command line"))
    except psycopg.Error as failed:
        failure = classify(failed)
        sys.stderr.write(f"{failure}\n{failure.remedy}\n")
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m penstock.jobs.calendar_outbox", description=__doc__)
    parser.add_argument("action", choices=["list", "replay", "rebuild", "pause", "resume"])
    variables = ", ".join((OWN_VARIABLE, *DSN_VARIABLES))
    parser.add_argument("--dsn", default=dsn_of_environment(os.environ, OWN_VARIABLE), help=f"default: {variables}")
    parser.add_argument("--workspace", help="only this workspace")
    parser.add_argument("--item", action="append", help="only this dead letter; may be repeated")
    parser.add_argument("--code", help="only dead letters of this reason")
    parser.add_argument("--all", action="store_true", help="replay all dead letters")
    parser.add_argument("--hours", type=float, default=24.0, help="length of a pause")
    parser.add_argument("--reason", default="", help="why it is paused")
    options = parser.parse_args(arguments)
    if not options.dsn:
        parser.error(f"no database: give --dsn or set {OWN_VARIABLE}")
    if options.action in ("rebuild", "pause", "resume") and not options.workspace:
        parser.error(f"{options.action} needs --workspace")
    if options.action == "replay" and not (options.all or options.item or options.code or options.workspace):
        parser.error("replay needs --item, --code, --workspace or --all")
    return options


def run(options: argparse.Namespace, store: CalendarStore) -> int:
    choice = Choice(options.item, options.code, options.workspace)
    match options.action:
        case "list":
            for letter in store.dead_letters(choice):
                remedy = CATALOGUE.get(letter["dead_reason"], CATALOGUE["UNKNOWN"]).remedy
                what = letter["event_key"] or letter["operation"]
                sys.stdout.write(
                    f"{letter['id']} {letter['dead_reason']} {what}: {letter['last_error']} What to do: {remedy}\n"
                )
        case "replay":
            sys.stdout.write(f"{len(store.replay(choice))} replayed\n")
        case "rebuild":
            sys.stdout.write(f"item {store.request_rebuild(options.workspace, getpass.getuser())}\n")
        case "pause":
            until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=options.hours)
            store.pause(options.workspace, until, getpass.getuser(), options.reason)
            sys.stdout.write(f"paused until {until:%Y-%m-%d %H:%M} UTC\n")
        case _:
            store.pause(options.workspace, None, getpass.getuser(), "")
            sys.stdout.write("resumed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
