"""The hub and its outboxes: who gets what, in bounded space, with exact counts of what was missed."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.clock import SystemClock, to_micros
from app.core.errors import UnauthorizedError
from app.core.hub import Hub
from app.core.outbox import POLICIES, Audience, Bounds, Channel, Message, Subscriber

ANN, BOB = "a" * 24, "b" * 24


class SetClock(SystemClock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment


def ignore() -> None:
    pass


def listener(hub: Hub, *channels: Channel, owner: str | None = None) -> Subscriber:
    subscriber = hub.attach(ignore)
    hub.identify(subscriber, owner)
    for channel in channels:
        hub.subscribe(subscriber, channel)
    return subscriber


def drain(subscriber: Subscriber, most: int = 1_000_000) -> list[dict[str, Any]]:
    """Everything that waits, or the first `most` writes of it."""
    messages: list[dict[str, Any]] = []
    while most and (texts := subscriber.take()):
        messages.extend(json.loads(text) for text in texts)
        most -= 1
    return messages


# Form and numbering


def test_a_message_is_encoded_once_for_all() -> None:
    hub = Hub(SetClock())
    subscribers = [listener(hub, Channel.TICKS) for _ in range(3)]
    assert hub.publish("ticks", b'{"price":1}', key="A") == 3
    texts = [subscriber.take()[0] for subscriber in subscribers]
    assert texts[0] is texts[1] is texts[2]
    assert json.loads(texts[0]) == {
        "type": "tick",
        "channel": "ticks",
        "seq": to_micros(SetClock().now()) + 1,
        "ts": "2026-11-22T09:30:00.000+00:00",
        "data": {"price": 1},
    }


def test_nothing_is_encoded_for_nobody() -> None:
    hub = Hub(SetClock())
    listener(hub, Channel.ALERTS, owner=BOB)
    assert hub.publish(Channel.ALERTS, b"\xff cannot be decoded", owner=ANN) == 0
    assert hub.counts[Channel.ALERTS].published == 1


def test_seq_is_the_publishers_or_grows_with_the_clock() -> None:
    clock = SetClock()
    hub = Hub(clock)
    subscriber = listener(hub, Channel.SIGNALS, owner=ANN)
    start = to_micros(clock.moment)
    hub.publish("signals", b"0")
    hub.publish("signals", b"1")
    clock.moment += timedelta(seconds=1)
    hub.publish("signals", b"2")
    clock.moment -= timedelta(seconds=5)  # a clock set back does not take the numbers back
    hub.publish("signals", b"3")
    hub.publish("signals", b"4", seq=7)
    hub.publish("signals", b"5")
    seqs = [message["seq"] for message in drain(subscriber)]
    later = start + 1_000_000
    assert seqs == [start + 1, start + 2, later, later + 1, 7, later + 2]


def test_a_position_lies_between_what_was_and_what_comes() -> None:
    hub = Hub(SetClock())
    subscriber = listener(hub, Channel.JOBS, owner=ANN)
    hub.publish("jobs", b"1")
    position = hub.position(Channel.JOBS)
    hub.publish("jobs", b"2")
    before, after = drain(subscriber)
    assert before["seq"] <= position < after["seq"]


def test_unknown_channels_and_wrong_owners_are_mistakes_of_the_publisher() -> None:
    hub = Hub(SetClock())
    for channel, owner in (("nope", None), ("alerts", None), ("orders", None), ("ticks", ANN)):
        with pytest.raises(ValueError, match=channel):
            hub.publish(channel, b"1", owner=owner)


# Access


def test_private_channels_need_an_owner() -> None:
    hub = Hub(SetClock())
    subscriber = hub.attach(ignore)
    for channel, policy in POLICIES.items():
        if policy.audience is Audience.EVERYBODY:
            hub.subscribe(subscriber, channel)
        else:
            with pytest.raises(UnauthorizedError, match=channel):
                hub.subscribe(subscriber, channel)
    assert list(subscriber.lanes) == [Channel.TICKS]


def test_another_owner_ends_the_private_subscriptions_and_forgets_what_waits() -> None:
    hub = Hub(SetClock())
    subscriber = listener(hub, Channel.ALERTS, Channel.TICKS, owner=ANN)
    hub.publish("alerts", b"1", owner=ANN)
    hub.publish("ticks", b"2", key="A")
    subscriber.reply(Message(Channel.ALERTS, 1, '{"replayed":true}'))
    assert hub.identify(subscriber, ANN) == []
    assert hub.identify(subscriber, BOB) == [Channel.ALERTS]
    assert [message["data"] for message in drain(subscriber)] == [2]


def test_owners_with_the_same_key_do_not_conflate() -> None:
    hub = Hub(SetClock())
    ann, bob = listener(hub, Channel.ORDERS, owner=ANN), listener(hub, Channel.ORDERS, owner=BOB)
    hub.publish("orders", b'"ann"', owner=ANN, key="1")
    hub.publish("orders", b'"bob"', owner=BOB, key="1")
    assert [message["data"] for message in drain(ann)] == ["ann"]
    assert [message["data"] for message in drain(bob)] == ["bob"]


owners = st.sampled_from([None, ANN, BOB])
channels = st.sampled_from([Channel.TICKS, Channel.CANDLES, Channel.ALERTS, Channel.SIGNALS])
symbols = st.sampled_from(["A", "B", "C"])
clients = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("identify"), clients, owners),
    st.tuples(st.just("subscribe"), clients, channels, st.none() | st.sets(symbols, min_size=1)),
    st.tuples(st.just("unsubscribe"), clients, channels, st.none() | st.sets(symbols, min_size=1)),
    st.tuples(st.just("publish"), channels, owners, st.none() | symbols),
)


class Expected:
    """What a client should hear, written down plainly."""

    def __init__(self) -> None:
        self.owner: str | None = None
        self.wants: dict[Channel, set[str] | None] = {}

    def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("identify", _, owner):
                if owner != self.owner:
                    self.owner, self.wants = owner, {c: w for c, w in self.wants.items() if c is Channel.TICKS}
            case ("subscribe", _, channel, chosen):
                known = self.wants.get(channel, set())
                self.wants[channel] = None if chosen is None or known is None else known | chosen
            case ("unsubscribe", _, channel, chosen) if channel in self.wants:
                known = self.wants[channel]
                left = known - chosen if known is not None and chosen is not None else set()
                self.wants[channel] = left
                if not left:
                    del self.wants[channel]

    def hears(self, channel: Channel, owner: str | None, symbol: str | None) -> bool:
        wanted = channel in self.wants and (self.wants[channel] is None or symbol in (self.wants[channel] or ()))
        return wanted and (owner is None or owner == self.owner)


def refused(channel: Channel, owner: str | None) -> bool:
    """Whether a message of this owner has no place on the channel."""
    return owner is None if channel is Channel.ALERTS else (channel is Channel.TICKS and owner is not None)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=40))
def test_messages_reach_exactly_those_concerned(history: list[tuple[Any, ...]]) -> None:
    hub = Hub(SetClock(), bounds=Bounds(messages=1000))
    real, expected = [hub.attach(ignore) for _ in range(4)], [Expected() for _ in range(4)]
    for number, step in enumerate(history):
        if step[0] == "publish":
            _, channel, owner, symbol = step
            if refused(channel, owner):
                with pytest.raises(ValueError, match=channel):
                    hub.publish(channel, b"0", owner=owner, symbol=symbol)
                continue
            heard = hub.publish(channel, b"%d" % number, owner=owner, symbol=symbol)
            concerned = [one.hears(channel, owner, symbol) for one in expected]
            assert heard == sum(concerned)
            # Drained at once, so that the other steps may forget nothing that waits.
            received = [[message["data"] for message in drain(subscriber)] for subscriber in real]
            assert received == [[number] if hears else [] for hears in concerned]
            continue
        try:
            getattr(hub, step[0])(real[step[1]], *step[2:])
        except (UnauthorizedError, ValueError):
            continue
        expected[step[1]].step(step)
    for subscriber in real:
        hub.detach(subscriber)
    for feed in hub._feeds.values():
        assert (feed.everything, feed.symbols, feed.owners) == (set(), {}, {})
    assert hub.health()["clients"] == 0


# Bounds and counts

MESSAGES, KEYS = 5, 3
events = st.one_of(
    st.tuples(st.just("plain"), st.sampled_from([Channel.SIGNALS, Channel.JOBS])),
    st.tuples(st.just("keyed"), st.sampled_from(["A", "B", "C", "D"])),
    st.tuples(st.just("take"), st.integers(1, 6)),
    st.tuples(st.just("hold"), st.booleans()),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(events, max_size=80))
def test_an_outbox_stays_in_its_bounds_and_counts_what_it_lost(history: list[tuple[str, Any]]) -> None:
    hub = Hub(SetClock(), bounds=Bounds(messages=MESSAGES, keys=KEYS))
    subscriber = listener(hub, Channel.SIGNALS, Channel.JOBS, Channel.TICKS, owner=ANN)
    offered = dict.fromkeys(Channel, 0)
    messages: list[dict[str, Any]] = []
    for number, (kind, value) in enumerate(history):
        match kind:
            case "plain":
                hub.publish(value, b"%d" % number)
                offered[value] += 1
            case "keyed":
                hub.publish("ticks", b'{"key":"%s","n":%d}' % (value.encode(), number), key=value)
                offered[Channel.TICKS] += 1
            case "take":
                messages += drain(subscriber, value)
            case "hold":
                if value:
                    subscriber.hold(Channel.JOBS)
                else:
                    subscriber.release(Channel.JOBS, (), 0)
        assert len(subscriber._plain) <= MESSAGES
        assert len(subscriber._newest) <= KEYS
    subscriber.release(Channel.JOBS, (), 0)
    messages += drain(subscriber)
    assert subscriber.pending == 0

    for channel in (Channel.SIGNALS, Channel.JOBS, Channel.TICKS):
        of_channel = [message for message in messages if message["channel"] == channel]
        delivered = [message for message in of_channel if message["type"] != "missed"]
        missed = sum(message["count"] for message in of_channel if message["type"] == "missed")
        # What was dropped after the last delivery is told before the next one.
        untold = subscriber.lanes[channel].missed
        assert len(delivered) + missed + untold == offered[channel]
        assert hub.counts[channel].delivered == len(delivered)
        assert hub.counts[channel].missed == missed + untold
        assert untold == 0
        check_order(channel, delivered)
    check_newest(history, messages)


def check_order(channel: Channel, delivered: list[dict[str, Any]]) -> None:
    by_key: dict[str, list[int]] = {}
    for message in delivered:
        by_key.setdefault(message["data"]["key"] if channel is Channel.TICKS else "", []).append(message["seq"])
    for seqs in by_key.values():
        assert seqs == sorted(set(seqs))


def check_newest(history: list[tuple[str, Any]], messages: list[dict[str, Any]]) -> None:
    """The last tick delivered of a symbol is its newest, unless more symbols waited than there is room for."""
    if len({value for kind, value in history if kind == "keyed"}) > KEYS:
        return
    newest = {value: number for number, (kind, value) in enumerate(history) if kind == "keyed"}
    ticks = [message["data"] for message in messages if message["type"] == "tick"]
    assert {tick["key"]: tick["n"] for tick in ticks} == newest


def test_what_was_missed_is_told_before_the_next_message() -> None:
    hub = Hub(SetClock(), bounds=Bounds(messages=2))
    subscriber = listener(hub, Channel.ALERTS, owner=ANN)
    hub.publish("alerts", b"0", owner=ANN, seq=2_000_000_000_000_000)
    drain(subscriber)
    for number in range(1, 6):
        hub.publish("alerts", b"%d" % number, owner=ANN, seq=2_000_000_000_000_000 + number)
    notice, *messages = drain(subscriber)
    assert notice == {
        "type": "missed",
        "channel": "alerts",
        "count": 3,
        "since": 2_000_000_000_000_000,
        "ts": "2026-11-22T09:30:00.000+00:00",
    }
    assert [message["data"] for message in messages] == [4, 5]


def test_resuming_from_a_notice_leaves_nothing_out_even_when_messages_came_out_of_order() -> None:
    hub = Hub(SetClock(), bounds=Bounds(messages=2))
    subscriber = listener(hub, Channel.ALERTS, owner=ANN)
    start = hub.position(Channel.ALERTS)
    for seq in (9, 5, 6, 10):  # 5 and 6 come from another process
        hub.publish("alerts", b"0", owner=ANN, seq=start + seq)
        if seq == 9:
            drain(subscriber)
    hub.publish("alerts", b"0", owner=ANN, seq=start + 11)
    notice = drain(subscriber)[0]
    assert notice["count"] == 2
    assert notice["since"] == start + 4  # not 9, the last one delivered


def test_a_busy_symbol_neither_overtakes_nor_starves() -> None:
    hub = Hub(SetClock())
    subscriber = listener(hub, Channel.TICKS)
    for number, key in enumerate(["A", "B", "A", "A", "C", "A"]):
        hub.publish("ticks", b"%d" % number, key=key)
    messages = [message for message in drain(subscriber) if message["type"] == "tick"]
    assert [message["data"] for message in messages] == [5, 1, 4]


def test_replies_come_first_and_the_two_kinds_of_messages_take_turns() -> None:
    hub = Hub(SetClock())
    subscriber = listener(hub, Channel.ALERTS, Channel.TICKS, owner=ANN)
    for number in range(3):
        hub.publish("alerts", b"%d" % number, owner=ANN)
        hub.publish("ticks", b"%d" % number, key=str(number))
    subscriber.reply('{"type":"pong"}')
    kinds = [message["type"] for message in drain(subscriber)]
    assert kinds[0] == "pong"
    assert sorted(kinds[1:3]) == sorted(kinds[3:5]) == sorted(kinds[5:]) == ["alert", "tick"]


async def test_whoever_adds_many_replies_waits_for_room() -> None:
    hub = Hub(SetClock(), bounds=Bounds(replies=2))
    subscriber = hub.attach(ignore)
    await asyncio.wait_for(subscriber.room(), 30)
    subscriber.reply("1")
    subscriber.reply("2")
    waiting = asyncio.create_task(subscriber.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    subscriber.take()
    await asyncio.wait_for(waiting, 30)


async def test_a_writer_is_woken_by_whatever_it_can_take() -> None:
    hub = Hub(SetClock())
    subscriber = listener(hub, Channel.TICKS)
    assert subscriber.take() == ()
    waiting = asyncio.create_task(subscriber.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.publish("ticks", b"1", key="A")
    await asyncio.wait_for(waiting, 30)


def test_closing_tells_every_connection_also_those_that_come_too_late() -> None:
    hub = Hub(SetClock())
    told: list[int] = []
    for number in range(3):
        hub.attach(lambda number=number: told.append(number))  # type: ignore[misc]
    hub.close()
    assert sorted(told) == [0, 1, 2]
    hub.attach(lambda: told.append(3))
    assert told[-1] == 3


def test_what_another_channel_pushed_out_is_told_although_nothing_follows() -> None:
    hub = Hub(SetClock(), bounds=Bounds(messages=2))
    subscriber = listener(hub, Channel.SIGNALS, Channel.JOBS, owner=ANN)
    for channel in (Channel.JOBS, Channel.SIGNALS, Channel.SIGNALS):
        hub.publish(channel, b"1")
    told = [(message["type"], message["channel"], message.get("count")) for message in drain(subscriber)]
    assert told == [("signal", "signals", None), ("signal", "signals", None), ("missed", "jobs", 1)]
    assert drain(subscriber) == []


# What a pacer asks and tells


def test_who_hears_a_symbol_is_counted() -> None:
    hub = Hub(SetClock())
    assert not hub.heard(Channel.TICKS)
    whole, some = listener(hub, Channel.TICKS), hub.attach(ignore)
    hub.subscribe(some, Channel.TICKS, ["A", "B"])
    assert hub.heard(Channel.TICKS)
    assert [hub.listeners(Channel.TICKS, symbol) for symbol in "ABC"] == [2, 2, 1]
    assert (hub.heard(Channel.CANDLES), hub.listeners(Channel.CANDLES, "A")) == (False, 0)
    hub.detach(whole)
    assert hub.heard(Channel.TICKS)
    hub.detach(some)
    assert not hub.heard(Channel.TICKS)


def test_what_was_left_out_is_told_with_the_next_message_to_those_concerned() -> None:
    hub = Hub(SetClock())
    whole, some, other = listener(hub, Channel.TICKS), hub.attach(ignore), hub.attach(ignore)
    hub.subscribe(some, Channel.TICKS, ["A"])
    hub.subscribe(other, Channel.TICKS, ["B"])
    hub.skip(Channel.TICKS, "A", 3)
    hub.skip(Channel.TICKS, "A", 2)
    assert drain(whole) == drain(some) == []
    for symbol in "AB":
        hub.publish(Channel.TICKS, b"1", key=symbol)
    told = [[message.get("count") for message in drain(subscriber)] for subscriber in (whole, some, other)]
    assert told == [[5, None, None], [5, None], [None]]
    assert hub.counts[Channel.TICKS].missed == 10
