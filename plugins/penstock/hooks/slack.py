"""Airflow connection `slack` -> the client that alerts are sent with."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from penstock.core.errors import PenstockError
from penstock.hooks.connections import find_connection
from penstock.hooks.vendor import explained

if TYPE_CHECKING:
    from penstock.clients.slack import SlackClient

DEFAULT_BASE_URL = "https://slack.com/api/"  # https://docs.slack.dev/apis/web-api/


class SlackAlertHook(BaseHook):
    """The Slack Web API with the bot token of a connection.

    The provider's own connection type is used (password: token, extra `base_url`), without its hook: that one
    costs seconds of imports, and this runs in the callback of a failed task.

    :param slack_conn_id: a connection of type `slack`; `SLACK_BOT_TOKEN` stands in for it.
    :param timeout: seconds of one call; the client's own unless told.
    """

    conn_name_attr = "slack_conn_id"
    default_conn_name = "slack"
    conn_type = "slack"
    hook_name = "Slack alerts"

    def __init__(self, slack_conn_id: str = default_conn_name, timeout: float | None = None) -> None:
        super().__init__()
        self.slack_conn_id = slack_conn_id
        self.timeout = timeout

    @cached_property
    def client(self) -> SlackClient | None:
        """The client; None when nobody has configured Slack."""
        from penstock.clients.credentials import Credentials
        from penstock.clients.slack import TIMEOUT_S, SlackClient

        connection = find_connection(self.slack_conn_id)
        if connection is None or not connection.password:
            return None
        base_url = str(connection.extra_dejson.get("base_url") or DEFAULT_BASE_URL)
        credentials = Credentials(base_url=base_url, token=connection.password)
        return SlackClient(credentials, timeout=self.timeout or TIMEOUT_S)

    def get_conn(self) -> Any:
        """The client, under the name that Airflow's hooks use."""
        return self.client

    def test_connection(self) -> tuple[bool, str]:
        """Whether Slack knows the token, and what to do when it does not."""
        if self.client is None:
            return False, "the connection holds no token"
        try:
            return True, self.client.check()
        except PenstockError as exc:
            return False, explained(exc)
