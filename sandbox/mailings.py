"""Campaigns and flows of a Klaviyo account, and what their messages do day by day."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.shops import FIRST_DAY, Shop, count, draw, long_id, season, short_id, shown

OPEN_DAYS = (0.70, 0.18, 0.07, 0.03, 0.02)
"""Shares of a campaign's opens and clicks on the day it is sent and the days after."""

ARCHIVED_AFTER_DAYS = 180

SEND_HOUR = 10
"""Campaigns leave at ten in the morning, the shop's time."""

PLANNED_DAYS = 7
"""Campaigns are in the account (as Scheduled) this many days before they are sent."""

_FLOWS = (
    ("Welcome Series", "Added to List", 3, 0.0030),
    ("Abandoned Cart", "Metric", 3, 0.0045),
    ("Browse Abandonment", "Metric", 2, 0.0060),
    ("Post Purchase", "Metric", 2, 0.0040),
    ("Winback", "Metric", 2, 0.0015),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a campaign or flow. `channel`: email, sms or mobile_push."""

    message_id: str
    name: str
    channel: str
    campaign_id: str | None = None
    flow_id: str | None = None
    sent_on: dt.date | None = None


@dataclass(frozen=True, slots=True)
class MailCampaign:
    """A campaign with its one message; `sent_on` is the shop's day on which it leaves."""

    campaign_id: str
    name: str
    channel: str
    sent_on: dt.date
    message: Message
    is_cancelled: bool = False

    def status(self, as_of: dt.date) -> str:
        """Sent, Cancelled or Scheduled on the day `as_of`. Of today's own nothing has left yet."""
        if self.sent_on >= as_of:
            return "Scheduled"
        return "Cancelled" if self.is_cancelled else "Sent"

    def is_archived(self, as_of: dt.date) -> bool:
        return (as_of - self.sent_on).days > ARCHIVED_AFTER_DAYS


@dataclass(frozen=True, slots=True)
class Flow:
    flow_id: str
    name: str
    trigger_type: str
    status: str
    is_archived: bool
    first_day: dt.date
    messages: tuple[Message, ...]
    daily_share: float


@dataclass(frozen=True, slots=True)
class MessageDay:
    """What one message did on one day, as known on the as-of day. Orders are attributed on the day of the order.

    recipients = received + bounced. `opened` and `clicked` count events, the `unique_` ones people.
    """

    day: dt.date
    message: Message
    received: int
    bounced: int
    opened: int
    unique_opened: int
    clicked: int
    unique_clicked: int
    unsubscribed: int
    orders: int = 0
    order_cents: int = 0


class MailModel:
    """The campaigns and flows of all shops. A pure function of the seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.campaign_of_day = functools.lru_cache(maxsize=16384)(self._campaign_of_day)
        self.flows = functools.lru_cache(maxsize=16)(self._flows)
        self.final = functools.lru_cache(maxsize=8192)(self._final)

    def _campaign_of_day(self, shop: Shop, day: dt.date) -> MailCampaign | None:
        """The campaign that is sent on that day, if one is: e-mail on Tuesdays and Fridays, a text message on the
        15th, a push message on the 25th."""
        if day < FIRST_DAY:
            return None
        channel = _channel_of_day(day)
        if channel is None:
            return None
        campaign_id = long_id(day, self._seed, shop.key, "campaign", day)
        rng = draw(self._seed, shop.key, "campaign", day)
        topic = rng.choice(("New in", "Last chance", "Made for you", "Weekend", "Back in stock", "Größen & Farben 🎁"))
        name = f"{day.isoformat()} {topic}"
        message = Message(
            long_id(day, self._seed, shop.key, "message", day),
            name,
            channel,
            campaign_id=campaign_id,
            sent_on=day,
        )
        return MailCampaign(campaign_id, name, channel, day, message, is_cancelled=rng.random() < 0.04)

    def campaigns(self, shop: Shop, as_of: dt.date) -> Iterator[MailCampaign]:
        """All campaigns that the account shows on `as_of`, oldest first, those of the coming week included."""
        day = FIRST_DAY
        while day <= as_of + dt.timedelta(days=PLANNED_DAYS):
            campaign = self.campaign_of_day(shop, day)
            if campaign is not None:
                yield campaign
            day += dt.timedelta(days=1)

    def _flows(self, shop: Shop) -> tuple[Flow, ...]:
        flows = [self._flow(shop, *each, is_archived=False) for each in _FLOWS]
        flows.append(self._flow(shop, "Old Welcome 2023", "Added to List", 2, 0.0, is_archived=True))
        return tuple(flows)

    def _flow(
        self, shop: Shop, name: str, trigger: str, messages: int, daily_share: float, *, is_archived: bool
    ) -> Flow:
        flow_id = short_id(self._seed, shop.key, "flow", name)
        return Flow(
            flow_id,
            name,
            trigger,
            "draft" if is_archived else "live",
            is_archived,
            FIRST_DAY,
            tuple(
                Message(
                    short_id(self._seed, shop.key, "flow message", name, number),
                    f"{name}: Email {number + 1}",
                    "email",
                    flow_id=flow_id,
                )
                for number in range(messages)
            ),
            daily_share,
        )

    def sent_before(self, shop: Shop, day: dt.date, days: int) -> tuple[MailCampaign, ...]:
        """Campaigns that left on the `days` days up to and including `day`."""
        found = (self.campaign_of_day(shop, day - dt.timedelta(days=back)) for back in range(days))
        return tuple(each for each in found if each is not None and not each.is_cancelled)

    def _final(self, shop: Shop, day: dt.date) -> tuple[MessageDay, ...]:
        """The final numbers of all messages that did anything on that day, without orders."""
        if day < FIRST_DAY:
            return ()
        rows = [self._campaign_day(shop, each, day) for each in self.sent_before(shop, day, len(OPEN_DAYS))]
        for flow in self.flows(shop):
            for number, message in enumerate(flow.messages):
                if flow.daily_share:
                    rows.append(self._flow_day(shop, flow, message, number, day))
        return tuple(rows)

    def _campaign_day(self, shop: Shop, campaign: MailCampaign, day: dt.date) -> MessageDay:
        rng = draw(self._seed, shop.key, "sent", campaign.sent_on)
        share = {"email": rng.uniform(0.5, 0.9), "sms": 0.12, "mobile_push": 0.2}[campaign.channel]
        recipients = int(shop.mailing_list * share)
        bounced = int(recipients * rng.uniform(0.002, 0.008))
        unique_opened = int((recipients - bounced) * rng.uniform(0.25, 0.42))
        unique_clicked = int(unique_opened * rng.uniform(0.04, 0.08))
        age = (day - campaign.sent_on).days
        on_day = OPEN_DAYS[age]
        return MessageDay(
            day,
            campaign.message,
            recipients - bounced if age == 0 else 0,
            bounced if age == 0 else 0,
            int(unique_opened * on_day * 1.35),
            int(unique_opened * on_day),
            int(unique_clicked * on_day * 1.2),
            int(unique_clicked * on_day),
            int(recipients * 0.0012 * on_day),
        )

    def _flow_day(self, shop: Shop, flow: Flow, message: Message, number: int, day: dt.date) -> MessageDay:
        rng = draw(self._seed, message.message_id, day)
        received = count(rng, shop.mailing_list * flow.daily_share * season(shop, day) * 0.7**number)
        unique_opened = int(received * rng.uniform(0.38, 0.52))
        unique_clicked = int(unique_opened * rng.uniform(0.08, 0.14))
        return MessageDay(
            day,
            message,
            received,
            int(received * 0.005),
            int(unique_opened * 1.4),
            unique_opened,
            int(unique_clicked * 1.2),
            unique_clicked,
            int(received * 0.002),
        )

    def known(self, shop: Shop, day: dt.date, as_of: dt.date) -> tuple[MessageDay, ...]:
        """The rows of `final` as known on `as_of`. Today's campaign has not left yet."""
        if day > as_of:
            return ()
        return tuple(
            _as_known(each, as_of)
            for each in self.final(shop, day)
            if not (each.message.sent_on is not None and each.message.sent_on >= as_of)
        )


def _channel_of_day(day: dt.date) -> str | None:
    if day.day == 15:
        return "sms"
    if day.day == 25:
        return "mobile_push"
    return "email" if day.weekday() in (1, 4) else None


def _as_known(each: MessageDay, as_of: dt.date) -> MessageDay:
    def known(final: int) -> int:
        return shown(final, each.day, as_of)

    return MessageDay(
        each.day,
        each.message,
        known(each.received),
        known(each.bounced),
        known(each.opened),
        known(each.unique_opened),
        known(each.clicked),
        known(each.unique_clicked),
        known(each.unsubscribed),
    )
