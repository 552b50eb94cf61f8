"""Nivoda: diamonds of many suppliers behind one GraphQL endpoint. Queries and parsing; the client sends them.

The API has no public reference. What is written here comes from its introspection (March 2024) and from public clients:
https://github.com/nivoda/nivoda-api
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from penstock.core.errors import error
from penstock.sources.fields import Checker, compile_fields, excerpt, find, optional, required
from penstock.sources.stream import Limit, Record, Request

DEFAULT_ENDPOINT: Final = "https://integrations.nivoda.net/api/diamonds"
STAGING_ENDPOINT: Final = "https://intg-customer-staging.nivodaapi.net/api/diamonds"

PAGE_SIZE: Final = 50
"""Most items of one page; more are refused."""

MAX_OFFSET: Final = 50_000
"""Highest offset that is answered."""

TOP: Final = 2_000_000_000
"""The highest bound of a price range in dollars: IntRange bounds are 32-bit integers."""

CERTIFICATES_PER_CALL: Final = 25
"""Several suppliers may offer one certificate: so many numbers leave room in a page of `PAGE_SIZE`."""

FAMILY: Final = "graphql"
DEFAULT_RATE: Final = 10
HIGHEST_RATE: Final = 25
"""Requests a second. The vendor publishes no limit; its clients name 25 as the agreed one."""

FEEDS: Final[Mapping[str, Mapping[str, Any]]] = {"natural": {"labgrown": False}, "labgrown": {"labgrown": True}}
"""Feed -> what its queries say. Left out, `labgrown` finds natural stones: it is always sent."""

OLD_BASE_FILTER: Final[Mapping[str, Any]] = {
    "shapes": [
        "ROUND",
        "OVAL",
        "EMERALD",
        "CUSHION",
        "CUSHION B",
        "CUSHION MODIFIED",
        "ASSCHER",
        "RADIANT",
        "HEART",
        "PRINCESS",
        "MARQUISE",
        "PEAR",
        "TRILLIANT",
        "BAGUETTE",
        "OLD MINER",
        "EUROPEAN CUT",
        "ROSE",
    ],
    "sizes": [{"from": 0.4, "to": 15.01}],
    "has_image": True,
    "has_v360": True,
    "availability": ["AVAILABLE"],
    "hide_memo": True,
}
"""The stones that the shop shows, as a base filter: 0.4 to 15 carats, with image or video, to be had at once."""

ORDERS: Final = ("createdAt", "price")

STAGING_ENUMS: Final = frozenset({"clarity", "floInt", "floCol", "labgrown_type"})
"""Fields that staging fills with values outside its own enumerations; leaving them out avoids the errors."""

ITEM_FIELDS: Final = ("id", "price", "discount", "markup_price", "markup_discount")
STONE_FIELDS: Final = (
    "id",
    "availability",
    "HoldId",
    "image",
    "video",
    "supplier_video_link",
    "v360 { url frame_count }",
    "brown",
    "green",
    "blue",
    "gray",
    "other",
    "milky",
    "bowtie",
    "eyeClean",
    "mine_of_origin",
    "location",
    "final_price",
    "return_window",
    "CertificateType",
    "supplierStockId",
    "supplier { id name legal_name }",
    "delivery_time { express_timeline_applicable min_business_days max_business_days }",
)
CERTIFICATE_FIELDS: Final = (
    "id",
    "lab",
    "certNumber",
    "shape",
    "fullShape",
    "carats",
    "clarity",
    "cut",
    "polish",
    "symmetry",
    "color",
    "f_color",
    "f_intensity",
    "f_overtone",
    "colorShade",
    "length",
    "width",
    "depth",
    "depthPercentage",
    "table",
    "crownAngle",
    "crownHeight",
    "pavAngle",
    "pavHeight",
    "pavDepth",
    "starLength",
    "lowerGirdle",
    "girdle",
    "culetSize",
    "floInt",
    "floCol",
    "labgrown",
    "labgrown_type",
    "treated",
    "pdfUrl",
    "keyToSymbols",
    "comments",
)

Query = dict[str, Any]
"""A `DiamondQuery`."""


def diamond_fields(without: frozenset[str] = frozenset()) -> str:
    """The selection of one item; `without`: certificate fields to leave out."""
    certificate = " ".join(name for name in CERTIFICATE_FIELDS if name not in without)
    return f"{' '.join(ITEM_FIELDS)} diamond {{ {' '.join(STONE_FIELDS)} certificate {{ {certificate} }} }}"


DIAMOND_FIELDS: Final = diamond_fields()

LOGIN_DOCUMENT: Final = (
    "query Login($username: String!, $password: String!) "
    "{ authenticate { username_and_password(username: $username, password: $password) { token expires } } }"
)


def page_document(*, with_count: bool, without: frozenset[str] = frozenset()) -> str:
    """The query of one page; `with_count` asks for the true number of all stones in the same call, because a page's
    own `total_count` is its length."""
    count = " n: diamonds_by_query_count(query: $query)" if with_count else ""
    return (
        "query Page($query: DiamondQuery, $offset: Int, $limit: Int, $order: DiamondOrder) "
        "{ page: diamonds_by_query(query: $query, offset: $offset, limit: $limit, order: $order) "
        f"{{ items {{ {diamond_fields(without)} }} }}{count} }}"
    )


def counts_document(number: int) -> str:
    """Several counts in one query, by aliases n0, n1, ..."""
    variables = ", ".join(f"$q{place}: DiamondQuery" for place in range(number))
    fields = " ".join(f"n{place}: diamonds_by_query_count(query: $q{place})" for place in range(number))
    return f"query Counts({variables}) {{ {fields} }}"


# -- rate limits


def limits(rate: int = DEFAULT_RATE) -> dict[str, tuple[Limit, ...]]:
    """The pace of an account. Raises CONFIG_INVALID for a rate outside 1 to `HIGHEST_RATE` requests a second."""
    if not 1 <= rate <= HIGHEST_RATE:
        raise error("CONFIG_INVALID", f"requests_per_second is from 1 to {HIGHEST_RATE}, got {rate}")
    return {FAMILY: (Limit(rate, 1.0),)}


LIMITS: Final = limits()


# -- filters

RESERVED: Final = frozenset({"labgrown", "dollar_value", "dollar_per_carat", "updated", "certificate_numbers"})
KEY_FIELDS: Final = ("dollar_value", "dollar_per_carat")


def base_query(feed: str, settings: Mapping[str, Any] | None = None) -> Query:
    """The filter of a feed. `settings`: more fields of `DiamondQuery`, such as `OLD_BASE_FILTER`.

    Raises CONFIG_INVALID for an unknown feed and for fields that the reading itself sets.
    """
    if feed not in FEEDS:
        raise error("CONFIG_INVALID", f"feed is one of {', '.join(FEEDS)}, got {feed!r}")
    more = dict(settings or {})
    taken = RESERVED & set(more)
    if taken:
        raise error("CONFIG_INVALID", f"a base filter cannot set {', '.join(sorted(taken))}")
    # Searching on the marked-up price would filter on another price than the one that is sent.
    return {**more, **FEEDS[feed], "search_on_markup_price": False}


def with_price(query: Mapping[str, Any], key_field: str, low: int, high: int) -> Query:
    """`query`, limited to whole dollars of `key_field` (one of `KEY_FIELDS`), both bounds included."""
    if key_field not in KEY_FIELDS:
        raise error("CONFIG_INVALID", f"the partition key is one of {', '.join(KEY_FIELDS)}, got {key_field!r}")
    return {**query, key_field: {"from": low, "to": high}}


def with_sizes(query: Mapping[str, Any], low: float, high: float) -> Query:
    """`query`, limited to these carats, both bounds included, inside the sizes that it has already."""
    held = query.get("sizes") or [{"from": low, "to": high}]
    both = [{"from": max(low, each["from"]), "to": min(high, each["to"])} for each in held]
    # An empty list would be no filter at all; a range that nothing fits says what is meant.
    return {**query, "sizes": [each for each in both if each["from"] <= each["to"]] or both[:1]}


def with_updated(query: Mapping[str, Any], since: dt.datetime | None, until: dt.datetime | None) -> Query:
    """`query`, limited to stones last touched in that time (aware instants), both ends included."""
    bounds = {"from": iso(since), "to": iso(until)}
    return {**query, "updated": {name: text for name, text in bounds.items() if text is not None}}


def iso(instant: dt.datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds, as the vendor's own clients send it."""
    if instant is None:
        return None
    text = instant.astimezone(dt.UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


# -- requests: `path` names the call, the endpoint is one

LOGIN_PATH: Final = "login"


class Hidden(dict[str, str]):
    """Variables of a call whose repr does not show them, since requests end up in tracebacks."""

    def __repr__(self) -> str:
        return "{***}"


def login_request(username: str, password: str) -> Request:
    """The call for a new token."""
    variables = Hidden(username=username, password=password)
    return Request("POST", LOGIN_PATH, body={"query": LOGIN_DOCUMENT, "variables": variables}, limit=FAMILY)


def page_request(
    query: Mapping[str, Any],
    offset: int,
    limit: int,
    order: str,
    direction: str = "ASC",
    *,
    with_count: bool = False,
    without: frozenset[str] = frozenset(),
) -> Request:
    """The call for one page."""
    variables = {
        "query": query,
        "offset": offset,
        "limit": limit,
        "order": {"type": order, "direction": direction},
    }
    document = page_document(with_count=with_count, without=without)
    return Request("POST", "page", body={"query": document, "variables": variables}, limit=FAMILY)


def counts_request(queries: Sequence[Mapping[str, Any]]) -> Request:
    """The call for several counts at once."""
    variables = {f"q{place}": query for place, query in enumerate(queries)}
    body = {"query": counts_document(len(queries)), "variables": variables}
    return Request("POST", "counts", body=body, limit=FAMILY)


# -- answers


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    items: the good ones, as the vendor sent them. count: of all stones that the query finds, where it was asked.
    bad: place in the page and reason of items with errors; partial: what came of them all the same, by place.
    """

    items: list[Record]
    count: int | None = None
    bad: list[tuple[int, str]] = field(default_factory=list)
    partial: Mapping[int, Record] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Items that the vendor sent, the bad ones among them."""
        return len(self.items) + len(self.bad)


@dataclass(frozen=True, slots=True)
class LookUp:
    """What is told of some certificates.

    items: theirs, the good ones. unclear: numbers of calls of which an item is bad or did not come: whose it is nobody
    says.
    """

    items: list[Record]
    unclear: frozenset[str]


def parse_page(body: Any) -> Page:
    """The page in an answer. Raises SCHEMA_MISMATCH."""
    data = find(body, "data")
    sent = find(data, "page", "items")
    if type(sent) is not list:
        raise error("SCHEMA_MISMATCH", f"the answer has no list data.page.items, got {excerpt(body)}")
    reasons: dict[int, str] = {}
    for failure in find(body, "errors") or ():
        place = item_place(failure)
        if place is not None:
            reasons.setdefault(place, str(find(failure, "message")))
    for place, item in enumerate(sent):
        if type(item) is not dict:
            reasons.setdefault(place, f"the item is no object but {excerpt(item)}")
    return Page(
        items=[item for place, item in enumerate(sent) if place not in reasons],
        count=_count(data, "n") if "n" in data else None,
        bad=sorted((place, reason) for place, reason in reasons.items() if place < len(sent)),
        partial={place: sent[place] for place in reasons if place < len(sent) and type(sent[place]) is dict},
    )


def parse_counts(body: Any, number: int) -> list[int]:
    """The answers to `counts_request`. Raises SCHEMA_MISMATCH."""
    data = find(body, "data")
    return [_count(data, f"n{place}") for place in range(number)]


def _count(data: Any, name: str) -> int:
    value = find(data, name)
    if type(value) is not int or value < 0:
        raise error("SCHEMA_MISMATCH", f"the answer has no count {name}, got {excerpt(value)}")
    return value


def item_place(failure: Any) -> int | None:
    """The place of the item that an error concerns: its path holds `items` and a number. None: it is another's."""
    path = find(failure, "path")
    if type(path) is not list or "items" not in path:
        return None
    after = path[path.index("items") + 1 :]
    return after[0] if after and type(after[0]) is int else None


# -- stones


@dataclass(frozen=True, slots=True)
class Stone:
    """An item as `raw_diamonds_nivoda` keeps it.

    supplier_stone_id: of the diamond. offer_id: of the item; the vendor makes it of the diamond's id today.
    """

    supplier_stone_id: str
    offer_id: str
    price_cents: int
    carats: float
    certificate_number: str
    payload: Record


_CHECK: Final[Checker] = compile_fields(
    (
        *required("id", "id", "diamond/id"),
        *required("integer", "price"),
        *required("text", "diamond/availability", "diamond/certificate/shape", "diamond/certificate/certNumber"),
        *required("decimal", "diamond/certificate/carats"),
        *optional("integer", "discount", "markup_price", "markup_discount", "diamond/return_window"),
        *optional("boolean", "diamond/final_price", "diamond/certificate/labgrown", "diamond/certificate/treated"),
        *optional("object", "diamond/supplier", "diamond/v360", "diamond/delivery_time"),
        *optional(
            "text",
            "diamond/image",
            "diamond/video",
            "diamond/supplier_video_link",
            "diamond/eyeClean",
            "diamond/milky",
            "diamond/brown",
            "diamond/green",
            "diamond/supplier/name",
            "diamond/supplier/legal_name",
            "diamond/v360/url",
            *(
                f"diamond/certificate/{name}"
                for name in CERTIFICATE_FIELDS
                if name not in {"id", "certNumber", "shape", "carats", "labgrown", "treated"}
            ),
        ),
    )
)


def stone(item: Record) -> Stone:
    """What is kept of an item. Raises UnreadableRecord: MISSING_KEY, WRONG_TYPE."""
    _CHECK(item)
    diamond = item["diamond"]
    certificate = diamond["certificate"]
    price, carats = int(item["price"]), float(certificate["carats"])
    if price <= 0 or carats <= 0:
        raise error("WRONG_TYPE", f"price and carats should be positive, got {price} cents and {carats} carats")
    return Stone(str(diamond["id"]), str(item["id"]), price, carats, certificate["certNumber"], item)
