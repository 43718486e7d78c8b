"""Newest prices of derivatives that no feed follows, from a simulated Angel One."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import cast

import pytest
import pytest_asyncio

from app.brokerage.ports import LastPrice
from app.brokerage.words import BrokerName, Exchange, Listing
from app.core.bus import Bus, NullTransport
from app.core.cache import Cache
from app.core.errors import UnavailableError
from app.lifespan.brokerage_prices import ServicePrices
from app.lifespan.contract_prices import WANTED_SECONDS, ContractPrices
from app.quotes.newest import Quotes
from tests.integrations.angel_one.signing_in import asked, session_of
from tests.simulators.angel_one import AngelOneSimulator
from tests.simulators.angel_one.market import Listing as Instrument
from tests.simulators.angel_one.market import Market
from tests.simulators.angel_one.rest import CANDLES
from tests.support.clocks import StandingClock

NOON = datetime(2026, 11, 20, 6, 30, 30, tzinfo=UTC)
"""12:00:30 in India, a Friday."""
NFO = Exchange.NFO
CALLS = [f"NIFTY26DEC{strike}CE" for strike in (24_500, 24_600, 24_700)]


class Listed:
    """Fills the port `Listings` with three calls, as paper lists them."""

    def __init__(self) -> None:
        self.away = False

    async def find(self, broker: BrokerName, exchange: Exchange, symbol: str) -> Listing | None:
        if self.away:
            raise UnavailableError("There is no list yet.")
        if broker is not BrokerName.PAPER or symbol not in CALLS:
            return None
        key = f"NIFTY29DEC26{symbol[-7:]}|{40_001 + CALLS.index(symbol)}"
        return Listing(exchange, symbol, key, Decimal("0.05"), 65, kind="CE", strike=Decimal(24_500))

    async def like(self, broker: BrokerName, exchange: Exchange, symbol: str) -> list[str]:  # noqa: ARG002
        return []


@dataclass
class Desk:
    clock: StandingClock
    vendor: AngelOneSimulator
    listed: Listed
    cache: Cache
    prices: ServicePrices

    def later(self, **amount: float) -> None:
        """What was kept in the cache is too old then."""
        self.clock.move(**amount)
        self.cache.clear()

    async def last(self, symbol: str = CALLS[0]) -> LastPrice | None:
        return await self.prices.last(NFO, symbol)


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[Desk]:
    clock, listed, cache = StandingClock(NOON), Listed(), Cache()
    market = Market(
        [
            Instrument(str(40_001 + n), 2, "NFO", f"NIFTY29DEC26{name[-7:]}", "NIFTY", "OPTIDX", 12_000)
            for n, name in enumerate(CALLS)
        ]
    )
    async with (
        AngelOneSimulator(market=market, now=clock.now, rates={}) as vendor,
        session_of(vendor, clock=clock, candle_rates=()) as session,
    ):
        bus = Bus(NullTransport())
        prices = ServicePrices(newest=lambda _: None, quotes=cast("Quotes", None), bus=bus, clock=clock)
        contracts = ContractPrices(session=session, listings=listed, cache=cache, clock=clock, most=2)
        prices.ask_for_contracts(contracts.last)
        yield Desk(clock, vendor, listed, cache, prices)


async def test_the_newest_minute_is_asked_for_once_in_a_while(desk: Desk):
    first = await desk.last()
    assert first is not None
    assert (first.at, first.live, first.volume) == (NOON, False, None)
    assert 100 < first.price < 140
    assert await desk.last() == first
    assert asked(desk.vendor, CANDLES) == 1
    desk.later(minutes=1)
    second = await desk.last()
    assert second is not None
    assert second.at == NOON + timedelta(minutes=1)
    assert asked(desk.vendor, CANDLES) == 2


async def test_on_a_sunday_it_is_fridays_last_minute(desk: Desk):
    desk.later(days=2)
    last = await desk.last()
    assert last is not None
    assert last.at == datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


async def test_no_more_contracts_than_allowed_are_asked_for(desk: Desk):
    assert [bool(await desk.last(call)) for call in CALLS] == [True, True, False]
    desk.later(seconds=WANTED_SECONDS - 1)
    assert [bool(await desk.last(call)) for call in CALLS] == [True, True, False]
    desk.later(seconds=WANTED_SECONDS)
    assert [bool(await desk.last(call)) for call in reversed(CALLS)] == [True, True, False]


@pytest.mark.parametrize("fault", ["unlisted", "no list", "away"])
async def test_what_cannot_be_had_is_none(desk: Desk, fault: str):
    if fault == "away":
        await desk.vendor.rest.__aexit__(None, None, None)
    desk.listed.away = fault == "no list"
    assert await desk.last("NIFTY26DEC99999CE" if fault == "unlisted" else CALLS[0]) is None
