"""Yahoo and Angel One for each other, both over real sockets."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

import msgspec
import pytest
import pytest_asyncio

from app.core.candles import Timeframe
from app.core.market_calendar import IST, MarketCalendar
from app.integrations.angel_one.session import AngelOneSession
from app.quotes.adapters.angel_one import AngelOneHistory
from app.quotes.adapters.yahoo import Yahoo
from app.quotes.errors import NoSuchSymbolError
from app.quotes.naming import resolve
from app.quotes.ports import SourceName
from tests.integrations.angel_one.signing_in import session_of
from tests.quotes.kit import Desk, ago, desk_of
from tests.simulators.angel_one import AngelOneSimulator
from tests.simulators.angel_one.rest import CANDLES
from tests.simulators.yahoo import YahooSimulator
from tests.simulators.yahoo.simulator import CHART
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db


@dataclass(frozen=True)
class Place:
    exchange: str
    token: str


class Listed:
    """The list of instruments, as far as it goes here."""

    known: ClassVar = {
        ("NSE", "RELIANCE"): Place("NSE", "2885"),
        ("NSE", "INFY"): Place("NSE", "1594"),
        ("BSE", "500325"): Place("BSE", "500325"),
        ("NSE", "NIFTY 50"): Place("NSE", "99926000"),
    }

    async def find(
        self, *, symbol: str | None = None, exchange: str | None = None, token: str | None = None
    ) -> Place | None:
        return self.known.get((exchange or "", symbol or token or ""))


@pytest_asyncio.fixture
async def angel_one(clock: StandingClock) -> AsyncIterator[AngelOneSimulator]:
    async with AngelOneSimulator(now=clock.now, rates={}) as made:
        yield made


@pytest_asyncio.fixture
async def session(angel_one: AngelOneSimulator, clock: StandingClock) -> AsyncIterator[AngelOneSession]:
    async with session_of(angel_one, clock=clock, candle_rates=()) as made:
        yield made


@pytest.fixture
def angel(session: AngelOneSession, clock: StandingClock) -> AngelOneHistory:
    return AngelOneHistory(session, Listed(), clock=clock, calendar=MarketCalendar(clock))


@pytest_asyncio.fixture
async def both(db: Db, clock: StandingClock, yahoo: Yahoo, angel: AngelOneHistory) -> AsyncIterator[Desk]:
    async with desk_of(db, clock, [yahoo, angel]) as made:
        yield made


@pytest.mark.parametrize("timeframe", [Timeframe.M1, Timeframe.M5, Timeframe.M15, Timeframe.H1, Timeframe.D1])
async def test_angel_ones_candles_are_as_yahoos(angel: AngelOneHistory, clock: StandingClock, timeframe: Timeframe):
    fetched = await angel.candles(resolve("RELIANCE"), timeframe, ago(clock, days=5))
    assert fetched.source is SourceName.ANGEL_ONE
    assert not fetched.adjusted
    assert all(bar.closed for bar in fetched.bars[:-1])
    since_opening = {
        bar.start.astimezone(IST) - bar.start.astimezone(IST).replace(hour=9, minute=15) for bar in fetched.bars
    }
    length = timeframe.length
    assert {since % length for since in since_opening} == {timedelta()}
    assert max(since_opening) < timedelta(hours=6, minutes=15)


async def test_a_quote_of_angel_one_is_made_of_candles(angel: AngelOneHistory, clock: StandingClock):
    found = await angel.quotes([resolve("RELIANCE"), resolve("500325.BO"), resolve("TCS"), resolve("NIFTY50")])
    assert set(found) == {"RELIANCE.NS", "500325.BO", "^NSEI"}
    quote = found["RELIANCE.NS"]
    assert quote.market_state == "OPEN"
    assert quote.low <= quote.price <= quote.high
    minutes = (await angel.candles(resolve("RELIANCE"), Timeframe.M1, ago(clock, hours=1))).bars
    assert quote.price == minutes[-1].raw.close
    assert 0.9 < quote.price / quote.previous_close < 1.1


async def test_what_angel_one_does_not_list(angel: AngelOneHistory, clock: StandingClock):
    assert not angel.covers(resolve("^GSPC"))
    with pytest.raises(NoSuchSymbolError):
        await angel.candles(resolve("TCS"), Timeframe.D1, ago(clock, days=5))


async def test_angel_one_answers_when_yahoo_does_not(both: Desk, simulator: YahooSimulator):
    simulator.fail("too_many", times=100)
    answer = await both.get("historical/RELIANCE", days=20)
    assert (answer["source"], answer["stale"], answer["adjusted"]) == ("angel_one", False, False)
    assert (await both.get("quote/RELIANCE"))["source"] == "angel_one"
    # What Angel One does not have either says what is wrong with the first choice.
    refused = await both.client.get("/api/market/historical/TCS")
    assert refused.status_code == 503
    assert refused.json()["detail"].startswith("Yahoo: ")
    # Two providers' candles never mix.
    simulator.heal()
    both.pass_by(minutes=5)
    assert (await both.get("historical/RELIANCE", days=20))["source"] == "yahoo"
    await both.candles.drain()
    series = await both.db["quote_series"].distinct("_id")
    assert sorted(series) == ["RELIANCE.NS|1D|angel_one", "RELIANCE.NS|1D|yahoo"]


async def test_yahoo_answers_when_angel_one_does_not(
    db: Db, clock: StandingClock, yahoo: Yahoo, angel: AngelOneHistory, angel_one: AngelOneSimulator
):
    async with desk_of(db, clock, [yahoo, angel], indian=SourceName.ANGEL_ONE) as desk:
        assert (await desk.get("historical/RELIANCE", days=20))["source"] == "angel_one"
        assert (await desk.get("historical/AAPL", days=20))["source"] == "yahoo"
        angel_one.rest.fail(CANDLES, *[_down()] * 50)
        desk.pass_by(minutes=10)
        assert (await desk.get("historical/RELIANCE", days=20))["source"] == "yahoo"
        health = desk.sources.health()
        assert health["status"] == "degraded"
        assert health["angel_one"]["last_error"].startswith("unreachable")


def _down() -> object:
    from tests.simulators.angel_one import http

    return http.html(502)


async def test_the_newest_stored_is_served_when_neither_answers(
    both: Desk, simulator: YahooSimulator, angel_one: AngelOneSimulator, clock: StandingClock
):
    await both.get("historical/INFY", days=20)
    await both.candles.drain()
    both.pass_by(minutes=7)
    simulator.fail("unavailable", times=100)
    angel_one.rest.fail(CANDLES, *[_down()] * 50)
    stale = await both.get("historical/INFY", days=20)
    assert (stale["source"], stale["stale"], stale["age_seconds"]) == ("yahoo", True, 420.0)
    assert datetime.fromisoformat(stale["fetched_at"]) == clock.now() - timedelta(minutes=7)
    assert simulator.calls[f"{CHART}INFY.NS"] == 2


async def test_adjusted_and_other_candles_are_never_of_one_series(
    both: Desk, simulator: YahooSimulator, angel: AngelOneHistory, clock: StandingClock
):
    adjusted = await both.candles.candles("RELIANCE", "1D", 30)
    both.pass_by(minutes=6)
    simulator.fail("unavailable", times=10)
    other = await both.candles.candles("RELIANCE", "1D", 30)
    await both.candles.drain()
    assert (adjusted.source, adjusted.adjusted) == ("yahoo", True)
    assert (other.source, other.adjusted) == ("angel_one", False)
    stored = {row["source"]: row["adjusted"] async for row in both.db["quote_series"].find({})}
    assert stored == {"yahoo": True, "angel_one": False}
    # A provider that begins to adjust, or ends to: what is stored before does not fit what comes now.
    later = await angel.candles(resolve("RELIANCE"), Timeframe.D1, ago(clock, days=5))
    assert await both.store.check(later) is None
    begun = await both.store.state("RELIANCE.NS|1D|angel_one")
    assert begun is not None
    assert await both.store.check(msgspec.structs.replace(later, adjusted=True)) == begun.first
