"""`python -m stack.new_source NAME`: a new source of the platform ETL, in working order against its own sandbox.

Writes source, client, hook, SQL, sandbox and tests from `stack/templates/source`, and enters the source into every
registry. What only a person knows is marked FILL IN with a number; `tests/contract/test_source_contract.py` fails with
the next of them until none is left. docs/adding_a_source.md is the guide.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TEMPLATES = Path("stack/templates/source")
MIGRATIONS = Path("include/sql/platform_etl/migrations")

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_TITLE = re.compile(r"\w[\w.-]*( [\w.-]+)*")  # it goes into Python, YAML and Markdown as it is


class NewSourceError(Exception):
    """The source cannot be written; the message says why."""


@dataclass(frozen=True, slots=True)
class Words:
    """What the placeholders @@name@@, @@Name@@, @@NAME@@, @@host@@, @@Title@@ and @@number@@ stand for."""

    name: str
    number: str
    title: str | None = None
    """As the vendor writes itself; None makes it from the name."""

    def fill(self, text: str) -> str:
        spoken = self.name.replace("_", " ").title()
        words = {"name": self.name, "Name": spoken.replace(" ", ""), "NAME": self.name.upper()}
        # A host name has no underscore.
        words |= {"host": self.name.replace("_", "-"), "Title": self.title or spoken, "number": self.number}
        for word, value in words.items():
            text = text.replace(f"@@{word}@@", value)
        return text


@dataclass(frozen=True, slots=True)
class Entry:
    """A line or more that a registry gets: `text` before the first match of `anchor` after the first `after`."""

    path: str
    anchor: str
    text: str
    after: str = ""


ENTRIES = (
    Entry(
        "plugins/penstock/sources/__init__.py",
        "from penstock.sources.stream",
        "from penstock.sources import @@name@@\n",
    ),
    Entry("plugins/penstock/sources/__init__.py", "meta_ads.SOURCE", "@@name@@.SOURCE, ", "REGISTRY: tuple"),
    Entry(
        "plugins/penstock/clients/__init__.py",
        "from penstock.clients.transport",
        "from penstock.clients.@@name@@ import @@Name@@Client\n",
    ),
    Entry(
        "plugins/penstock/clients/__init__.py",
        "MetaClient.source",
        "@@Name@@Client.source: @@Name@@Client,\n    ",
        "CLIENTS:",
    ),
    Entry(
        "plugins/penstock/hooks/registry.py",
        "from penstock.hooks.vault",
        "from penstock.hooks.@@name@@ import @@Name@@Hook\n",
    ),
    Entry("plugins/penstock/hooks/registry.py", '"meta_ads":', '"@@name@@": @@Name@@Hook,\n    ', "HOOKS: Mapping"),
    Entry(
        "plugins/penstock/hooks/connections.py",
        '"meta_ads":',
        '"@@name@@": "@@NAME@@_TOKEN",\n    ',
        "_PASSWORD_VARIABLES",
    ),
    Entry(
        "plugins/penstock/hooks/connections.py",
        '"meta_ads":',
        '"@@name@@": "@@NAME@@_BASE_URL",\n    ',
        "_HOST_VARIABLES",
    ),
    Entry(
        "plugins/penstock/core/errors.py",
        "    # Any vendor\n",
        """    # @@Title@@
    "@@NAME@@_AUTH_ERROR": ErrorSpec(AuthError, "Put a valid token into the account's credentials."),
    "@@NAME@@_PERMISSION_DENIED": ErrorSpec(PermissionDenied, "Give the token access to the account."),
    "@@NAME@@_RATE_LIMIT": ErrorSpec(RateLimited, NOTHING),
    "@@NAME@@_INVALID_QUERY": ErrorSpec(ConfigurationError, "Correct the request in sources/@@name@@.py."),
    "@@NAME@@_TRANSIENT": ErrorSpec(VendorUnavailable, NOTHING),
""",
    ),
    Entry(
        "docs/runbook.md",
        "### Any vendor\n",
        """### @@Title@@

| code | Penstock | you |
|---|---|---|
| `@@NAME@@_AUTH_ERROR` | stops the run: NEEDS_RECONNECT | Put a valid token into the account's credentials. |
| `@@NAME@@_PERMISSION_DENIED` | stops the run: NEEDS_PERMISSION | Give the token access to the account. |
| `@@NAME@@_RATE_LIMIT` | waits, then puts the run back | Nothing: Penstock waits and goes on by itself. |
| `@@NAME@@_INVALID_QUERY` | stops the run or the stream | Correct the request in sources/@@name@@.py. |
| `@@NAME@@_TRANSIENT` | retries in the client, then in Airflow | Nothing: Penstock waits and goes on by itself. |

""",
    ),
    Entry("sandbox/app.py", "from sandbox.state import", "from sandbox import @@name@@\n"),
    Entry("sandbox/app.py", "        *control.routes", '        Mount("/@@name@@", routes=@@name@@.routes(state)),\n'),
    Entry("sandbox/control.py", "from sandbox.clock import", "from sandbox import @@name@@\n"),
    Entry(
        "sandbox/control.py",
        "        if self._state.bench_events:\n",
        "        accounts += (@@name@@.account(self._state),)\n",
        "async def accounts(",
    ),
    Entry(
        "airflow_settings.yaml",
        "    - conn_id: slack\n",
        """    - conn_id: @@name@@
      conn_type: @@name@@
      conn_description: @@Title@@. Accounts may carry tokens of their own.
      conn_host: ${@@NAME@@_BASE_URL:-https://api.@@host@@.example}
      conn_port: 443
      conn_password: ${@@NAME@@_TOKEN:-}

""",
    ),
    Entry(
        "airflow_settings.yaml",
        "\n  variables:",
        """    - pool_name: @@name@@
      pool_slot: 4
      pool_description: Accounts of @@Title@@ that are read at the same time.
""",
    ),
    Entry("penstock_provider/__init__.py", "_meta_ads()", "_@@name@@(), ", '"connection-types":'),
    Entry(
        "penstock_provider/__init__.py",
        "def _connection_type(",
        """def _@@name@@() -> dict[str, Any]:
    return _connection_type(
        connection_type="@@name@@",
        hook_name="@@Title@@",
        hook_class_name="penstock.hooks.@@name@@.@@Name@@Hook",
        hidden=("login", "schema"),
        labels={"host": "Base URL", "password": "Token"},
        placeholders={"host": "https://api.@@host@@.example", "port": PORT, "password": "Accounts may carry their own"},
        fields={"account_id": _text("Account id", "Optional. The account that the test button reads.")},
    )


""",
    ),
    Entry(
        "stack/plan.py",
        '    Vendor(\n        conn_id="slack",',
        """    Vendor(
        conn_id="@@name@@",
        title="@@Title@@",
        platform="@@NAME@@",
        credential="@@NAME@@_TOKEN",
        account="@@NAME@@_ACCOUNT_ID",
        base_url="@@NAME@@_BASE_URL",
        default_url="https://api.@@host@@.example",
        sandbox_path="/@@name@@",
    ),
""",
    ),
    Entry(
        ".env.example",
        "# The shop (tenant)",
        "# @@Title@@\n#@@NAME@@_TOKEN=\n#@@NAME@@_ACCOUNT_ID=\n#@@NAME@@_BASE_URL=https://api.@@host@@.example\n\n",
    ),
    Entry(
        "docker-compose.yaml",
        "      STEAM_BASE_URL:",
        """      @@NAME@@_TOKEN: ${@@NAME@@_TOKEN:-}
      @@NAME@@_ACCOUNT_ID: ${@@NAME@@_ACCOUNT_ID:-}
      @@NAME@@_BASE_URL: ${@@NAME@@_BASE_URL:-}
""",
    ),
    Entry(
        "include/sql/platform_etl/views/reconciliation.sql",
        "    select\n        total.connection_id,\n        total.date,\n        total.metric,\n",
        """    select
        fact.connection_id,
        fact.date,
        figure.metric,
        figure.currency,
        figure.value,
        null,
        null,
        null
    from core_warehouse.fct_@@name@@_daily as fact
    cross join lateral (
        values
        ('visits', fact.visits, null),
        ('revenue', fact.revenue, fact.currency)
    ) as figure (metric, value, currency)

    union all

""",
    ),
    Entry("docs/model.md", "| `fct_account_totals`", "| `fct_@@name@@_daily` | account, day, item | `days` |\n"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m stack.new_source", description=__doc__)
    parser.add_argument("name", help="registry name: lower case, words joined by underscores")
    parser.add_argument("--title", help="the vendor as it writes itself, such as 'TikTok Ads'; otherwise from the name")
    options = parser.parse_args(arguments)
    try:
        written = write(PROJECT, options.name, options.title)
    except NewSourceError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    print("\n".join(f"wrote {path}" for path in written))
    print(f"\nNext: make docs, then .venv/bin/python -m pytest tests -k {options.name}")
    print("It says what to fill in. docs/adding_a_source.md goes through it step by step.")
    return 0


def write(project: Path, name: str, title: str | None = None) -> list[str]:
    """Everything of a new source; returns the paths written. Raises NewSourceError before anything is written."""
    if not _NAME.fullmatch(name):
        raise NewSourceError(f"{name!r} is no registry name: lower-case words joined by underscores, such as acme_ads")
    if title and not _TITLE.fullmatch(title):
        raise NewSourceError(f"{title!r} is no title: words of letters, digits, '.' and '-', such as TikTok Ads")
    words = Words(name, next_migration(project), title)
    files = {
        words.fill(str(path.relative_to(project / TEMPLATES))).removesuffix(".txt"): path for path in templates(project)
    }
    taken = [path for path in files if (project / path).exists()]
    if taken:
        raise NewSourceError(f"there is a source {name!r} already: {taken[0]}")
    texts = {entry.path: (project / entry.path).read_text(encoding="utf-8") for entry in ENTRIES}
    for entry in ENTRIES:
        texts[entry.path] = enter(texts[entry.path], entry, words)
    texts |= {path: words.fill(template.read_text(encoding="utf-8")) for path, template in files.items()}
    for path, text in texts.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text, encoding="utf-8")
    tidy([project / path for path in texts if path.endswith(".py")])
    return sorted(texts)


def templates(project: Path) -> list[Path]:
    found = sorted(path for path in (project / TEMPLATES).rglob("*.txt"))
    if not found:
        raise NewSourceError(f"{project / TEMPLATES} has no templates")
    return found


def next_migration(project: Path) -> str:
    """The number that the next migration of the platform ETL gets."""
    numbers = [int(path.name[:4]) for path in (project / MIGRATIONS).glob("[0-9][0-9][0-9][0-9]_*.sql")]
    return f"{max(numbers, default=0) + 1:04d}"


def enter(text: str, entry: Entry, words: Words) -> str:
    """The registry's text with the entry. Raises NewSourceError when its place is not to be found."""
    start = text.find(entry.after)
    place = text.find(entry.anchor, start) if start >= 0 else -1
    if place < 0:
        raise NewSourceError(f"{entry.path} has no {entry.anchor.strip()!r}: enter the source there by hand")
    return text[:place] + words.fill(entry.text) + text[place:]


def tidy(paths: Sequence[Path]) -> None:
    """Imports in order, lines as the formatter wants them: both depend on how long the name is."""
    for command in (("check", "--quiet", "--fix", "--select", "I"), ("format", "--quiet")):
        subprocess.run([sys.executable, "-m", "ruff", *command, *map(str, paths)], check=True)


if __name__ == "__main__":
    sys.exit(main())
