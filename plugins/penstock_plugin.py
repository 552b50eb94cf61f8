"""The one Airflow plugin of Penstock: the operations page, and links from a task to what it worked on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

URL_PREFIX = "/penstock"


class LazyPage:
    """The page as an ASGI application that is built at its first request.

    Every process of Airflow loads every plugin, tasks among them; only the API server ever shows the page.
    """

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if self._app is None:
            from penstock.operations_page import make_app

            self._app = make_app()
        await self._app(scope, receive, send)


class PenstockPlugin(AirflowPlugin):
    """Adds the page to Airflow's navigation."""

    name = "penstock"
    fastapi_apps = [{"app": LazyPage(), "url_prefix": URL_PREFIX, "name": "Penstock"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Penstock",
            "href": f"{URL_PREFIX}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "penstock",
        }
    ]
