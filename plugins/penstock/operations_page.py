"""The operations page under /penstock: accounts, queue, rejected records, one run. Every view also as JSON.

Whoever may see the runs of `platform_etl_queue` in Airflow may see it; everybody else gets Airflow's own refusal.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any

import psycopg
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from jinja2 import Environment
from psycopg.rows import dict_row

from penstock.core.errors import PenstockError
from penstock.hooks.warehouse import WarehouseHook
from penstock.warehouse import queries
from penstock.warehouse.failures import classify
from penstock.warehouse.session import Warehouse

QUEUE_DAG_ID = "platform_etl_queue"
QUEUE_LIMIT = 200

_LAYOUT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Penstock</title><meta name="viewport" content="width=device-width">
<style>
:root { color-scheme: light dark; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; margin: 0 0 2rem; }
th, td { border-bottom: 1px solid #8884; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.bad { color: #c0392b; font-weight: 600; }
</style></head><body>
<h1>{% if run %}<a href="{{ root }}/">Penstock</a>{% else %}Penstock{% endif %}</h1>
{% macro cell(name, value) %}
{%- if name in ("run_id", "last_run_id") and value %}<td><a href="{{ root }}/runs/{{ value }}">{{ value[:8] }}</a></td>
{%- elif value is number %}<td class="n">{{ value }}</td>
{%- elif value in bad %}<td class="bad">{{ value }}</td>
{%- else %}<td>{{ value if value is not none else "" }}</td>{% endif %}
{% endmacro %}
{% macro listing(title, rows, nothing) %}<h2>{{ title }}</h2>
{% if rows %}<table><tr>{% for name in rows[0] %}<th>{{ name.replace("_", " ") }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for name, value in row.items() %}{{ cell(name, value) }}{% endfor %}</tr>
{% endfor %}</table>{% else %}<p>{{ nothing }}</p>{% endif %}{% endmacro %}
{% if run %}<h2>Run {{ run.run_id }}</h2>
<table>{% for name, value in run.items() if value is not none and value != [] %}
<tr><th>{{ name.replace("_", " ") }}</th>{{ cell("", value) }}</tr>{% endfor %}</table>
{{ listing("Streams", streams, "No slices: the run was not begun, or its traces are gone.") }}
{{ listing("Findings", findings, "None.") }}
{% else %}{{ listing("Accounts", accounts, "No account is registered in platform_connections.") }}
{{ listing("Queue", queue, "Nothing waits and nothing is being read.") }}
{{ listing("Rejected records", rejected, "None.") }}{% endif %}
</body></html>
"""

BAD = ("FAILED", "PARTIAL", "FAILING", "STALE", "STUCK", "NEEDS_RECONNECT", "NEEDS_PERMISSION", "WARN", "FAIL")


def make_app() -> FastAPI:
    """The application, to be mounted in Airflow's API server."""
    may_see = requires_access_dag("GET", DagAccessEntity.RUN, QUEUE_DAG_ID)
    app = FastAPI(title="Penstock", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(may_see)])
    # Plain functions: FastAPI runs them in a thread, where the database may be waited for.
    app.get("/", response_class=HTMLResponse)(overview_page)
    app.get("/status.json")(overview)
    app.get("/runs/{run_id}", response_class=HTMLResponse)(run_page)
    app.get("/runs/{run_id}/status.json")(run_status)
    return app


def overview_page() -> str:
    return _page(overview())


def run_page(run_id: uuid.UUID) -> str:
    return _page(run_status(run_id))


def overview() -> dict[str, Any]:
    """Accounts, queue and rejected records."""
    return _read({"accounts": {}, "queue": {"limit": QUEUE_LIMIT}, "rejected": {}})


def run_status(run_id: uuid.UUID) -> dict[str, Any]:
    """One run with its streams and findings. 404 when there is none of that id."""
    parameters = {"run_id": str(run_id)}
    found = _read({"run": parameters, "run_streams": parameters, "run_findings": parameters})
    if not found["run"]:
        raise HTTPException(status_code=404, detail=f"no run {run_id}")
    return {"run": found["run"][0], "streams": found["run_streams"], "findings": found["run_findings"]}


def _read(wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of the named queries. 503 with code and remedy when the warehouse cannot answer."""
    named = queries.load("operations")
    try:
        with _warehouse() as warehouse, warehouse.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return {name: cursor.execute(named[name], dict(values)).fetchall() for name, values in wanted.items()}
    except psycopg.Error as exc:
        raise _unavailable(classify(exc)) from exc
    except PenstockError as exc:
        raise _unavailable(exc) from exc


def _warehouse() -> Warehouse:
    return WarehouseHook().warehouse


def _unavailable(exc: PenstockError) -> HTTPException:
    return HTTPException(status_code=503, detail={"code": exc.code, "message": exc.message, "remedy": exc.remedy})


def _page(values: Mapping[str, Any]) -> str:
    environment = Environment(autoescape=True, finalize=_shown)
    return environment.from_string(_LAYOUT).render(**values, root="/penstock", bad=BAD)


def _shown(value: Any) -> Any:
    """Times without fractions of seconds."""
    return f"{value:%Y-%m-%d %H:%M:%S %Z}" if isinstance(value, dt.datetime) else value
