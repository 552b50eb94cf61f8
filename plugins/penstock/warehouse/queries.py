"""Named SQL from `include/sql/<concern>/`.

A file `queries.sql` holds blocks that start with a line `-- name: <query name>`; everything up to the next such line
is the query. Parameters are written `%(name)s` (`%(name)b` for binary).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from penstock.core.errors import error

_NAME = re.compile(r"^--\s*name:\s*(\S+)\s*$", re.MULTILINE)


def sql_root() -> Path:
    """The folder with one sub-folder per concern: `PENSTOCK_SQL_DIR`, else `include/sql` beside `plugins`."""
    chosen = os.environ.get("PENSTOCK_SQL_DIR")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[3] / "include" / "sql"


def load(concern: str) -> Mapping[str, str]:
    """The queries of a concern by name. Raises CONFIG_INVALID when the file is missing or a name is used twice."""
    return _read(sql_root() / concern / "queries.sql")


def transform(concern: str, name: str) -> str:
    """The text of `transform/<name>.sql`. Raises CONFIG_INVALID when it is missing."""
    return _text(sql_root() / concern / "transform" / f"{name}.sql")


@functools.cache
def _read(path: Path) -> Mapping[str, str]:
    pieces = _NAME.split(_text(path))
    names, bodies = pieces[1::2], pieces[2::2]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise error("CONFIG_INVALID", f"{path}: query names used twice: {', '.join(sorted(repeated))}")
    return MappingProxyType({name: body.strip() for name, body in zip(names, bodies, strict=True)})


@functools.cache
def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as missing:
        raise error("CONFIG_INVALID", f"{path} is missing: set PENSTOCK_SQL_DIR to the folder include/sql") from missing
