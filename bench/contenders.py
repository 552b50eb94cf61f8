"""`python -m bench.contenders NAME JOB`: do the job once in this process and print what it took, as JSON.

Every contender is a process of its own, so that its CPU seconds and its memory are nobody else's.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime as dt
import gc
import http.client
import itertools
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from bench.job import CALL_SPACING_S, Job, account

Window = tuple[dt.datetime, dt.datetime]
PageOnItsWay = concurrent.futures.Future[tuple[list[dict[str, Any]], str | None]]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Clock:
    """Seconds and CPU seconds since `start`, which a contender calls when its set-up is over."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._began, self._cpu = time.perf_counter(), cpu_seconds()

    def read(self, rows: int, **more: Any) -> dict[str, Any]:
        return {
            "rows": rows,
            "seconds": time.perf_counter() - self._began,
            "work_cpu": cpu_seconds() - self._cpu,
            "process_cpu": cpu_seconds(),
            "peak_mb": peak_megabytes(),
            **more,
        }


def peak_megabytes() -> float:
    """Of this process alone: `ru_maxrss` would begin with the parent's."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


# -- the bare client: what the network allows -----------------------------------------------------------------------


class Spacing:
    """Calls of all threads, never closer together than the vendor's burst limit allows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        with self._lock:
            place = max(self._next, time.perf_counter())
            self._next = place + CALL_SPACING_S
        time.sleep(max(0.0, place - time.perf_counter()))


def bare_pages(job: Job, window: Window, spacing: Spacing) -> Iterator[bytes]:
    """Bodies of one slice over one kept connection; nothing is parsed but the link to the next page."""
    parts = urlsplit(job.sandbox_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    path: str | None = f"/klaviyo/api/events?{urlencode(job.parameters(window))}"
    while path:
        spacing.wait()
        connection.request("GET", path, headers=job.headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the sandbox answered {answer.status}: {body[:200]!r}")
        following = json.loads(b"{" + body[body.rindex(b'"links"') :])["links"]["next"]
        path = following and following.removeprefix(job.sandbox_url)
        yield body
    connection.close()


def bare(job: Job) -> dict[str, Any]:
    """An upper bound: bodies are received, counted and thrown away."""
    spacing = Spacing()
    windows = job.slices
    clock = Clock()
    with concurrent.futures.ThreadPoolExecutor(len(windows)) as pool:
        rows = sum(pool.map(lambda window: sum(map(_rows_in, bare_pages(job, window, spacing))), windows))
    return clock.read(rows)


def _rows_in(page: bytes) -> int:
    return page.count(b'{"type":"event"')


# -- a plain COPY: what Postgres allows -----------------------------------------------------------------------------


def copy(job: Job) -> dict[str, Any]:
    """An upper bound: lines that were made before the clock started, into an unlogged table without an index."""
    import psycopg

    lines = []
    for page in itertools.chain.from_iterable(bare_pages(job, window, Spacing()) for window in job.slices):
        for record in orjson.loads(page)["data"]:
            payload = orjson.dumps(record).replace(b"\\", b"\\\\")
            cells = [record["id"].encode(), record["attributes"]["datetime"].encode(), payload]
            lines.append(b"\t".join(cells) + b"\n")
    with psycopg.connect(job.dsn, autocommit=True) as connection:
        connection.execute("create unlogged table bench_copy (id text, occurred_at timestamptz, payload jsonb)")
        blocks = [b"".join(lines[at : at + 1000]) for at in range(0, len(lines), 1000)]
        clock = Clock()
        with connection.cursor().copy("copy bench_copy from stdin") as target:
            for block in blocks:
                target.write(block)
        done = clock.read(len(lines))
        return done | {"process_cpu": done["work_cpu"]}  # fetching and preparing were not the point


# -- the plain good way, and row by row -----------------------------------------------------------------------------

ROWS_ONE_BY_ONE = 5_000
"""Enough for a figure: a hundred thousand would take minutes."""

PLAIN_TABLES = """
create unlogged table bench_incoming (id text, occurred_at timestamptz, payload jsonb);
create table bench_events (
    account_id text not null,
    id text not null,
    occurred_at timestamptz not null,
    payload jsonb not null,
    loaded_at timestamptz not null default now(),
    primary key (account_id, id)
)
"""
PLAIN_UPSERT = """
insert into bench_events as e (account_id, id, occurred_at, payload)
select 'BENCH1', i.id, i.occurred_at, i.payload from bench_incoming as i
on conflict (account_id, id) do update set
    occurred_at = excluded.occurred_at, payload = excluded.payload, loaded_at = now()
where e.payload is distinct from excluded.payload
"""


class PlainReader:
    """requests with one kept connection, the vendor's own link to the next page."""

    def __init__(self, job: Job) -> None:
        import requests

        self._job = job
        self._session = requests.Session()
        self._session.headers.update(job.headers)

    def first(self, window: Window) -> str:
        return f"{self._job.sandbox_url}/klaviyo/api/events?{urlencode(self._job.parameters(window))}"

    def page(self, url: str) -> tuple[list[dict[str, Any]], str | None]:
        answer = self._session.get(url, timeout=60)
        answer.raise_for_status()
        body = orjson.loads(answer.content)
        return body["data"], body["links"]["next"]


def plain_good(job: Job) -> dict[str, Any]:
    """One process, a thread for each slice, COPY into an unlogged staging table, one upsert at the end."""
    import psycopg

    reader, windows = PlainReader(job), job.slices
    with psycopg.connect(job.dsn) as connection:
        connection.execute(PLAIN_TABLES)
        connection.commit()
        clock = Clock()
        with concurrent.futures.ThreadPoolExecutor(len(windows)) as pool:
            rows = sum(pool.map(lambda window: _copy_slice(job, reader, window), windows))
        connection.execute(PLAIN_UPSERT)
        connection.commit()
        return clock.read(rows)


def _copy_slice(job: Job, reader: PlainReader, window: Window) -> int:
    """Copies a slice, the next page on its way; returns its rows."""
    import psycopg

    rows = 0
    with (
        psycopg.connect(job.dsn) as connection,
        concurrent.futures.ThreadPoolExecutor(1) as fetcher,
        connection.cursor().copy("copy bench_incoming from stdin") as target,
    ):
        upcoming: PageOnItsWay | None = fetcher.submit(reader.page, reader.first(window))
        while upcoming is not None:
            records, following = upcoming.result()
            upcoming = fetcher.submit(reader.page, following) if following else None
            for record in records:
                payload = orjson.dumps(record).decode()
                target.write_row((record["id"], record["attributes"]["datetime"], payload))
            rows += len(records)
    return rows


def row_by_row(job: Job) -> dict[str, Any]:
    """One upsert and one commit per row, one page after the other: what the old worker did. Stops early."""
    import psycopg

    reader, rows = PlainReader(job), 0
    statement = """
        insert into bench_events (account_id, id, occurred_at, payload) values ('BENCH1', %s, %s, %s::jsonb)
        on conflict (account_id, id) do update set
            occurred_at = excluded.occurred_at, payload = excluded.payload, loaded_at = now()
    """
    with psycopg.connect(job.dsn, autocommit=True) as connection:
        connection.execute(PLAIN_TABLES)
        clock = Clock()
        for window in job.slices:
            url: str | None = reader.first(window)
            while url and rows < ROWS_ONE_BY_ONE:
                records, url = reader.page(url)
                for record in records:
                    payload = orjson.dumps(record).decode()
                    connection.execute(statement, (record["id"], record["attributes"]["datetime"], payload))
                rows += len(records)
        done = clock.read(rows)
        return done | {"process_cpu": done["work_cpu"]}  # Python's start would weigh twenty times as much as for others


# -- ours -----------------------------------------------------------------------------------------------------------


def ours(job: Job) -> dict[str, Any]:
    """The task `extract` of one account as Airflow's worker runs it, with everything it does beside reading."""
    from penstock.clients.credentials import Credentials
    from penstock.clients.klaviyo import KlaviyoClient
    from penstock.jobs import platform_etl
    from penstock.jobs.accounts import register_account
    from penstock.jobs.platform_etl import RunContext, VendorClient
    from penstock.jobs.platform_etl.slices import COLLECTOR_THRESHOLD
    from penstock.sources import klaviyo
    from penstock.sources.stream import Account, Request, Source
    from penstock.warehouse.limits import SharedBreaker, SharedLimiter
    from penstock.warehouse.session import Warehouse
    from penstock.warehouse.vault import Vault

    events = dataclasses.replace(klaviyo.SOURCE.stream("events"), slice_days=job.slice_days)
    cut = dataclasses.replace(klaviyo.SOURCE, streams=(events,), concurrency=len(job.slices))
    clock, first_page = Clock(), Clock()

    class CutRun(RunContext):
        """A run of a source whose slices are as long as the benchmark wants them."""

        @property
        def source(self) -> Source:
            return cut

    class Watched(KlaviyoClient):
        """Notes when the first page of events is asked for: the account itself is read before."""

        is_reading = False

        def send(self, request: Request) -> Any:
            if not self.is_reading and request.limit == "events":
                self.is_reading = True
                first_page.start()
            return super().send(request)

    def open_client(source: Source, of: Account, own: Any) -> VendorClient:
        credentials = Credentials(f"{job.sandbox_url}/klaviyo", job.api_key, None, {})
        limiter, breaker = SharedLimiter(warehouse), SharedBreaker(warehouse)
        client: VendorClient = Watched(credentials, of.account_id, source.limits, limiter, breaker)
        return client

    gc.set_threshold(COLLECTOR_THRESHOLD)
    found = account(job.sandbox_url)
    vault = Vault.from_environment({"PENSTOCK_ENCRYPTION_KEYS": "11" * 32})
    with Warehouse(job.dsn) as warehouse:
        register_account(
            warehouse,
            vault,
            platform=found["platform"],
            shop_id=found["shop_id"],
            account_id=found["account_id"],
            account_name=found["account_name"],
            credentials=found["credentials"],
            time_zone=None,
            currency=None,
            settings=found["settings"],
            shop_name=found["shop_name"],
        )
        lane = _claimed(job, warehouse, platform_etl)
        clock.start()
        extracted = platform_etl.extract(CutRun(warehouse, vault, lane, open_client))
        reading = first_page.read(extracted["rows_read"])
        return clock.read(
            extracted["rows_read"],
            reading_seconds=reading["seconds"],
            rows_written=extracted["rows_written"],
            requests=extracted["requests"],
        )


def _claimed(job: Job, warehouse: Any, platform_etl: Any) -> Any:
    """A fresh run over the job's days, claimed for this process."""
    names = {"dag_id": "platform_etl__klaviyo", "dag_run_id": f"bench {time.time_ns()}"}
    run_ids = platform_etl.enqueue_scheduled(
        warehouse,
        "klaviyo",
        window_start=dt.date.fromisoformat(job.first_day),
        window_end=dt.date.fromisoformat(job.last_day) + dt.timedelta(days=1),
        job_type="BACKFILL",
        accounts=None,
        streams=["events"],
        is_dry_run=False,
        requested_by="bench",
        **names,
    )
    return platform_etl.claim(warehouse, source="klaviyo", limit=1, run_ids=run_ids, **names)[0]


CONTENDERS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "bare": bare,
    "copy": copy,
    "plain_good": plain_good,
    "row_by_row": row_by_row,
    "ours": ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.contenders", description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("job", type=Job.from_json)
    options = parser.parse_args()
    print(json.dumps(CONTENDERS[options.name](options.job)))


if __name__ == "__main__":
    main()
