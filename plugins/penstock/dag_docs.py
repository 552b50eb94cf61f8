"""`python -m penstock.dag_docs`: writes docs/DAGS.md from the DAGs themselves; `--check` only compares."""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
DAGS_FOLDER = PROJECT / "dags"
PAGE = PROJECT / "docs" / "DAGS.md"
LANE = "One lane: one "
"""How the docstring of every mapped group begins; what follows is one of the things that it is mapped over."""

_HEAD = """# DAGs

Made from the DAG files by `make docs`; a test compares. Each DAG's own page (`doc_md`) is shown in Airflow.

| DAG | starts | what it does |
|---|---|---|
"""


def main(arguments: list[str] | None = None) -> int:
    """Writes the page, or compares it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m penstock.dag_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing, exit 1 on a difference")
    options = parser.parse_args(arguments)
    wanted = render(load_dags())
    if not options.check:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    found = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    changes = difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), str(PAGE), "the DAGs")
    sys.stdout.writelines(changes)
    return int(found != wanted)


def load_dags() -> list[Any]:
    """Every DAG of the project, by id. Raises RuntimeError when a file cannot be imported."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(DAGS_FOLDER))
    if bag.import_errors:
        raise RuntimeError(f"DAG files that cannot be imported: {bag.import_errors}")
    return [bag.dags[dag_id] for dag_id in sorted(bag.dags)]


def render(dags: Iterable[Any]) -> str:
    """The page."""
    dags = list(dags)
    rows = [f"| [`{dag.dag_id}`](#{dag.dag_id}) | {starts(dag)} | {dag.description} |" for dag in dags]
    return _HEAD + "\n".join(rows) + "\n" + "".join(_section(dag) for dag in dags)


def starts(dag: Any) -> str:
    """When the DAG starts, in words."""
    timetable = dag.timetable
    inner = getattr(timetable, "timetable", None)
    if inner is not None:
        names = ", ".join(f"`{asset.name}`" for asset in timetable.asset_condition.objects)
        return f"on {names}, and `{_cron(inner)}` UTC"
    cron = _cron(timetable)
    return f"`{cron}` UTC" if cron else "by hand"


def _cron(timetable: Any) -> str:
    return str(getattr(timetable, "expression", "") or "")


def _section(dag: Any) -> str:
    tags = ", ".join(f"`{tag}`" for tag in sorted(dag.tags))
    at_once = f"{dag.max_active_runs} run{'s' if dag.max_active_runs > 1 else ''} at a time"
    lines = [
        "",
        f"## {dag.dag_id}",
        "",
        f"{dag.description}. File `dags/{Path(dag.fileloc).name}`, tags {tags}, at most {at_once}.",
        "",
        "| task | pool | after | what it does |",
        "|---|---|---|---|",
    ]
    for task in dag.topological_sort():
        after = ", ".join(f"`{task_id}`" for task_id in sorted(task.upstream_task_ids)) or "-"
        lines.append(f"| `{task.task_id}`{_lane(task)} | `{task.pool}` | {after} | {_first_line(type(task))} |")
    if len(dag.params):
        lines += ["", "| param | type | default | what it says |", "|---|---|---|---|"]
    for name in dag.params:
        param = dag.params.get_param(name)
        lines.append(f"| `{name}` | {_type(param.schema)} | {_default(param.value)} | {param.description} |")
    return "\n".join(lines) + "\n"


def _lane(task: Any) -> str:
    """What the task is mapped over, as the docstring of its group says: "One lane: one claimed connection."."""
    group = task.get_closest_mapped_task_group()
    return f" (per {group.tooltip.strip().removeprefix(LANE).rstrip('.')})" if group else ""


def _first_line(operator: type) -> str:
    return (inspect.getdoc(operator) or "").splitlines()[0]


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "any")
    named = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null"]
    return " or ".join([schema.get("format", kind) for kind in named])


def _default(value: Any) -> str:
    return "-" if value is None else f"`{value}`"


if __name__ == "__main__":
    sys.exit(main())
