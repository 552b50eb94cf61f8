"""Tokens that all workers share: one login at a time, nothing readable in the table."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from penstock.core.errors import PenstockError, error
from penstock.sources.tokens import Token
from penstock.warehouse import tokens as module
from penstock.warehouse.session import Warehouse
from penstock.warehouse.tokens import SharedTokens
from penstock.warehouse.vault import Key, Vault

pytestmark = pytest.mark.db

KEY = "nivoda:https://nivoda.test:me@example.com"
NOW = dt.datetime.now(dt.UTC)
VAULT = Vault([Key.parse(Key.generate())])


class Login:
    """Hands out token-1, token-2, ... and counts; `life` of each."""

    def __init__(self, life: dt.timedelta = dt.timedelta(hours=6), seconds: float = 0.0) -> None:
        self.count = 0
        self.life = life
        self.seconds = seconds
        self._lock = threading.Lock()

    def __call__(self) -> Token:
        with self._lock:
            self.count += 1
            number = self.count
        threading.Event().wait(self.seconds)
        return Token(f"token-{number}", dt.datetime.now(dt.UTC) + self.life)


@pytest.fixture
def worker(fresh_database: str) -> Iterator[Callable[..., SharedTokens]]:
    """Makes token stores as separate workers have them, each with connections of its own."""
    opened: list[Warehouse] = []

    def make(vault: Vault = VAULT) -> SharedTokens:
        opened.append(Warehouse(fresh_database, application_name="penstock-test", patience=5))
        return SharedTokens(opened[-1], vault)

    yield make
    for warehouse in opened:
        warehouse.close()


def test_workers_share_one_token(worker: Callable[..., SharedTokens]) -> None:
    login = Login()
    assert [worker().get(KEY, login) for _ in range(3)] == ["token-1"] * 3
    assert login.count == 1


def test_many_workers_that_start_at_once_log_in_once(worker: Callable[..., SharedTokens]) -> None:
    login = Login(seconds=0.3)
    stores = [worker() for _ in range(6)]
    found: list[str] = []
    threads = [threading.Thread(target=lambda store=store: found.append(store.get(KEY, login))) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (found, login.count) == (["token-1"] * 6, 1)


def test_a_refused_token_is_replaced_once_for_all(worker: Callable[..., SharedTokens]) -> None:
    login = Login()
    first, second = worker(), worker()
    assert first.get(KEY, login) == second.get(KEY, login) == "token-1"
    assert first.get(KEY, login, refused="token-1") == "token-2"
    assert second.get(KEY, login, refused="token-1") == "token-2"
    assert second.get(KEY, login) == "token-2"
    assert login.count == 2


def test_a_token_whose_time_is_over_is_not_used(worker: Callable[..., SharedTokens]) -> None:
    login = Login(life=-dt.timedelta(seconds=1))
    store = worker()
    assert [store.get(KEY, login), store.get(KEY, login)] == ["token-1", "token-2"]


def test_the_table_holds_no_readable_token(worker: Callable[..., SharedTokens], warehouse: Warehouse) -> None:
    worker().get(KEY, Login())
    with warehouse.connection() as connection:
        [row] = connection.execute("select t::text from penstock.vendor_tokens as t").fetchall()
    assert "token-1" not in row[0]
    assert "v1:" in row[0]


def test_a_token_under_a_lost_key_is_asked_for_anew(worker: Callable[..., SharedTokens]) -> None:
    login = Login()
    worker().get(KEY, login)
    assert worker(Vault([Key.parse(Key.generate())])).get(KEY, login) == "token-2"


def test_a_token_of_another_user_is_not_taken(worker: Callable[..., SharedTokens]) -> None:
    login = Login()
    store = worker()
    assert store.get(KEY, login) != store.get(f"{KEY}.uk", login)


def test_waiting_workers_do_not_repeat_a_login_that_was_refused(worker: Callable[..., SharedTokens]) -> None:
    tried: list[int] = []
    failures: list[str] = []

    def login() -> Token:
        tried.append(1)
        threading.Event().wait(0.5)
        raise error("NIVODA_AUTH_ERROR", "Invalid username or password")

    def run(store: SharedTokens) -> None:
        try:
            store.get(KEY, login)
        except PenstockError as failure:
            failures.append(str(failure))

    threads = [threading.Thread(target=run, args=(worker(),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failures == ["NIVODA_AUTH_ERROR: Invalid username or password"] * 5
    assert len(tried) == 1
    later = Login()
    assert worker().get(KEY, later) == "token-1"  # whoever begins afterwards may try


def test_a_login_that_failed_in_passing_may_be_tried_by_the_next(worker: Callable[..., SharedTokens]) -> None:
    def login() -> Token:
        raise error("NIVODA_TRANSIENT", "down")

    store = worker()
    with pytest.raises(PenstockError):
        store.get(KEY, login)
    assert store.get(KEY, Login()) == "token-1"


def test_a_worker_that_died_while_it_logged_in_holds_nobody_up_for_ever(
    worker: Callable[..., SharedTokens], warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warehouse.connection() as connection:
        connection.execute(
            "insert into penstock.vendor_tokens (token_key, leased_by, leased_until, lease_epoch) "
            "values (%s, 'dead', clock_timestamp() + interval '0.6 seconds', 1)",
            [KEY],
        )
    monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    assert worker().get(KEY, Login()) == "token-1"


def test_a_worker_that_comes_back_late_does_not_overwrite_its_successors_token(
    worker: Callable[..., SharedTokens], warehouse: Warehouse
) -> None:
    late, successor, third = worker(), worker(), worker()

    def slow() -> Token:
        with warehouse.connection() as connection:
            connection.execute("update penstock.vendor_tokens set leased_until = clock_timestamp() - interval '1 s'")
        assert successor.get(KEY, lambda: Token("newer", NOW + dt.timedelta(hours=6))) == "newer"
        return Token("older", NOW + dt.timedelta(hours=6))

    assert late.get(KEY, slow) == "older"
    assert third.get(KEY, Login()) == "newer"


def test_without_a_key_every_process_logs_in_by_itself_and_says_so(
    worker: Callable[..., SharedTokens], warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    login = Login()
    store = worker(Vault())
    with caplog.at_level(logging.WARNING):
        assert [store.get(KEY, login), store.get(KEY, login)] == ["token-1"] * 2
    assert "not shared" in caplog.text
    with warehouse.connection() as connection:
        assert connection.execute("select count(*) from penstock.vendor_tokens").fetchone() == (0,)
