"""`python -m penstock.jobs.notifications`: dead letters, pauses, health, and a drain without Airflow.

The database is --dsn, or the environment's, as for every command; `drain` reads SLACK_BOT_TOKEN and SLACK_BASE_URL.
"""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import psycopg

from penstock.clients.credentials import Credentials
from penstock.clients.slack import SlackClient
from penstock.core.databases import DSN_VARIABLES, dsn_of_environment
from penstock.core.errors import PenstockError, error
from penstock.jobs.notifications import Choice, Courier, Drain, NotificationStore, Orders
from penstock.jobs.notifications.drain import RESIDENCE_S, THREADS
from penstock.warehouse.failures import classify
from penstock.warehouse.limits import SharedBreaker
from penstock.warehouse.session import Warehouse

SCOPES = ("queue", "workspace", "channel", "tenant")
DEFAULT_BASE_URL = "https://slack.com/api/"  # https://docs.slack.dev/apis/web-api/


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = parse(arguments)
    if not options.dsn:
        sys.stderr.write(f"no database: give --dsn or set {DSN_VARIABLES[0]}\n")
        return 2
    holder = f"{socket.gethostname()}/{os.getpid()}"
    try:
        with Warehouse(options.dsn, application_name="penstock-notifications") as warehouse:
            _COMMANDS[options.command](NotificationStore(warehouse, holder), warehouse, options)
    except PenstockError as failure:
        sys.stderr.write(f"{failure}\n{failure.remedy}\n")
        return 1
    except psycopg.Error as broken:
        refusal = classify(broken)
        sys.stderr.write(f"{refusal}\n{refusal.remedy}\n")
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m penstock.jobs.notifications", description=__doc__)
    parser.add_argument("--dsn", default=dsn_of_environment(os.environ), help=f"default: {', '.join(DSN_VARIABLES)}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("health", help="the queue's row of reporting.queue_health")
    for name, what in (("list", "list dead letters"), ("replay", "put dead letters back into the queue")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--id", action="append", dest="ids", help="repeatable")
        command.add_argument("--reason", help="an error_class")
        command.add_argument("--since", type=_moment, help="ISO time at which they had ended, or later")
        command.add_argument("--limit", type=int, default=1000)
        command.add_argument("--dry-run", action="store_true")
    for name in ("pause", "resume"):
        command = commands.add_parser(name, help=f"{name} a channel, a tenant, a workspace or the queue")
        command.add_argument("scope", choices=SCOPES)
        command.add_argument("key", nargs="?", default="", help="channel id or name, tenant, workspace")
        command.add_argument("--because", default="by hand")
        command.add_argument("--minutes", type=float, help="default: until it is resumed")
    command = commands.add_parser("cancel", help="cancel rows that nobody has begun to send")
    command.add_argument("ids", nargs="+")
    command.add_argument("--because", default="by hand")
    command = commands.add_parser("drain", help="send what is due")
    command.add_argument("--resident", type=float, nargs="?", const=RESIDENCE_S, default=0.0, metavar="SECONDS")
    command.add_argument("--horizon", type=float, default=5.0, help="wait for what is due within so many seconds")
    command.add_argument("--threads", type=int, default=THREADS)
    command.add_argument("--limit", type=int)
    command.add_argument("--lease", type=float, help="seconds; for tests of crashes")
    return parser.parse_args(arguments)


def _moment(text: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _choice(options: argparse.Namespace) -> Choice:
    return Choice(options.ids, options.reason, options.since, options.limit)


def _health(store: NotificationStore, warehouse: Warehouse, options: argparse.Namespace) -> None:
    _print(store.health())


def _list(store: NotificationStore, warehouse: Warehouse, options: argparse.Namespace) -> None:
    for letter in store.dead_letters(_choice(options)):
        _print(letter)


def _replay(store: NotificationStore, warehouse: Warehouse, options: argparse.Namespace) -> None:
    if not (options.ids or options.reason or options.since):
        raise error("CONFIG_INVALID", "replay needs --id, --reason or --since")
    choice = _choice(options)
    if options.dry_run:
        _list(store, warehouse, options)
        return
    replayed = store.replay(choice)
    sys.stdout.write(f"{len(replayed)} replayed\n")


def _pause(store: NotificationStore, warehouse: Warehouse, options: argparse.Namespace) -> None:
    pause = None if options.minutes is None else dt.timedelta(minutes=options.minutes)
    store.pause(options.scope, options.key, options.because, getpass.getuser(), pause)


def _resume(store: NotificationStore, warehouse: Warehouse, options: argparse.Namespace) -> None:
    sys.stdout.write(f"{store.resume(options.scope, options.key)} resumed\n")


def _cancel(store: NotificationStore, warehouse: Warehouse, options: argparse.Namespace) -> None:
    sys.stdout.write(f"{len(store.cancel(options.ids, options.because))} cancelled\n")


def _drain(store: NotificationStore, warehouse: Warehouse, options: argparse.Namespace) -> None:
    token = os.environ.get("SLACK_BOT_TOKEN")
    if not token:
        raise error("CREDENTIAL_NOT_FOUND", "no environment variable SLACK_BOT_TOKEN")
    client = SlackClient(Credentials(os.environ.get("SLACK_BASE_URL") or DEFAULT_BASE_URL, token))
    if options.lease:
        lease = dt.timedelta(seconds=options.lease)
        store = NotificationStore(warehouse, f"{socket.gethostname()}/{os.getpid()}", lease=lease)
    orders = Orders(options.resident, horizon=options.horizon, threads=options.threads, limit=options.limit)
    drain = Drain(store, Courier(client, SharedBreaker(warehouse)), orders)

    def stop(number: int, frame: FrameType | None) -> None:
        drain.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _print(drain.run().as_json())


def _print(values: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(values, default=str) + "\n")


_COMMANDS: Mapping[str, Callable[[NotificationStore, Warehouse, argparse.Namespace], None]] = {
    "health": _health,
    "list": _list,
    "replay": _replay,
    "pause": _pause,
    "resume": _resume,
    "cancel": _cancel,
    "drain": _drain,
}

if __name__ == "__main__":
    sys.exit(main())
