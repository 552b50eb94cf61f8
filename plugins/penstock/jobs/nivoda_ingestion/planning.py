"""Stage 1: what a run reads, cut into partitions and stored before anybody begins to read."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from penstock.core import price_shapes
from penstock.core.errors import error
from penstock.core.partitions import TOP, Plan, Span, Wish, make_plan
from penstock.core.price_shapes import Shape
from penstock.jobs.nivoda_ingestion.context import (
    CLOCK_SKEW,
    FULL,
    INCREMENTAL,
    OVERLAP,
    READ,
    SERVICE,
    Ingestion,
    Nivoda,
    Run,
    load_run,
    log,
)
from penstock.jobs.nivoda_ingestion.settings import COVERAGE, stored_feed
from penstock.sources import nivoda

AUTO = "auto"
RUN_TYPES = (AUTO, FULL, INCREMENTAL)
FULL_EVERY = dt.timedelta(hours=24)
COUNT_THREADS = 8
FEWEST_PRIOR_STONES = 5_000
"""With fewer stones of a last run the default shape says more."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked of a run.

    run_type: auto is full when the last complete full run is a day old. price_from, price_to: only this range of the
    key field in dollars; such a run deletes nothing and moves no watermark. retry_run_id: no new run, but the
    partitions of that one which are not complete, or those of them that `partition_ids` names.
    """

    run_type: str = AUTO
    price_from: int | None = None
    price_to: int | None = None
    partitions: int | None = None
    is_dry_run: bool = False
    retry_run_id: str | None = None
    partition_ids: tuple[str, ...] = ()
    dag_id: str | None = None
    dag_run_id: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A stored plan: its lanes are what mapped tasks are handed."""

    run_id: str | None
    run_type: str
    lanes: list[dict[str, str]]
    text: str
    coverage: float = 1.0

    @property
    def is_covered(self) -> bool:
        """Whether the price filter finds nearly all stones."""
        return self.coverage >= COVERAGE


@dataclass(frozen=True, slots=True)
class _Window:
    run_type: str
    updated_from: dt.datetime | None
    updated_to: dt.datetime
    watermark: dt.datetime | None
    started_at: dt.datetime


def plan(context: Ingestion, feed: str, request: PlanRequest) -> PlannedRun:
    """Plan a run of `feed` (natural, labgrown) and store it, or hand on what an earlier try of the task has stored.

    Raises CONFIG_INVALID, and what the vendor's client raises.
    """
    if request.run_type not in RUN_TYPES:
        raise error("CONFIG_INVALID", f"run_type is one of {', '.join(RUN_TYPES)}, got {request.run_type!r}")
    if request.retry_run_id:
        return _retry(context, feed, request)
    if request.partition_ids:
        raise error("CONFIG_INVALID", "partition_ids are those of a run: give its retry_run_id too", service=SERVICE)
    stored = stored_feed(feed)
    if request.dag_run_id and not request.is_dry_run:
        known = context.one("open_run", feed=stored, dag_id=request.dag_id, dag_run_id=request.dag_run_id)
        if known:
            return planned(context, known["run_id"], "planned by an earlier try")
    window = _window(context, stored, request)
    with closing(context.open_client()) as client:
        key_field, made = _search(context, client, feed, window, request)
        requests = client.requests
    text = describe(feed, window.run_type, made)
    log.info("%s", text)
    if request.is_dry_run:
        for number, partition in enumerate(made.partitions, 1):
            log.info("partition-%d: %s, %d stones", number, span_text(partition.span), partition.expected)
        return PlannedRun(None, window.run_type, [], text, made.coverage)
    run_id = _store(context, stored, window, request, key_field, made, requests)
    return planned(context, run_id, text)


def planned(context: Ingestion, run_id: str, text: str, only: Sequence[str] | None = None) -> PlannedRun:
    """The lanes of a stored run; `only` these partitions."""
    run = load_run(context, run_id)
    lanes = [
        {
            "run_id": run_id,
            "partition_id": row["partition_id"],
            "label": f"{run.feed} {row['partition_id'].removeprefix('partition-')}: {span_text(span_of(row))}",
        }
        for row in context.rows("partitions_of", run_id=run_id)
        if only is None or row["partition_id"] in only
    ]
    return PlannedRun(run_id, run.run_type, lanes, text, run.coverage if run.is_whole else 1.0)


def span_of(row: Mapping[str, Any]) -> Span:
    """The filter of a stored partition."""
    carats = None
    if row["carats_from"] is not None:
        carats = (float(row["carats_from"]), float(row["carats_to"]))
    return Span(row["price_from"], row["price_to"], carats)


def span_text(span: Span) -> str:
    """For people: `$300-$450`, with the carats where they are cut."""
    if span.low is None or span.high is None:
        return "all prices"
    text = f"${span.low:,}+" if span.high >= TOP else f"${span.low:,}-${span.high:,}"
    return f"{text}, {span.carats[0]:g}-{span.carats[1]:g} ct" if span.carats else text


def query_of(base: nivoda.Query, key_field: str, span: Span) -> nivoda.Query:
    """The vendor's query of a span."""
    query = base
    if span.low is not None and span.high is not None:
        query = nivoda.with_price(query, key_field, span.low, span.high)
    if span.carats is not None:
        query = nivoda.with_sizes(query, *span.carats)
    return query


def describe(feed: str, run_type: str, made: Plan) -> str:
    """One line for log and summary."""
    return (
        f"{feed}, {run_type}: {made.total:,} stones in {len(made.partitions)} partitions, largest "
        f"{made.imbalance:.2f} x the mean; {made.calls} counts in {made.rounds} rounds; the price filter finds "
        f"{made.coverage:.2%}; ranges {'touch' if made.is_touching else 'are disjoint'}"
    )


def _retry(context: Ingestion, feed: str, request: PlanRequest) -> PlannedRun:
    run = load_run(context, str(request.retry_run_id))
    if run.feed != stored_feed(feed):
        return PlannedRun(None, run.run_type, [], f"run {run.run_id} is of feed {run.feed}")
    partitions = context.rows("partitions_of", run_id=run.run_id)
    if unknown := sorted(set(request.partition_ids) - {row["partition_id"] for row in partitions}):
        raise error("CONFIG_INVALID", f"run {run.run_id} has no {', '.join(unknown)}", service=SERVICE)
    if request.is_dry_run:
        return _dry_retry(run, partitions, request)
    with context.warehouse.transaction() as connection:
        names = list(request.partition_ids) or None
        opened = context.rows("reopen_partitions", connection, run_id=run.run_id, partition_ids=names)
        context.rows("reopen_run", connection, run_id=run.run_id)
    ids = [row["partition_id"] for row in opened]
    return planned(context, run.run_id, f"retry of {len(ids)} partitions of run {run.run_id}", ids)


def _dry_retry(run: Run, partitions: Sequence[Mapping[str, Any]], request: PlanRequest) -> PlannedRun:
    """Only says which partitions `_retry` would open again."""
    names = request.partition_ids or tuple(row["partition_id"] for row in partitions)
    waiting = [row for row in partitions if row["status"] not in READ and row["partition_id"] in names]
    for row in waiting:
        log.info("would read %s: %s, %s", row["partition_id"], span_text(span_of(row)), row["status"])
    return PlannedRun(None, run.run_type, [], f"dry run: {len(waiting)} partitions of run {run.run_id} would be read")


def _window(context: Ingestion, stored: str, request: PlanRequest) -> _Window:
    now = context.clock()
    watermark = context.one("watermark", feed=stored).get("updated_to")
    run_type = request.run_type
    if run_type == AUTO:
        last_full = context.one("last_complete_full_run", feed=stored)["started_at"]
        run_type = FULL if last_full is None or now - last_full > FULL_EVERY else INCREMENTAL
    if watermark is None:
        run_type = FULL  # there is nothing to be incremental to
    updated_from = watermark - OVERLAP if run_type == INCREMENTAL and watermark else None
    return _Window(run_type, updated_from, now - CLOCK_SKEW, watermark, now)


def _search(context: Ingestion, client: Nivoda, feed: str, window: _Window, request: PlanRequest) -> tuple[str, Plan]:
    """Key field and plan. A key field that misses stones gives way to the other when that one finds more."""
    base = nivoda.with_updated(
        nivoda.base_query(feed, context.settings.base_filter), window.updated_from, window.updated_to
    )
    wish = Wish(
        partitions=request.partitions,
        concurrency=context.settings.concurrency,
        largest_mean=context.settings.largest_mean,
        low=max(request.price_from or 0, 0),
        high=min(request.price_to if request.price_to is not None else TOP, TOP),
    )
    if wish.high < wish.low:
        raise error("CONFIG_INVALID", f"price_to ({wish.high}) lies below price_from ({wish.low})", service=SERVICE)
    key_field, *others = context.settings.key_fields
    totals = _asker(client, base, key_field)([Span(None, None), Span(wish.low, wish.high)])
    if wish.is_whole and totals[0] > wish.single and totals[1] < COVERAGE * totals[0]:
        covered = {name: _asker(client, base, name)([Span(0, TOP)])[0] for name in others}
        best = max(covered, key=lambda name: covered[name])
        log.warning("%s finds %d of %d stones, %s finds %d", key_field, totals[1], totals[0], best, covered[best])
        if covered[best] > totals[1]:
            key_field, totals = best, [totals[0], covered[best]]
        if not totals[1]:
            message = f"no price filter finds any of the {totals[0]:,} stones"
            raise error("NIVODA_COVERAGE", message, service=SERVICE, task="plan")
    shape = _shape(context, feed, key_field)
    return key_field, make_plan(_Known(_asker(client, base, key_field), wish, totals), shape, wish)


class _Known:
    """A counter that has the two totals at hand, so that they are not asked twice."""

    def __init__(self, ask: Callable[[Sequence[Span]], list[int]], wish: Wish, totals: Sequence[int]) -> None:
        self._ask = ask
        self._totals = {Span(None, None): totals[0], Span(wish.low, wish.high): totals[1]}

    def __call__(self, spans: Sequence[Span]) -> list[int]:
        if all(span in self._totals for span in spans):
            return [self._totals[span] for span in spans]
        return self._ask(spans)


def _asker(client: Nivoda, base: nivoda.Query, key_field: str) -> Callable[[Sequence[Span]], list[int]]:
    """Asks one round of counts, several requests at a time."""

    def ask(spans: Sequence[Span]) -> list[int]:
        asked = [query_of(base, key_field, span) for span in spans]
        lanes = min(COUNT_THREADS, len(asked))
        if lanes < 2:
            return client.counts(asked)
        with ThreadPoolExecutor(lanes, thread_name_prefix="counts") as threads:
            shares = [list(range(lane, len(asked), lanes)) for lane in range(lanes)]
            answers = threads.map(lambda share: client.counts([asked[place] for place in share]), shares)
            found = {
                place: count
                for share, counts in zip(shares, answers, strict=True)
                for place, count in zip(share, counts, strict=True)
            }
        return [found[place] for place in range(len(asked))]

    return ask


def _shape(context: Ingestion, feed: str, key_field: str) -> Shape:
    name = "price_histogram" if key_field == "dollar_value" else "carat_price_histogram"
    rows = context.rows(name, feed=stored_feed(feed))
    prior = price_shapes.from_histogram((row["dollar"], row["stones"]) for row in rows)
    if rows and prior.total >= FEWEST_PRIOR_STONES:
        return prior
    return price_shapes.natural_default() if feed == "natural" else price_shapes.labgrown_default()


def _store(
    context: Ingestion,
    stored: str,
    window: _Window,
    request: PlanRequest,
    key_field: str,
    made: Plan,
    requests: int,
) -> str:
    """Run, plan and partitions in one transaction: a plan is there whole or not at all."""
    run_id = str(uuid.uuid4())
    spans = [partition.span for partition in made.partitions]
    with context.warehouse.transaction() as connection:
        context.rows(
            "insert_run",
            connection,
            run_id=run_id,
            feed=stored,
            run_type=window.run_type,
            expected_workers=len(spans),
            watermark_before=window.watermark,
            updated_to=window.updated_to,
            started_at=window.started_at,
        )
        context.rows(
            "insert_plan",
            connection,
            run_id=run_id,
            dag_id=request.dag_id,
            dag_run_id=request.dag_run_id,
            is_whole=request.price_from is None and request.price_to is None,
            price_from=request.price_from,
            price_to=request.price_to,
            key_field=key_field,
            is_touching=made.is_touching,
            updated_from=window.updated_from,
            updated_to=window.updated_to,
            total=made.total,
            covered=made.covered,
            count_calls=made.calls,
            count_rounds=made.rounds,
            requests=requests,
            settings=Jsonb(context.settings.as_json()),
        )
        context.rows(
            "insert_partitions",
            connection,
            run_id=run_id,
            price_from=[span.low for span in spans],
            price_to=[span.high for span in spans],
            carats_from=[span.carats and span.carats[0] for span in spans],
            carats_to=[span.carats and span.carats[1] for span in spans],
            expected=[partition.expected for partition in made.partitions],
        )
    return run_id
