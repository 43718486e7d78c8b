"""What the feed is asked for: requests within the vendor's limits, and which connection asks for what. Pure.

The limits are the vendor's, as documented for WebSocket Streaming 2.0; they have moved before, so they are values that
the caller may replace (`FeedLimits`).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import groupby
from typing import NamedTuple

import msgspec

from app.integrations.angel_one.frames import Exchange, Mode

HEARTBEAT = "ping"
"""Sent every ten seconds; the answer is the text `pong`."""


class Instrument(NamedTuple):
    """What a subscription names."""

    exchange: Exchange
    token: str


class Subscription(NamedTuple):
    """One instrument in one mode: the unit that the vendor counts."""

    mode: Mode
    instrument: Instrument


class Action(IntEnum):
    """What a request does."""

    UNSUBSCRIBE = 0
    SUBSCRIBE = 1


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that the vendor takes, and what one request carries."""

    connections: int = 3
    """Of one client code."""
    per_connection: int = 1000
    """Subscriptions of one connection."""
    depth: int = 50
    """Subscriptions in mode `DEPTH` of one connection, which NSE's cash segment alone has."""
    per_request: int = 200
    """Our own: a request stays a few KiB."""


class SubscriptionError(ValueError):
    """More, or something else, than the vendor takes; the message is for a person."""


class Request(NamedTuple):
    """One message to the feed, and what it is about: a refusal names it by its correlation id."""

    correlation_id: str
    action: Action
    subscriptions: tuple[Subscription, ...]

    def text(self) -> str:
        """As it goes over the wire. All subscriptions have one mode."""
        groups = groupby(self.subscriptions, lambda subscription: subscription.instrument.exchange)
        token_list = [
            {"exchangeType": int(exchange), "tokens": [subscription.instrument.token for subscription in group]}
            for exchange, group in groups
        ]
        params = {"mode": int(self.subscriptions[0].mode), "tokenList": token_list}
        body = {"correlationID": self.correlation_id, "action": int(self.action), "params": params}
        return msgspec.json.encode(body).decode()


def plan(wanted: Iterable[Subscription], limits: FeedLimits | None = None) -> list[list[Subscription]]:
    """The subscriptions of each connection, as few connections as they need; repeats are left out.

    Each goes to the first connection with room, so the first ones, which matter most, share the first connection.
    Raises `SubscriptionError` for one that finds no room, and for depth outside of NSE's cash segment.
    """
    limits = limits or FeedLimits()
    shares = share_out(wanted, (), limits)
    for subscription in shares.left_out:
        if not _possible(subscription):
            raise SubscriptionError(f"Depth of {subscription.instrument.token}: only NSE's cash segment has it.")
        raise SubscriptionError(_too_many(limits))
    return shares.connections


class Shares(NamedTuple):
    """What each connection asks for."""

    connections: list[list[Subscription]]
    left_out: list[Subscription]
    """What found no room, or cannot be had."""


def share_out(
    wanted: Iterable[Subscription], held: Sequence[Collection[Subscription]], limits: FeedLimits | None = None
) -> Shares:
    """`wanted` over connections of which each keeps what it `held`, so that a change disturbs nothing else.

    A connection that nothing is left for stays in its place, empty.
    """
    limits = limits or FeedLimits()
    left = dict.fromkeys(wanted)
    connections: list[list[Subscription]] = []
    for keys in held:
        connections.append([subscription for subscription in left if subscription in keys])
        for subscription in connections[-1]:
            del left[subscription]
    depths = [sum(subscription.mode is Mode.DEPTH for subscription in share) for share in connections]
    left_out: list[Subscription] = []
    for subscription in left:
        deep = subscription.mode is Mode.DEPTH
        place = _place(connections, depths, limits, deep=deep)
        if place == limits.connections or not _possible(subscription):
            left_out.append(subscription)
            continue
        if place == len(connections):
            connections.append([])
            depths.append(0)
        connections[place].append(subscription)
        depths[place] += deep
    return Shares(connections, left_out)


def _possible(subscription: Subscription) -> bool:
    return subscription.mode is not Mode.DEPTH or subscription.instrument.exchange is Exchange.NSE_CM


def _place(
    connections: Sequence[Sequence[Subscription]], depths: Sequence[int], limits: FeedLimits, *, deep: bool
) -> int:
    """The first connection with room, or the number of the next one."""
    for place, held in enumerate(connections):
        if len(held) < limits.per_connection and not (deep and depths[place] >= limits.depth):
            return place
    return len(connections)


def _too_many(limits: FeedLimits) -> str:
    return (
        f"Angel One streams at most {limits.connections * limits.per_connection:,} subscriptions "
        f"({limits.connections} connections of {limits.per_connection:,}; depth: {limits.depth} each)."
    )


def requests(
    action: Action, subscriptions: Iterable[Subscription], *, first_id: int = 1, limits: FeedLimits | None = None
) -> Iterator[Request]:
    """The messages that carry out `action`, each of one mode and of bounded size.

    Correlation ids are `s1`, `s2`, … from `first_id` on: at most ten characters, as the vendor asks.
    """
    limits = limits or FeedLimits()
    ordered = sorted(
        dict.fromkeys(subscriptions), key=lambda subscription: (subscription.mode, subscription.instrument)
    )
    number = first_id
    for _, group in groupby(ordered, lambda subscription: subscription.mode):
        members = tuple(group)
        for start in range(0, len(members), limits.per_request):
            yield Request(f"s{number % 1_000_000_000}", action, members[start : start + limits.per_request])
            number += 1
