"""Live prices: encoded once, across processes, paced by how many listen, over real WebSockets."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.bus import Bus, NullTransport
from app.core.bus_loopback import LoopbackTransport
from app.core.clock import SystemClock
from app.core.events import CandlesChanged, TickNotice, TicksArrived
from app.core.hub import Hub
from app.core.outbox import Channel, Subscriber
from app.market_data.listening import KEEP_SECONDS, LOOK_SECONDS, MOST_NAMED
from app.market_data.pacer import WRITE_SECONDS, Paced, Pacer
from app.market_data.ports import Timeframe
from app.market_data.rows import from_ms, to_ms
from app.market_data.schemas import Candle, MarketTick
from app.market_data.stream import EVENT_BYTES, FORMING_SECONDS, SLICE, TickStream
from tests.market_data.reads.kit import FRIDAY_OPEN, Row, candle_row, live_tick
from tests.stream.server import Server

OPEN = to_ms(FRIDAY_OPEN)


def listener(hub: Hub, *symbols: str, channel: Channel = Channel.TICKS) -> Subscriber:
    subscriber = hub.attach(lambda: None)
    hub.identify(subscriber, "a" * 24)
    hub.subscribe(subscriber, channel, list(symbols) or None)
    return subscriber


def drain(subscriber: Subscriber) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while texts := subscriber.take():
        found += [json.loads(text) for text in texts]
    return found


def candle(start: int, close: float, *, closed: bool, symbol: str = "A") -> Row:
    begins, ends = from_ms(start), from_ms(start + 60_000)
    return candle_row(symbol, Timeframe.M1, begins, ends, 1.0, close=close, closed=closed, progress={"a": 1})


class LeapingClock(SystemClock):
    """Whose time a test lets pass."""

    leapt = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.leapt


class Streaming:
    """A stream with its hub."""

    def __init__(self, bus: Bus) -> None:
        self.hub, self.bus, self.clock = Hub(SystemClock()), bus, LeapingClock()
        self.stream = TickStream(hub=self.hub, bus=bus, clock=self.clock)


@pytest.fixture
async def alone() -> AsyncIterator[Streaming]:
    made = Streaming(Bus(NullTransport()))
    await made.bus.start()
    yield made
    made.stream.close()
    await made.bus.stop()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Streaming, Streaming]]:
    """The streams of two processes."""
    two = Streaming(Bus(LoopbackTransport(tmp_path))), Streaming(Bus(LoopbackTransport(tmp_path)))
    for one in two:
        await one.bus.start()
    async with asyncio.timeout(30):
        while not all(one.bus.connected and one.bus.has_peers for one in two):
            await asyncio.sleep(0.01)
    yield two
    for one in two:
        one.stream.close()
        await one.bus.stop()


async def test_a_tick_arrives_as_the_lists_show_it(alone: Streaming) -> None:
    client = listener(alone.hub, "A")
    day = {"has_day": True, "open": 9_900, "high": 10_200, "low": 9_850, "close": 10_000, "volume": 7}
    alone.stream.ticks([live_tick("A", OPEN, 101.55, **day), live_tick("B", OPEN)])
    await asyncio.sleep(0)
    (message,) = drain(client)
    assert (message["type"], message["channel"]) == ("tick", "ticks")
    data = message["data"]
    MarketTick.model_validate(data)
    assert (data["symbol"], data["ltpc"], data["ch"], data["chp"]) == ("A", 101.55, 1.55, 1.55)
    assert (data["open"], data["high"], data["low"], data["close"], data["volume"]) == (99, 102, 98.5, 100, 7)
    assert data["after_hours"] is False


async def test_nobody_listens_and_nothing_is_encoded(alone: Streaming) -> None:
    unfit = live_tick("A", OPEN, divisor=0)  # cannot be encoded
    alone.stream.ticks([unfit])
    await asyncio.sleep(0)
    assert alone.hub.counts[Channel.TICKS].published == 0
    assert alone.stream.symbols() == ["A"]


async def test_the_other_process_hears_the_same_once_in_order(pair: tuple[Streaming, Streaming]) -> None:
    leader, other = pair
    clients = [listener(leader.hub), listener(other.hub)]
    ticks = [live_tick(f"S{n}", OPEN + n, 100 + n) for n in range(200)]
    leader.stream.ticks(ticks[:100])
    leader.stream.ticks(ticks[100:])
    found: list[list[dict[str, Any]]] = [[], []]
    async with asyncio.timeout(30):
        while min(len(one) for one in found) < 200:
            await asyncio.sleep(0.01)
            for one, client in zip(found, clients, strict=True):
                one += drain(client)
    contents = [[(message["seq"], message["data"]) for message in one] for one in found]
    assert contents[0] == contents[1]
    assert [data["ltpc"] for _, data in contents[0]] == [100 + n for n in range(200)]
    assert other.stream.newest("S7") is not None
    ms, tick = other.stream.newest("S7") or (0, {})
    assert (ms, tick["ltpc"]) == (OPEN + 7, 107)
    assert MarketTick.model_validate(tick).symbol == "S7"


async def test_events_are_few_and_never_too_big(pair: tuple[Streaming, Streaming]) -> None:
    events: list[TicksArrived] = []
    pair[0].bus.subscribe(TicksArrived, events.append)
    for n in range(1000):
        pair[0].stream.ticks([live_tick(f"S{n}", OPEN)])
    await asyncio.sleep(0)
    sizes = [sum(len(notice.body) for notice in event.ticks) for event in events]
    assert sum(len(event.ticks) for event in events) == 1000
    assert max(sizes) <= EVENT_BYTES
    assert len(events) <= sum(sizes) // (EVENT_BYTES * 3 // 4) + 1
    assert pair[0].bus.health()["oversized"] == 0


async def test_late_ticks_are_not_the_newest(alone: Streaming) -> None:
    alone.stream.ticks([live_tick("A", OPEN, 5)])
    alone.stream.on_ticks(TicksArrived([TickNotice("A", OPEN - 1, 1, b'{"ltpc":4}')]))
    assert (alone.stream.newest("A") or (0, {}))[0] == OPEN
    alone.stream.on_ticks(TicksArrived([TickNotice("A", OPEN + 1, 2, b'{"ltpc":6}')]))
    assert alone.stream.newest("A") == (OPEN + 1, {"ltpc": 6})
    assert alone.stream.newest("B") is None


async def test_a_late_tick_does_not_take_the_place_of_a_newer_price(
    alone: Streaming, pair: tuple[Streaming, Streaming]
) -> None:
    """Both wait to be written: of two in order the newer one is enough, of two out of order it must not be lost."""
    ticks = [live_tick("A", OPEN + 5, 6), live_tick("A", OPEN, 5), live_tick("B", OPEN, 1), live_tick("B", OPEN + 5, 2)]
    for one, heard_by in ((alone, [alone]), (pair[0], list(pair))):
        clients = [listener(other.hub) for other in heard_by]
        one.stream.ticks(ticks)
        async with asyncio.timeout(30):
            while min(client.pending for client in clients) < 3:
                await asyncio.sleep(0.01)
        for client in clients:
            prices = [(m["data"]["symbol"], m["data"]["ltpc"]) for m in drain(client) if m["type"] == "tick"]
            assert prices == [("A", 6), ("A", 5), ("B", 2)]


# Candles


async def test_closed_candles_at_once_and_all_forming_ones_now_and_then(alone: Streaming) -> None:
    client = listener(alone.hub, channel=Channel.CANDLES)
    began = time.monotonic()
    alone.stream.candles([candle(0, 1.5, closed=True)])
    (message,) = drain(client)
    assert (message["type"], message["data"]["closed"]) == ("candle", True)
    assert Candle.model_validate(message["data"]).close == 1.5
    for close in (2.0, 3.0, 4.0):
        alone.stream.candles([candle(60_000, close, closed=False)])
    assert drain(client) == []
    async with asyncio.timeout(30):
        while not (found := drain(client)):
            await asyncio.sleep(0.005)
    assert [message["data"]["close"] for message in found] == [4.0]
    assert time.monotonic() - began >= FORMING_SECONDS - 0.05
    # A slow client misses states of the forming candle, and never a closed one.
    for minute in range(2, 6):
        alone.stream.candles([candle(minute * 60_000, 7.0, closed=False)])
        alone.stream.candles([candle(minute * 60_000, 8.0, closed=True)])
    found = drain(client)
    assert [(m["data"]["start"], m["data"]["closed"]) for m in found if m["type"] == "candle"] == [
        (f"1970-01-01T00:0{minute}:00Z", True) for minute in range(2, 6)
    ]


async def test_candles_reach_the_other_process(pair: tuple[Streaming, Streaming]) -> None:
    leader, other = pair
    client = listener(other.hub, "A", channel=Channel.CANDLES)
    assert leader.stream.wants_candles("A")
    leader.stream.candles([candle(0, 1.5, closed=True), candle(0, 2.5, closed=True, symbol="B")])
    async with asyncio.timeout(30):
        while not (found := drain(client)):
            await asyncio.sleep(0.005)
    assert [(m["data"]["symbol"], m["data"]["close"]) for m in found] == [("A", 1.5)]


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_candles_that_nobody_listens_to_are_not_sent_to_others(pair: tuple[Streaming, Streaming]) -> None:
    leader, other = pair
    wants = leader.stream.wants_candles
    sent: list[CandlesChanged] = []
    leader.bus.subscribe(CandlesChanged, sent.append)
    leader.stream.ticks([live_tick("A", OPEN), live_tick("B", OPEN)])
    await eventually(other.stream.symbols)
    assert wants("A")  # nobody has had the time to say so
    for one in pair:
        one.clock.leapt += KEEP_SECONDS
    assert not wants("A")
    leader.stream.candles([candle(0, 1.5, closed=True)])
    assert sent == []

    client = listener(other.hub, "A", channel=Channel.CANDLES)
    await eventually(lambda: wants("A"))
    assert not wants("B")
    leader.stream.candles([candle(0, 1.5, closed=True), candle(0, 2.5, closed=True, symbol="B")])
    await eventually(lambda: client.pending)
    assert [notice.symbol for event in sent for notice in event.candles] == ["A"]
    for one in pair:  # it is said again and again
        one.clock.leapt += KEEP_SECONDS
    assert not wants("A")
    await eventually(lambda: wants("A"))

    other.hub.detach(client)
    await asyncio.sleep(2 * LOOK_SECONDS)  # the last word may be on its way
    leader.clock.leapt += KEEP_SECONDS
    assert not wants("A")
    # Whatever may have been missed: all are sent until it is known.
    leader.bus.peers_changed("a test")
    assert wants("A")
    assert wants("B")


async def test_who_listens_to_all_or_joins_anew_is_sent_all(pair: tuple[Streaming, Streaming]) -> None:
    leader, other = pair
    for one in pair:
        one.clock.leapt += KEEP_SECONDS
    listener(other.hub, *(f"S{n}" for n in range(MOST_NAMED + 1)), channel=Channel.CANDLES)
    leader.stream.ticks([live_tick(f"S{n}", OPEN) for n in range(MOST_NAMED + 1)])
    await eventually(lambda: leader.stream.wants_candles("anything"))


async def test_thousands_of_candles_let_others_have_their_turn(alone: Streaming) -> None:
    client = listener(alone.hub, channel=Channel.CANDLES)
    rows = [candle(0, 1.5, closed=True, symbol=f"S{n}") for n in range(3 * SLICE)]
    alone.stream.candles(rows)
    found = drain(client)
    assert len(found) == SLICE
    async with asyncio.timeout(30):
        while len(found) < len(rows):
            await asyncio.sleep(0)
            found += drain(client)
    assert [message["data"]["symbol"] for message in found] == [row["symbol"] for row in rows]


# Pacing


class StoppedClock(SystemClock):
    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


def paced(symbol: str, number: int) -> Paced:
    return Paced(Channel.TICKS, symbol, symbol, number, b'{"n":%d}' % number)


async def test_within_the_budget_everything_goes_out_at_once() -> None:
    hub, clock = Hub(SystemClock()), StoppedClock()
    pacer, client = Pacer(hub, clock), listener(hub)
    for number in range(100):
        clock.seconds += 0.001
        pacer.offer(paced("A", number))
        assert [message["data"]["n"] for message in drain(client)] == [number]
    assert (pacer.conflated, pacer.waiting) == (0, 0)
    pacer.close()


async def test_beyond_the_budget_each_symbol_has_its_turn_and_the_newest_counts() -> None:
    hub, clock = Hub(SystemClock()), StoppedClock()
    budget = 0.02  # 1,000 writes a second
    pacer, clients = Pacer(hub, clock, budget=budget), [listener(hub) for _ in range(10)]
    sent, symbols = 0, [f"S{n}" for n in range(5)]
    found: list[list[dict[str, Any]]] = [[] for _ in clients]
    for _ in range(400):  # two seconds of 1,000 ticks a second
        clock.seconds += 0.005
        for symbol in symbols:
            sent += 1
            pacer.offer(paced(symbol, sent))
        pacer._drain()
        found = [one + drain(client) for one, client in zip(found, clients, strict=True)]
    for message in (message for one in found for message in one):
        del message["ts"]  # of notices: when each client took its own, and since when it has subscribed
        message.pop("since", None)
    assert all(one == found[0] for one in found)
    ticks = [message for message in found[0] if message["type"] == "tick"]
    allowed = budget / WRITE_SECONDS * 2
    assert allowed * 0.8 <= len(ticks) * 10 <= allowed * 1.2
    by_symbol = Counter(message["data"]["n"] % 5 for message in ticks)
    assert max(by_symbol.values()) <= min(by_symbol.values()) + 2, "a symbol is starved"
    numbers = {n: [m["data"]["n"] for m in ticks if m["data"]["n"] % 5 == n] for n in range(5)}
    assert all(one == sorted(one) for one in numbers.values()), "a symbol goes back in time"
    told = sum(message["count"] for message in found[0] if message["type"] == "missed")
    assert len(ticks) + pacer.conflated + pacer.waiting == sent
    assert 0 < told <= pacer.conflated
    assert len(found[0]) - len(ticks) <= 3, "news of what was left out must not double the messages"
    pacer.close()


async def test_what_waits_goes_out_by_itself() -> None:
    hub = Hub(SystemClock())
    pacer, client = Pacer(hub, SystemClock(), budget=0.002), listener(hub)  # 100 writes a second
    for number in range(40):
        pacer.offer(paced("A", number))
    async with asyncio.timeout(30):
        found = drain(client)
        while found[-1]["data"]["n"] != 39:
            await asyncio.sleep(0.005)
            found += drain(client)
    assert len(found) < 20
    assert pacer.waiting == 0
    pacer.close()


async def test_closed_candles_do_not_wait_for_the_budget() -> None:
    hub, clock = Hub(SystemClock()), StoppedClock()
    pacer, client = Pacer(hub, clock, budget=0.00001), listener(hub)
    for number in range(50):
        pacer.offer(paced("A", number))
    waiting = drain(client)
    pacer.offer(paced("A", 99), now=True)
    assert [message["data"]["n"] for message in drain(client)] == [99]
    assert pacer.waiting == 0
    assert len(waiting) <= 2
    pacer.close()


# Over real sockets


async def test_anybody_sees_ticks_of_the_symbols_that_they_asked_for() -> None:
    with Server() as server:

        async def start() -> TickStream:
            bus = Bus(NullTransport())
            await bus.start()
            return TickStream(hub=server.hub, bus=bus, clock=SystemClock())

        stream = await server.run(start())
        async with server.connect() as some, server.connect() as whole, server.connect() as stranger:
            await some.subscribe("ticks", symbols=["NIFTY 50"])
            await whole.subscribe("ticks")
            refused = await stranger.ask({"action": "subscribe", "channel": "candles"})
            assert refused["type"] == "error", "candles are for those who are signed in"
            took = []
            for number in range(20):
                began = time.perf_counter()
                ticks = [live_tick("BANKNIFTY", OPEN + number), live_tick("NIFTY 50", OPEN + number, 24_000 + number)]
                await server.do(lambda ticks=ticks: stream.ticks(ticks))  # type: ignore[misc]
                message = await some.receive()
                took.append(time.perf_counter() - began)
                assert (message["data"]["symbol"], message["data"]["ltpc"]) == ("NIFTY 50", 24_000 + number)
                both = [(await whole.receive())["data"]["symbol"] for _ in range(2)]
                assert sorted(both) == ["BANKNIFTY", "NIFTY 50"]
            assert min(took) < 0.2
            await some.nothing_more()
