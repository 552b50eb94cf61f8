"""What Airflow does with each kind of failure."""

from __future__ import annotations

import pytest
from airflow.sdk import RetryAction

from penstock.core import errors
from penstock.core.errors import CATALOGUE, error
from penstock.dag_defaults import DEFAULT_ARGS, RETRY_POLICY

pytestmark = pytest.mark.dags


@pytest.mark.parametrize("code", CATALOGUE)
def test_an_error_is_tried_again_exactly_when_its_class_says_so(code: str) -> None:
    decision = RETRY_POLICY.evaluate(error(code, "as it happened"), try_number=1, max_tries=2)
    is_final = issubclass(CATALOGUE[code].kind, errors.FatalError | errors.SkippableError)
    assert decision.action is (RetryAction.FAIL if is_final else RetryAction.RETRY)


@pytest.mark.parametrize(
    ("exception", "action"),
    [
        (KeyError("streams"), RetryAction.FAIL),
        (TypeError("no"), RetryAction.FAIL),
        (ConnectionResetError("gone"), RetryAction.RETRY),
        (TimeoutError("slow"), RetryAction.RETRY),
        (SystemExit(1), RetryAction.DEFAULT),
        (MemoryError(), RetryAction.DEFAULT),
    ],
)
def test_defects_fail_at_once_and_infrastructure_is_tried_again(exception: BaseException, action: RetryAction) -> None:
    assert RETRY_POLICY.evaluate(exception, try_number=1, max_tries=2).action is action


def test_the_policy_survives_serialisation() -> None:
    restored = type(RETRY_POLICY).deserialize(RETRY_POLICY.serialize())
    assert restored.evaluate(error("META_AUTH_ERROR", "expired"), 1, 2).action is RetryAction.FAIL
    assert restored.evaluate(error("KLAVIYO_TRANSIENT", "503"), 1, 2).action is RetryAction.RETRY


def test_all_retries_together_end_within_the_hour() -> None:
    longest = max(rule.retry_delay or DEFAULT_ARGS["retry_delay"] for rule in RETRY_POLICY.rules)
    assert longest * DEFAULT_ARGS["retries"] <= DEFAULT_ARGS["execution_timeout"]
