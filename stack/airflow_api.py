"""The few calls of Airflow's REST API that the stack needs (https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import requests

TIMEOUT = (5, 60)  # seconds: connect, read
PAGE = 100  # [api] maximum_page_limit
FINISHED = frozenset({"success", "failed"})


class ApiError(RuntimeError):
    """Airflow refused a call; the message has the status and what it said."""


class AirflowApi:
    """A session with one api-server. Logs in at the first call and again when the token has expired."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._login = {"username": user, "password": password}
        self._session = requests.Session()
        self._session.trust_env = False  # the server is on this machine: no proxy, no .netrc
        self._token: str | None = None

    def close(self) -> None:
        self._session.close()

    def health(self) -> dict[str, str]:
        """Component -> `healthy` or what else it is. Raises requests.RequestException while nothing answers."""
        response = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=TIMEOUT)
        response.raise_for_status()
        body: dict[str, Any] = response.json()
        return {name: str((part or {}).get("status")) for name, part in body.items()}

    def warm(self) -> None:
        """Have the execution API built now: otherwise the first task waits 10 to 20 s for it."""
        self._session.get(f"{self.url}/execution/health", timeout=TIMEOUT)

    def dags(self) -> list[dict[str, Any]]:
        return list(self._all("dags", "dags", {}))

    def import_errors(self) -> list[dict[str, Any]]:
        return list(self._all("importErrors", "import_errors", {}))

    def unpause(self, dag_id: str) -> None:
        self._set_paused(dag_id, False)

    def pause(self, dag_id: str) -> None:
        """No new run is started; those that run go on."""
        self._set_paused(dag_id, True)

    def _set_paused(self, dag_id: str, is_paused: bool) -> None:
        self._call("PATCH", f"dags/{dag_id}", json={"is_paused": is_paused}, params={"update_mask": "is_paused"})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run of the DAG; returns the run's id."""
        body = {"logical_date": dt.datetime.now(dt.UTC).isoformat(), "conf": dict(conf or {})}
        return str(self._call("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def dag_runs(
        self, dag_id: str = "~", *, since: dt.datetime | None = None, run_type: str | None = None
    ) -> list[dict[str, Any]]:
        """Runs of the DAG (`~`: of all), oldest first.

        since: only those whose state changed at or after this aware instant. run_type: `scheduled`, `manual`, ...
        """
        parameters: dict[str, Any] = {"order_by": "id"}
        if since is not None:
            parameters["updated_at_gte"] = since.isoformat()
        if run_type is not None:
            parameters["run_type"] = run_type
        return list(self._all(f"dags/{dag_id}/dagRuns", "dag_runs", parameters))

    def newest_dag_runs(self, limit: int) -> list[dict[str, Any]]:
        """The newest runs of all DAGs, newest first."""
        body = self._call("GET", "dags/~/dagRuns", params={"order_by": "-id", "limit": limit})
        return cast("list[dict[str, Any]]", body["dag_runs"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return list(self._all(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances", {}))

    def mark_failed(self, dag_id: str, run_id: str, task_id: str) -> None:
        """What "Mark state as failed" does in the UI: a running task is told to end."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self._call("PATCH", path, json={"new_state": "failed"}, params={"update_mask": "new_state"})

    def questions(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """What tasks of the run ask a person and nobody has answered."""
        asked = self._all(f"dags/{dag_id}/dagRuns/{run_id}/hitlDetails", "hitl_details", {"response_received": "false"})
        return list(asked)

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str) -> None:
        """Answer a task's question, as its form in the UI does."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        self._call("PATCH", path, json={"chosen_options": [option], "params_input": {}})

    def clear(self, dag_id: str, run_id: str, task_id: str, lanes: Sequence[int] = ()) -> None:
        """What "Clear" does in the UI: the task, or these lanes of a mapped one, is done again with all behind it; a
        running one is told to end first."""
        tasks: list[Any] = [[task_id, lane] for lane in lanes]
        body = {
            "dry_run": False,
            "only_failed": False,
            "dag_run_id": run_id,
            "task_ids": tasks or [task_id],
            "include_downstream": True,
        }
        self._call("POST", f"dags/{dag_id}/clearTaskInstances", json=body)

    def create_backfill(
        self,
        dag_id: str,
        first: dt.date,
        last: dt.date,
        conf: Mapping[str, Any],
        *,
        reprocess: str = "completed",
        max_active_runs: int = 2,
    ) -> int:
        """Ask for one run per data interval that begins on a day from `first` to `last`. Returns the backfill's id.

        reprocess: `none`, `failed` or `completed`: which runs that exist already are done again.
        """
        end = dt.datetime.combine(last, dt.time.max, dt.UTC)
        body = {
            "dag_id": dag_id,
            "from_date": dt.datetime.combine(first, dt.time.min, dt.UTC).isoformat(),
            "to_date": end.isoformat(),
            "run_backwards": False,
            "dag_run_conf": dict(conf),
            "reprocess_behavior": reprocess,
            "max_active_runs": max_active_runs,
        }
        return int(self._call("POST", "backfills", json=body)["id"])

    def _all(self, path: str, key: str, parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            body = self._call("GET", path, params={**parameters, "limit": PAGE, "offset": offset})
            yield from body[key]
            offset += PAGE
            if offset >= int(body.get("total_entries") or 0):
                return

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        response = self._send(method, path, **arguments)
        if response.status_code == requests.codes.unauthorized:
            self._token = None
            response = self._send(method, path, **arguments)
        if not response.ok:
            raise ApiError(f"{method} {path}: {response.status_code} {response.text[:500]}")
        body: dict[str, Any] = response.json()
        return body

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        if self._token is None:
            answer = self._session.post(f"{self.url}/auth/token", json=self._login, timeout=TIMEOUT)
            if not answer.ok:
                raise ApiError(f"login as {self._login['username']}: {answer.status_code} {answer.text[:200]}")
            self._token = str(answer.json()["access_token"])
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._session.request(method, f"{self.url}/api/v2/{path}", headers=headers, timeout=TIMEOUT, **arguments)
