from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from stack import report, terminal

ACCOUNT = {"platform": "META", "account_id": "1", "account_name": "Aurora", "currency": "CHF", "connection_id": "c"}
RUNS = {"runs": 1, "unsuccessful": 0, "requests": 12, "read": 500, "staged": 400, "rejected": 2}
ROWS = {"staging_ingest": 1000, "core_warehouse": 900}
DAG_RUNS = [{"dag_id": "a", "run_id": "r", "run_type": "manual", "state": "success", "seconds": 1.5}]


def total(metric: str, vendor: str, warehouse: str, difference: str, **more: Any) -> dict[str, Any]:
    numbers = {
        "vendor_total": Decimal(vendor),
        "warehouse_total": Decimal(warehouse),
        "difference": Decimal(difference),
    }
    return {"metric": metric, "days": 30, "unchecked_days": 0, "known_gap": None, **numbers, **more}


def account(totals: list[dict[str, Any]], runs: dict[str, int] | None = None) -> report.AccountReport:
    return report.build_account(ACCOUNT, RUNS if runs is None else runs, totals, ROWS)


def test_an_account_that_agrees_has_no_problem() -> None:
    built = account([total("spend", "10.50", "10.50", "0", known_gap=Decimal("2.5"))])

    assert built.problem is None
    assert report.problems([built], DAG_RUNS, ["a"]) == []
    assert json.loads(json.dumps(report.as_json([built])))[0] == {
        "source": "meta_ads",
        "account_id": "1",
        "name": "Aurora",
        "currency": "CHF",
        "runs": 1,
        "unsuccessful": 0,
        "requests": 12,
        "read": 500,
        "staged": 400,
        "rejected": 2,
        "staging_rows": 1000,
        "warehouse_rows": 900,
        "days": 30,
        "unchecked_days": 0,
        "vendor_totals": {"spend": 10.5},
        "warehouse_totals": {"spend": 10.5},
        "difference": {"spend": 0.0},
        "known_gap": {"spend": 2.5},
    }


def test_days_that_cancel_out_are_a_difference_all_the_same() -> None:
    built = account([total("spend", "10", "10", "4")])

    assert built.problem == "differs in spend by 4.00"


def test_the_smallest_difference_counts() -> None:
    built = account([total("spend", "10", "10.000001", "0.000001")])

    assert built.problem is not None


def test_nothing_compared_is_a_problem() -> None:
    assert account([]).problem == "has no totals of the vendor to compare with"
    assert account([total("spend", "0", "0", "0")]).problem == "has no totals of the vendor to compare with"
    assert (
        account([total("spend", "1", "1", "0", unchecked_days=2)]).problem == "has 2 days without a total of the vendor"
    )


def test_an_account_that_was_not_synced_or_failed_is_a_problem() -> None:
    agreed = [total("spend", "1", "1", "0")]

    assert account(agreed, runs={}).problem == "was not synced"
    assert account(agreed, runs={**RUNS, "unsuccessful": 1}).problem == "1 of 1 runs did not succeed"


def test_an_empty_demo_is_no_success() -> None:
    assert report.problems([], [], []) == ["there is no active account", "there is no DAG"]


def test_a_dag_that_failed_or_never_ran_is_named() -> None:
    agreed = account([total("spend", "1", "1", "0")])
    runs = [*DAG_RUNS, {**DAG_RUNS[0], "dag_id": "b", "state": "failed"}]

    assert report.problems([agreed], runs, ["a", "b", "c"]) == ["c did not run", "b (r): failed"]


def test_the_text_has_a_line_per_run_account_and_metric() -> None:
    lines = report.text([account([total("spend", "1234.5", "1234.5", "0")])], DAG_RUNS).splitlines()

    assert any(line.split() == ["a", "success", "1.5"] for line in lines)
    assert any(line.split() == ["meta_ads", "Aurora", "(1)", "12", "500", "400", "2", "1,000", "900"] for line in lines)
    assert any(line.split() == ["meta_ads", "Aurora", "spend", "30", "1,234.50", "1,234.50", "0.00"] for line in lines)


def test_a_table_is_aligned() -> None:
    assert terminal.table([["name", "n"], ["a", "1"], ["long name", "1,000"]], frozenset({1})).splitlines() == [
        "name           n",
        "---------  -----",
        "a              1",
        "long name  1,000",
    ]
