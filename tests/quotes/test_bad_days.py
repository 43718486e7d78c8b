"""What a provider does on a bad day must not change what a name means, what a number is, or who gets an answer."""

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from app.core.candles import Timeframe
from app.core.market_calendar import IST, MarketCalendar
from app.quotes.adapters.yahoo import YahooProcess
from app.quotes.adapters.yahoo.messages import AT_ONCE, AskHistory, Setup, Timeouts
from app.quotes.adapters.yahoo.parse import quote_of
from app.quotes.bars import DailyHours, IndianHours, Row, made_of, misaligned
from app.quotes.errors import BusyError
from app.quotes.schemas import QuoteOut
from tests.quotes.kit import NOON, Desk, ago
from tests.simulators.yahoo import YahooSimulator
from tests.simulators.yahoo.market import Listed
from tests.simulators.yahoo.simulator import CHART
from tests.support.clocks import StandingClock


def _american_namesake(simulator: YahooSimulator) -> Listed:
    """Another company is called INFY in New York, at another price; gives the one in India."""
    listed = simulator.market.listed
    listed["INFY"] = replace(listed["AAPL"], symbol="INFY", name="Somebody Else Inc.")
    return listed["INFY.NS"]


async def test_a_share_that_an_answer_left_out_is_not_its_american_namesake(desk: Desk, simulator: YahooSimulator):
    fresh = await desk.get("quote/INFY")
    known = _american_namesake(simulator)
    del simulator.market.listed["INFY.NS"]
    desk.pass_by(seconds=40)
    quote = await desk.get("quote/INFY")
    assert (quote["symbol"], quote["currency"], quote["stale"]) == ("INFY.NS", "INR", True)
    assert quote["price"] == fresh["price"]
    # Nor in another question about it, of which nothing is stored.
    answer = await desk.client.get("/api/market/historical/INFY", params={"timeframe": "15m"})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no INFY.NS at yahoo."
    simulator.market.listed["INFY.NS"] = known
    desk.pass_by(seconds=40)
    assert not (await desk.get("quote/INFY"))["stale"]


async def test_a_name_that_was_taken_for_an_american_one_is_looked_at_again(desk: Desk, simulator: YahooSimulator):
    """It was new to us when its exchange's answer lacked it."""
    known = _american_namesake(simulator)
    del simulator.market.listed["INFY.NS"]
    assert (await desk.get("quote/INFY"))["currency"] == "USD"
    assert (await desk.get("historical/INFY"))["currency"] == "USD"
    simulator.market.listed["INFY.NS"] = known
    desk.pass_by(minutes=11)
    assert (await desk.get("quote/INFY"))["currency"] == "INR"
    assert (await desk.get("historical/INFY"))["currency"] == "INR"


async def test_an_american_name_is_still_one_when_nobody_answers(desk: Desk, simulator: YahooSimulator):
    """Also after a restart: what it means was not remembered, but what it brought is stored."""
    fresh = await desk.get("quote/AAPL")
    await desk.get("historical/AAPL")
    await desk.candles.drain()
    simulator.fail("unavailable", times=100)
    desk.pass_by(minutes=11)
    quote = await desk.get("quote/AAPL")
    assert (quote["symbol"], quote["stale"], quote["price"]) == ("AAPL", True, fresh["price"])
    candles = await desk.get("historical/AAPL")
    assert (candles["symbol"], candles["stale"]) == ("AAPL", True)
    answer = await desk.client.get("/api/market/quote/MSFT")  # nobody knows that it is not NSE's
    assert answer.status_code == 503


@pytest.mark.timeout(180)
async def test_who_waits_for_others_is_not_what_a_program_dies_of(
    process: YahooProcess, simulator: YahooSimulator, tmp_path: Path
):
    """Each answer comes well in time; all of them together take longer than one may."""
    await process.point(Setup(simulator.base_url, str(tmp_path), Timeouts(10.0, 30.0, 9.0)))
    start, end = ago(StandingClock(NOON), days=10), NOON + timedelta(days=1)

    async def ask(symbol: str) -> str:
        try:
            return "rows" if (await process.history(AskHistory(symbol, "1d", start, end, "Asia/Kolkata"))).rows else ""
        except BusyError:
            return "busy"

    symbols = ["RELIANCE.NS", "TCS.NS", "INFY.NS", "HDFCBANK.NS", "SBIN.NS", "^NSEI", "^BSESN", "^NSEBANK"]
    symbols += ["M&M.NS", "AAPL", "MSFT", "GOOG"]
    assert await ask(symbols[0]) == "rows"
    program = process.pid
    simulator.fail("slow", seconds=1.0, times=100)
    answers = await asyncio.gather(*map(ask, symbols))
    assert set(answers) == {"rows", "busy"}
    assert answers.count("rows") >= 2 * AT_ONCE
    assert process.pid == program


async def test_a_queue_is_no_fault_of_the_provider(desk: Desk, process: YahooProcess):
    # Of the process alone: the program would have to answer in this time, too.
    process._setup = msgspec.structs.replace(process._setup, timeouts=Timeouts(10.0, 30.0, 0.5))
    paths = [f"/api/market/historical/{name}?timeframe=15m" for name in ("TCS", "INFY", "SBIN", "NIFTY50", "SENSEX")]
    async with process._turn(), process._turn():  # others have all the turns there are
        asked = [desk.client.get(f"{path}{more}") for path in paths for more in ("", "&days=2")]
        answers = await asyncio.gather(*asked)
    told = {answer.json()["detail"] for answer in answers}
    assert told == {"Yahoo: busy (others are asked for first)."}
    assert desk.sources.health()["status"] == "ok"
    assert desk.sources.health()["yahoo"] == {"circuit": "closed"}


# Numbers


def _rows(*closes: float, first: datetime = datetime(2026, 11, 16, 3, 45, tzinfo=UTC)) -> list[Row]:
    starts = [first + timedelta(days=place) for place in range(len(closes))]
    return [Row(start, close, close, close, close, close, 1000.0) for start, close in zip(starts, closes, strict=True)]


def test_a_coin_of_fractions_of_a_cent_has_a_price():
    hours = DailyHours(ZoneInfo("UTC"))
    (bar,) = made_of(_rows(0.00000812345), Timeframe.D1, hours, NOON).bars
    assert bar.raw.close == pytest.approx(0.00000812345, rel=1e-4)
    assert bar.adjusted.close == pytest.approx(0.00000812345, rel=1e-6)
    told = {"symbol": "PEPE-USD", "regularMarketPrice": 4.2361e-7, "regularMarketPreviousClose": 4.0e-7}
    quote = quote_of(told, NOON)
    assert quote is not None
    assert quote.price == 4.2361e-7
    out = QuoteOut.of(quote, 0.0)
    assert out.change == pytest.approx(2.361e-8)
    assert out.change_percent == pytest.approx(5.9025, abs=1e-3)


@pytest.mark.parametrize("newest", [False, True])
def test_a_split_on_a_day_without_a_price_is_not_lost(newest: bool):
    """Yahoo tells the event on its date, whether or not it has a candle of that day."""
    hours = IndianHours(MarketCalendar(StandingClock(NOON)))
    nan = float("nan")
    rows = _rows(100.0, 100.0, 100.0, 100.0)[: 3 if newest else 4]
    rows[2] = Row(rows[2].start, nan, nan, nan, nan, nan, nan, dividend=1.5, split=2.0)
    made = made_of(rows, Timeframe.D1, hours, NOON)
    assert [bar.raw.close for bar in made.bars] == [200.0, 200.0, 100.0][: len(made.bars)]
    assert made.dropped == 0
    if not newest:
        assert (made.bars[-1].split, made.bars[-1].dividend) == (2.0, 1.5)


# Special days


def test_one_special_session_does_not_cost_two_years_of_hours():
    """On 21 October 2025 there was trade from 13:45 to 14:45 only, and not every provider begins its hours there."""
    calendar = MarketCalendar(StandingClock(NOON))
    opens = [session.opens for session in calendar.sessions(date(2025, 10, 6), date(2025, 10, 31))]
    starts = [opening + timedelta(hours=hour) for opening in opens for hour in range(7) if opening.hour == 3]
    evening = datetime(2025, 10, 21, 8, 45, tzinfo=UTC)
    rows = [Row(start, 100.0, 101.0, 99.0, 100.5, 100.5, 10.0) for start in sorted([*starts, evening])]
    hours = IndianHours(calendar)
    assert not misaligned(rows, Timeframe.H1.length, hours)
    made = made_of(rows, Timeframe.H1, hours, NOON)
    assert (len(made.bars), made.dropped) == (len(rows), 0)
    assert datetime(2025, 10, 21, 8, 15, tzinfo=UTC) in [bar.start for bar in made.bars]


# Weekends


async def test_on_a_sunday_the_usual_candles_are_those_of_the_last_session(desk: Desk):
    desk.clock.moment = datetime(2026, 11, 15, 6, 0, tzinfo=UTC)
    for timeframe in ("1m", "5m"):
        candles = (await desk.get("historical/RELIANCE", timeframe=timeframe))["candles"]
        assert datetime.fromisoformat(candles[0]["end"]) == datetime(2026, 11, 13, 10, tzinfo=UTC)
        assert datetime.fromisoformat(candles[-1]["timestamp"]).astimezone(IST).time() == time(9, 15)
        assert (await desk.sync("TCS", timeframe=timeframe))["fetched"] >= 75
    # Who says how far back gets that.
    assert (await desk.get("historical/RELIANCE", timeframe="1m", days=1))["candles"] == []


async def test_a_small_sync_on_a_mondays_first_minute_does_not_fetch_everything_again(
    desk: Desk, simulator: YahooSimulator
):
    """All that it asks for is a candle that is still forming: that says nothing of those before."""
    desk.clock.moment = datetime(2026, 11, 16, 3, 46, 30, tzinfo=UTC)
    await desk.sync("RELIANCE", timeframe="5m", days=40)
    path = f"{CHART}RELIANCE.NS"
    calls = simulator.calls[path]
    desk.clock.move(seconds=30)
    told = await desk.sync("RELIANCE", timeframe="5m", days=1)
    assert (told["added"], told["updated"], told["removed"]) == (0, 1, 0)
    assert simulator.calls[path] == calls + 1
