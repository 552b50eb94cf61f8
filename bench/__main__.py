"""`python -m bench`: rows a second, CPU, memory, quiet repeats and pacing, printed with their ratios.

Exits with 1 when a contender did not do the whole job or the vendor's limit was exceeded. Aims are printed, not
enforced: wall seconds depend on what else the machine does; CPU seconds less so.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import statistics
import time

import psycopg

from bench import pacing
from bench.job import EVENTS_A_DAY, Job, describe
from bench.machine import BenchError, Machine, Measurement, machine, run_child

CONCURRENCIES = (1, 2, 4)
SPARE_DAYS = 3
"""The stream's first and last day are not whole in every zone."""

AIM_OF_BARE, AIM_CPU = 0.90, 1.5
LABELS = {
    "bare": "bare HTTP client (upper bound)",
    "copy": "plain COPY, lines ready (upper bound)",
    "plain_good": "plain good way",
    "ours": "Penstock",
    "row_by_row": "row by row",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--days", type=int, default=4, help="days of 24,000 events that are read (default 4)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of which the median counts, at 0 ms (default 3)")
    parser.add_argument("--latency", type=float, default=100.0, help="ms, of the section latency (default 100)")
    parser.add_argument("--pacing-seconds", type=float, default=60.0, help="length of the pacing test (default 60)")
    parser.add_argument("--long-days", type=int, default=42, help="days of the long run for memory (default 42)")
    parser.add_argument("--only", choices=("throughput", "latency", "repeat", "memory", "pacing"), action="append")
    return parser.parse_args()


class Bench:
    """The sections, on one machine."""

    def __init__(self, ground: Machine, options: argparse.Namespace) -> None:
        self._ground = ground
        self._options = options

    def throughput(self) -> None:
        """Everybody without latency."""
        heading("Klaviyo events to staging, 0 ms latency, one slice at a time")
        self._print_airflow()
        runs: dict[str, list[Measurement]] = {}
        for _ in range(self._options.repeat):
            for name in ("bare", "copy", "plain_good", "ours"):
                runs.setdefault(name, []).append(self._once(name, slices=1))
        found = {name: median(measured) for name, measured in runs.items()}
        found["row_by_row"] = self._once("row_by_row", slices=1)
        print_table(list(found.values()), found["plain_good"])
        ratio = statistics.median(
            ours.cpu_per_100k / plain.cpu_per_100k for ours, plain in zip(runs["ours"], runs["plain_good"], strict=True)
        )
        verdict(f"CPU, client + Postgres: {ratio:.2f} x the plain good way (aim: {AIM_CPU} at most)", ratio <= AIM_CPU)

    def latency(self) -> None:
        """Where the network is what takes the time."""
        milliseconds = self._options.latency
        for slices in CONCURRENCIES:
            heading(f"Klaviyo events to staging, {milliseconds:g} ms latency, {slices} slice(s) at a time")
            names = ("bare", "plain_good", "ours", *(("row_by_row",) if slices == 1 else ()))
            found = {name: self._once(name, slices=slices, latency=milliseconds) for name in names}
            print_table(list(found.values()), found.get("plain_good"))
            ours = found["ours"]
            share = ours.rows / ours.more["reading_seconds"] / found["bare"].rows_per_second
            print(
                f"  Penstock reads the account itself first: {ours.seconds - ours.more['reading_seconds']:.2f} s a run"
            )
            verdict(f"{share:.0%} of the bare client's rows/s (aim: {AIM_OF_BARE:.0%})", share >= AIM_OF_BARE)

    def repeat(self) -> None:
        """The same run twice: what the second one writes."""
        heading("The same run again, nothing changed")
        job = self._job(self._options.days, 1)
        self._ground.run("ours", job)
        with psycopg.connect(job.dsn, autocommit=True) as connection:
            # As autovacuum does: whoever reads fresh rows first marks them as committed, and page checksums let that
            # write each page to the log once.
            connection.execute("vacuum")
        before = written(job)
        second = self._ground.run("ours", job)
        after = written(job)
        print_table([second], None)
        print(f"  WAL of the whole run {after[0] - before[0]:,} bytes, rows written {second.more['rows_written']}")
        print(
            f"  staging table and indexes grew by {after[1] - before[1]:,} bytes, tuples written {after[2] - before[2]}"
        )
        verdict("the staging table was not touched", after[1:] == before[1:] and second.more["rows_written"] == 0)
        self._ground.drop(job.dsn)

    def memory(self) -> None:
        """Peak memory of a short and of a long run."""
        heading("Peak memory of the job process, four slices at a time")
        short, long = (
            self._once("ours", slices=4, days=days) for days in (self._options.days, self._options.long_days)
        )
        print_table([short, long], None)
        growth = long.peak_mb / short.peak_mb
        verdict(f"{long.rows / short.rows:.1f} times the rows take {growth:.2f} times the memory", growth <= 1.2)

    def pacing(self) -> None:
        """Four workers on one account."""
        found = pacing.measure(self._ground, self._options.pacing_seconds)
        heading(
            f"Pacing: {pacing.WORKERS} processes on one account for {found.seconds:g} s, family {pacing.FAMILY} "
            f"({pacing.PER_SECOND}/s, {pacing.PER_MINUTE}/min)"
        )
        print(f"  {found.answered} calls of {found.allowed:.0f} allowed, {found.refused} refused")
        for period, (most, limit) in found.fullest.items():
            print(f"  fullest window of {period} (5 % tolerance): {most} of {limit}")
        verdict(f"{found.share:.0%} of the limit used (aim: 85 %)", found.share >= 0.85)
        if found.is_exceeded:
            raise BenchError("the vendor's limit was exceeded")

    def _job(self, days: int, slices: int) -> Job:
        return describe(self._ground.sandbox_url, self._ground.database(), days=days, slice_days=-(-days // slices))

    def _once(self, name: str, *, slices: int, days: int = 0, latency: float = 0.0) -> Measurement:
        """One contender on a fresh database."""
        job = self._job(days or self._options.days, slices)
        self._ground.latency(latency)
        try:
            found = self._ground.run(name, job)
        finally:
            self._ground.latency(0)
        if name != "row_by_row" and found.rows != job.rows:
            raise BenchError(f"{name} read {found.rows} of {job.rows} rows")
        self._ground.drop(job.dsn)
        print(f"  ... {LABELS[name]}: {found.seconds:.1f} s", flush=True)
        return dataclasses.replace(found, name=f"{name}/{slices}" if slices > 1 else name)

    @staticmethod
    def _print_airflow() -> None:
        """What every task pays beside its own work."""
        run_child("-c", "import airflow.sdk")  # compiles what is not compiled yet
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_child("-c", "import airflow.sdk")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"  beside every figure of Penstock: importing Airflow (airflow.sdk) takes a task {cpu:.2f} CPU s")


def written(job: Job) -> tuple[int, int, int]:
    """Bytes of WAL so far, bytes of the staging table with its indexes, tuples ever written to it."""
    statement = """
        select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,
            pg_total_relation_size('staging_ingest.klaviyo_events'),
            n_tup_ins + n_tup_upd + n_tup_del
        from pg_stat_user_tables where relid = 'staging_ingest.klaviyo_events'::regclass
    """
    with psycopg.connect(job.dsn, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    if row is None:
        raise BenchError("the staging table is missing")
    return row[0], row[1], row[2]


def median(measured: list[Measurement]) -> Measurement:
    """The run with the middle CPU seconds."""
    return sorted(measured, key=lambda each: each.cpu_per_100k)[len(measured) // 2]


def heading(text: str) -> None:
    print(f"\n{text}", flush=True)


def verdict(text: str, is_met: bool) -> None:
    print(f"  {'met   ' if is_met else 'MISSED'} {text}", flush=True)


def print_table(measured: list[Measurement], plain: Measurement | None) -> None:
    """CPU for 100,000 records; the ratio compares client + Postgres with the plain good way."""
    print(f"  {'':40}{'rows':>10}{'rows/s':>10}{'client CPU':>12}{'Postgres CPU':>14}{'ratio':>8}{'peak MB':>9}")
    for each in measured:
        name, _, slices = each.name.partition("/")
        label = LABELS[name] + (f", {slices} slices" if slices else "")
        scale = 100_000 / each.rows
        ratio = f"{each.cpu_per_100k / plain.cpu_per_100k:.2f}" if plain else "-"
        print(
            f"  {label:40}{each.rows:>10,}{each.rows_per_second:>10,.0f}{each.client_cpu * scale:>12.2f}"
            f"{each.postgres_cpu * scale:>14.2f}{ratio:>8}{each.peak_mb:>9.0f}"
        )


def main() -> None:
    options = parse_arguments()
    began = time.monotonic()
    sections = options.only or ("throughput", "latency", "repeat", "memory", "pacing")
    days = max(options.days, options.long_days if "memory" in sections else 0) + SPARE_DAYS
    load = os.getloadavg()[0]
    print(
        f"CPU seconds are for 100,000 records, whole processes. {os.cpu_count()} cores, load {load:.1f} at the start."
    )
    try:
        with machine(days * EVENTS_A_DAY) as ground:
            bench = Bench(ground, options)
            for section in sections:
                getattr(bench, section)()
    except BenchError as failure:
        raise SystemExit(f"bench: {failure}") from failure
    print(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
