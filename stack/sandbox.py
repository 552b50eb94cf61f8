"""What the stack asks of a running sandbox."""

from __future__ import annotations

from typing import Any

import requests

from stack.plan import Plan, sandbox_values

TIMEOUT = 30  # seconds


def answers(url: str) -> bool:
    """Whether the sandbox is up."""
    try:
        return requests.get(f"{url}/sandbox/health", timeout=TIMEOUT).ok
    except requests.RequestException:
        return False


def accounts(url: str) -> list[dict[str, Any]]:
    """Its accounts, with their credentials."""
    found: list[dict[str, Any]] = [*_get(f"{url}/sandbox/accounts"), *_get(f"{url}/sandbox/google_ads")]
    return found


def values(plan: Plan, url: str) -> dict[str, str]:
    """Values for `airflow_settings.yaml`: base URLs, and Slack's bot."""
    return sandbox_values(plan, url, _get(f"{url}/sandbox/credentials"))


def _get(url: str) -> Any:
    answer = requests.get(url, timeout=TIMEOUT)
    answer.raise_for_status()
    return answer.json()
