"""Newest prices for brokerage: whichever process runs the feed, whatever the feed's vendor calls an instrument."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from app.brokerage.ports import LastPrice
from app.brokerage.words import Exchange
from app.core.bus import Bus, NullTransport
from app.core.bus_loopback import LoopbackTransport
from app.core.errors import NotFoundError, UnavailableError
from app.core.events import TickNotice, TicksArrived
from app.core.hub import Hub
from app.lifespan.brokerage_prices import FRESH, ServicePrices
from app.market_data.ports import Instrument, Quality, Tick
from app.market_data.rows import to_ms
from app.market_data.stream import TickStream
from app.quotes.newest import Quotes
from app.quotes.ports import Quote, SourceName
from tests.support.clocks import StandingClock

D = Decimal
NOW = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 in India, a Friday."""
NSE, BSE, NFO = Exchange.NSE, Exchange.BSE, Exchange.NFO
SHARE = Instrument("RELIANCE-EQ", "2885", "NSE", 1, "EQ")
SAME_SHARE = Instrument("RELIANCE", "500325", "BSE", 3, "EQ")
INDEX = Instrument("NIFTY 50", "99926000", "NSE", 1, "INDEX")
CALL = Instrument("NIFTY29DEC2624500CE", "40001", "NFO", 2, "OPTIDX", "2026-12-29", 24_500.0)
FUTURE = Instrument("NIFTY29DEC26FUT", "40002", "NFO", 2, "FUTIDX", "2026-12-29")
STRANGE = Instrument("SOYBEAN", "1", "NCO", 7, "COM")

Heard = list[tuple[Exchange, str, LastPrice]]


def tick(instrument: Instrument, paise: int, at: datetime = NOW, **more: Any) -> Tick:
    ms = to_ms(at)
    return Tick(instrument, ms, ms, paise, digest=paise, received_ms=ms, **more)


@dataclass
class QuotesHere:
    """What of `Quotes` is asked."""

    known: dict[str, Quote | Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, symbol: str, price: float, at: datetime | None = NOW, currency: str | None = "INR") -> None:
        self.known[symbol] = Quote(symbol, price, SourceName.YAHOO, NOW, currency=currency, at=at)

    async def quote(self, text: str) -> Quote:
        self.asked.append(text)
        found = self.known.get(text, NotFoundError("There is none."))
        if isinstance(found, Exception):
            raise found
        return found


class Process:
    """One of the service's processes, as far as prices go."""

    def __init__(self, bus: Bus, clock: StandingClock) -> None:
        self.bus, self.quotes = bus, QuotesHere()
        self.stream = TickStream(hub=Hub(clock), bus=bus, clock=clock)
        self.prices = ServicePrices(newest=self.stream.newest, quotes=cast("Quotes", self.quotes), bus=bus, clock=clock)
        self.heard: Heard = []

    def feed(self, *ticks: Tick) -> None:
        """As the feed's outlets do it."""
        self.stream.ticks(ticks)
        self.prices.on_ticks(ticks)

    def listen(self, *wanted: tuple[Exchange, str]) -> Heard:
        self.prices.on_price(
            lambda exchange, symbol, last: self.heard.append((exchange, symbol, last)),
            lambda exchange, symbol: (exchange, symbol) in wanted,
        )
        return self.heard


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock(NOW)


@pytest.fixture
async def here(clock: StandingClock) -> AsyncIterator[Process]:
    process = Process(Bus(NullTransport()), clock)
    await process.bus.start()
    yield process
    process.stream.close()
    await process.bus.stop()


@pytest.fixture
async def two(tmp_path: Path, clock: StandingClock) -> AsyncIterator[tuple[Process, Process]]:
    """The one that runs the feed, and another."""
    # Rare heartbeats: whoever stands still for a while is not given up.
    pair = (
        Process(Bus(LoopbackTransport(tmp_path, beat_seconds=20)), clock),
        Process(Bus(LoopbackTransport(tmp_path, beat_seconds=20)), clock),
    )
    for one in pair:
        await one.bus.start()
    await until(lambda: all(one.bus.connected and one.bus.has_peers for one in pair))
    yield pair
    for one in pair:
        one.stream.close()
        await one.bus.stop()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.005)


async def test_a_fresh_live_price_is_taken_and_nobody_is_asked(here: Process) -> None:
    here.quotes.put("RELIANCE.NS", 1390)
    here.feed(tick(SHARE, 140_005, volume=12, has_day=True))
    assert await here.prices.last(NSE, "RELIANCE") == LastPrice(D("1400.05"), NOW, 12)
    assert here.quotes.asked == []


async def test_a_share_of_the_other_exchange_is_another_price(here: Process) -> None:
    here.feed(tick(SHARE, 140_000), tick(SAME_SHARE, 139_900))
    assert [(await here.prices.last(one, "RELIANCE")).price for one in (NSE, BSE)] == [1400, 1399]  # type: ignore[union-attr]


@pytest.mark.parametrize(("quoted_at", "price"), [(NOW + FRESH, "1390.5"), (NOW - timedelta(hours=1), "1400")])
async def test_of_an_old_live_price_and_a_quote_the_newer_one_holds(
    here: Process, clock: StandingClock, quoted_at: datetime, price: str
) -> None:
    here.feed(tick(SHARE, 140_000))
    here.quotes.put("RELIANCE.NS", 1390.5, quoted_at)
    clock.move(seconds=FRESH.total_seconds())
    last = await here.prices.last(NSE, "RELIANCE")
    assert last is not None
    assert (last.price, last.live) == (D(price), price == "1400")


async def test_an_old_live_price_is_better_than_none(here: Process, clock: StandingClock) -> None:
    here.feed(tick(SHARE, 140_000))
    here.quotes.known["RELIANCE.NS"] = UnavailableError("Nobody answers.")
    clock.move(minutes=10)
    assert await here.prices.last(NSE, "RELIANCE") == LastPrice(D(1400), NOW)


async def test_prices_that_are_none_are_no_prices(here: Process) -> None:
    assert await here.prices.last(NSE, "RELIANCE") is None
    here.quotes.put("RELIANCE.NS", 16.5, currency="USD")
    here.quotes.put("INFY.NS", 0.001)
    here.feed(tick(SHARE, 140_000, quality=Quality.SUSPECT), tick(SHARE, 0, NOW + timedelta(seconds=1)))
    assert [await here.prices.last(NSE, symbol) for symbol in ("RELIANCE", "INFY")] == [None, None]


async def test_a_quote_is_of_its_exchange_and_in_whole_paise(here: Process) -> None:
    here.quotes.put("RELIANCE.BO", 1389.949951, at=None)
    assert await here.prices.last(BSE, "RELIANCE") == LastPrice(D("1389.95"), NOW, None, live=False)
    assert here.quotes.asked == ["RELIANCE.BO"]


async def test_a_contract_is_found_by_the_exchanges_name_of_it(here: Process, clock: StandingClock) -> None:
    """The feed writes the day of expiry, the exchange, and all orders, the month."""
    heard = here.listen((NFO, "NIFTY26DEC24500CE"), (NFO, "NIFTY26DECFUT"))
    here.feed(tick(CALL, 12_050), tick(FUTURE, 2_450_010))
    assert [(symbol, last.price) for _, symbol, last in heard] == [
        ("NIFTY26DEC24500CE", D("120.5")),
        ("NIFTY26DECFUT", D("24500.1")),
    ]
    clock.move(hours=1)
    assert await here.prices.last(NFO, "NIFTY26DEC24500CE") == LastPrice(D("120.5"), NOW)
    assert await here.prices.last(NFO, "NIFTY26DECFUT") == LastPrice(D("24500.1"), NOW)
    assert here.quotes.asked == [], "the providers of quotes have no contracts"


async def test_a_listener_hears_what_it_wants_and_nothing_else(here: Process) -> None:
    heard = here.listen((NSE, "RELIANCE"))
    bad = tick(SHARE, 1, quality=Quality.SUSPECT), tick(SHARE, -5), tick(STRANGE, 100), tick(INDEX, 2_500_000)
    here.feed(*bad, tick(SAME_SHARE, 139_900), tick(SHARE, 140_000, volume=3))
    assert heard == [(NSE, "RELIANCE", LastPrice(D(1400), NOW, 3))]


async def test_ticks_reach_the_processes_that_do_not_run_the_feed(two: tuple[Process, Process]) -> None:
    feed, other = two
    heard = other.listen((NSE, "RELIANCE"), (NFO, "NIFTY26DEC24500CE"))
    suspect = tick(SHARE, 100, NOW - timedelta(seconds=2), quality=Quality.SUSPECT)
    feed.feed(suspect, tick(INDEX, 2_500_000), tick(SAME_SHARE, 139_900), tick(SHARE, 140_005), tick(CALL, 12_050))
    await until(lambda: len(heard) == 2)
    assert heard == [
        (NSE, "RELIANCE", LastPrice(D("1400.05"), NOW)),
        (NFO, "NIFTY26DEC24500CE", LastPrice(D("120.5"), NOW)),
    ]
    assert await other.prices.last(NFO, "NIFTY26DEC24500CE") == LastPrice(D("120.5"), NOW)


async def test_notices_that_cannot_be_read_are_passed_over(here: Process) -> None:
    heard = here.listen((NSE, "RELIANCE"))
    bodies = [b"", b"[]", b'{"exchange": "NSE"}', b'{"exchange": "NCO", "ltpc": 5, "data_quality": "good"}']
    bodies.append(b'{"exchange": "NSE", "ltpc": 1400.05, "data_quality": "good", "new": {}}')
    await here.bus.publish(TicksArrived([TickNotice("RELIANCE-EQ", to_ms(NOW), 1, body) for body in bodies]))
    assert heard == [(NSE, "RELIANCE", LastPrice(D("1400.05"), NOW))]
