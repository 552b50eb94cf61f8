"""Proto3's JSON: requests as the API's clients write them, answers as the API does.

https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ENUMS: Mapping[str, Mapping[int, str]] = {
    "metricAggregations": {0: "METRIC_AGGREGATION_UNSPECIFIED", 1: "TOTAL", 4: "COUNT", 5: "MINIMUM", 6: "MAXIMUM"},
    "orderType": {
        0: "ORDER_TYPE_UNSPECIFIED",
        1: "ALPHANUMERIC",
        2: "CASE_INSENSITIVE_ALPHANUMERIC",
        3: "NUMERIC",
    },
    "matchType": {
        0: "MATCH_TYPE_UNSPECIFIED",
        1: "EXACT",
        2: "BEGINS_WITH",
        3: "ENDS_WITH",
        4: "CONTAINS",
        5: "FULL_REGEXP",
        6: "PARTIAL_REGEXP",
    },
    "operation": {
        0: "OPERATION_UNSPECIFIED",
        1: "EQUAL",
        2: "LESS_THAN",
        3: "LESS_THAN_OR_EQUAL",
        4: "GREATER_THAN",
        5: "GREATER_THAN_OR_EQUAL",
    },
    "compatibilityFilter": {0: "COMPATIBILITY_UNSPECIFIED", 1: "COMPATIBLE", 2: "INCOMPATIBLE"},
}
"""Enums of the requests: a client may send their numbers (`$alt=json;enum-encoding=int`)."""


def normal(value: Any, key: str = "") -> Any:
    """A decoded request with lowerCamelCase keys and enums by name."""
    if isinstance(value, Mapping):
        return {_camel(str(name)): normal(item, _camel(str(name))) for name, item in value.items()}
    if isinstance(value, list):
        return [normal(item, key) for item in value]
    if key in ENUMS and isinstance(value, int):
        return ENUMS[key].get(value, str(value))
    return value


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def without_defaults(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as proto3 writes it: fields at their default (0, false, empty) are left out."""
    return {name: value for name, value in message.items() if value not in (0, False, "", None) and value != []}
