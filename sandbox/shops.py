"""The three shops behind all platforms, their vendor accounts, and the drawing of numbers from a key."""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

FIRST_DAY = dt.date(2024, 1, 1)
"""The first day of business; nothing exists before it."""

HORIZON = dt.date(2036, 1, 1)
"""The last day for which campaigns are planned."""

EARLY_SECONDS = 300
"""The night drop: a tenth of a day's orders fall in its first five minutes. They are all that the unfinished day
shows, so that today's numbers are partial and still constant for as long as it is today."""

EARLY_SHARE = 0.1

DELIVERY_SHOWN = (EARLY_SHARE, 0.97, 0.99)
"""Share of a day's final counts that is known 0, 1 and 2 days later; afterwards all of it."""

ATTRIBUTION_DAYS = 28
"""Meta attributes a purchase to a click of up to this many days before."""


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """One tenant. Money is in cents of `currency`; days are cut in `time_zone`."""

    key: str
    shop_id: str
    name: str
    time_zone: str
    currency: str
    domain: str
    orders_per_day: int
    order_cents: int
    cost_per_order_cents: int
    mailing_list: int
    country: str
    regions: tuple[str, ...]
    has_zero_days: bool = False
    has_adless_delivery: bool = False

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    def today(self, now: dt.datetime) -> dt.date:
        """The shop's own calendar day at the aware instant `now`: the as-of day of its accounts."""
        return now.astimezone(self.zone).date()


@dataclass(frozen=True, slots=True, eq=False)
class VendorAccount:
    """One account of a shop at a vendor.

    platform: META, GA4 or KLAVIYO. account_id: the vendor's own (Meta without `act_`).
    credentials: what a client needs beside the base URL; strings.
    """

    platform: str
    shop: Shop
    account_id: str
    name: str
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    settings: Mapping[str, object] = field(default_factory=dict)


SHOPS: tuple[Shop, ...] = (
    Shop(
        key="aurora",
        shop_id="aurora",
        name="Aurora Uhren",
        time_zone="Europe/Zurich",
        currency="CHF",
        domain="aurora-uhren.example",
        orders_per_day=80,
        order_cents=14_500,
        cost_per_order_cents=4_200,
        mailing_list=42_000,
        country="Switzerland",
        regions=("Zurich", "Bern", "Geneva", "Basel-Stadt"),
    ),
    Shop(
        key="borealis",
        shop_id="borealis",
        name="Borealis Outdoor",
        time_zone="America/Los_Angeles",
        currency="USD",
        domain="borealis-outdoor.example",
        orders_per_day=110,
        order_cents=8_900,
        cost_per_order_cents=2_700,
        mailing_list=65_000,
        country="United States",
        regions=("California", "Oregon", "Washington", "Colorado"),
        has_adless_delivery=True,
    ),
    Shop(
        key="kiritimati",
        shop_id="kiritimati",
        name="Kiritimati Swim",
        time_zone="Pacific/Kiritimati",
        currency="AUD",
        domain="kiritimati-swim.example",
        orders_per_day=35,
        order_cents=7_600,
        cost_per_order_cents=2_100,
        mailing_list=12_000,
        country="Australia",
        regions=("Queensland", "New South Wales", "Victoria", "Western Australia"),
        has_zero_days=True,
    ),
)


def digest(*parts: object) -> int:
    """A 64-bit number that depends on nothing but `parts`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def draw(*parts: object) -> random.Random:
    """A generator of numbers that depends on nothing but `parts`."""
    return random.Random(digest(*parts))


_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789"


_CAPITALS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def short_id(*parts: object, length: int = 6) -> str:
    """An id as Klaviyo writes them: letters and digits."""
    rng = draw("id", *parts)
    return "".join(rng.choices(_LETTERS, k=length))


def long_id(moment: dt.date, *parts: object) -> str:
    """An id as Klaviyo writes those of campaigns and their messages: 26 capitals and digits, in the order of time."""
    rng = draw("long id", *parts)
    return f"01{moment.toordinal():06d}" + "".join(rng.choices(_CAPITALS, k=18))


def numeric_id(*parts: object, prefix: str = "1202", digits: int = 15) -> str:
    """An id as Meta writes them: digits only."""
    return prefix + str(digest("number", *parts) % 10 ** (digits - len(prefix))).zfill(digits - len(prefix))


def money(cents: int) -> str:
    """Cents as a decimal string with two places."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def count(rng: random.Random, mean: float) -> int:
    """A count that scatters around `mean` as counts do."""
    if mean <= 0:
        return 0
    return max(0, int(rng.gauss(mean, mean**0.5) + 0.5))


def shown(final: int, day: dt.date, as_of: dt.date) -> int:
    """How much of a day's final count the vendor knows on the day `as_of`."""
    age = (as_of - day).days
    if age < 0:
        return 0
    return int(final * DELIVERY_SHOWN[age]) if age < len(DELIVERY_SHOWN) else final


@functools.lru_cache(maxsize=8192)
def day_start(time_zone: str, day: dt.date) -> dt.datetime:
    """The instant in UTC at which the day begins in that zone."""
    return dt.datetime.combine(day, dt.time(), tzinfo=ZoneInfo(time_zone)).astimezone(dt.UTC)


def day_seconds(time_zone: str, day: dt.date) -> int:
    """Length of the day in that zone: 86,400, or an hour off when clocks change."""
    following = day_start(time_zone, day + dt.timedelta(days=1))
    return int((following - day_start(time_zone, day)).total_seconds())


def instant_of(shop: Shop, day: dt.date, moment: float) -> dt.datetime:
    """The instant of a part (0 to 1) of the day's business: the first tenth of it falls in the first minutes."""
    if moment < EARLY_SHARE:
        seconds = moment / EARLY_SHARE * EARLY_SECONDS
    else:
        rest = day_seconds(shop.time_zone, day) - EARLY_SECONDS - 1
        seconds = EARLY_SECONDS + (moment - EARLY_SHARE) / (1 - EARLY_SHARE) * rest
    return day_start(shop.time_zone, day) + dt.timedelta(seconds=int(seconds))


def moment_of(shop: Shop, day: dt.date, instant: dt.datetime) -> float:
    """The part of the day's business that lies before the instant; the reverse of `instant_of`."""
    seconds = (instant - day_start(shop.time_zone, day)).total_seconds()
    length = day_seconds(shop.time_zone, day)
    if seconds >= length:
        return 1.0
    if seconds <= EARLY_SECONDS:
        return max(0.0, seconds / EARLY_SECONDS * EARLY_SHARE)
    rest = length - EARLY_SECONDS - 1
    return min(1.0, EARLY_SHARE + (seconds - EARLY_SECONDS) / rest * (1 - EARLY_SHARE))


def season(shop: Shop, day: dt.date) -> float:
    """How busy a day is: weekday, season of the year, growth."""
    weekday = (0.95, 0.92, 0.96, 1.0, 1.06, 1.13, 1.08)[day.weekday()]
    yearly = 1.35 if (day.month, day.day) >= (11, 20) and (day.month, day.day) <= (12, 22) else 1.0
    growth = 1.0 + (day - FIRST_DAY).days / 3650
    return weekday * yearly * growth * (0.9 + digest("season", shop.key, day) % 1000 / 5000)
