"""Newest quotes: cached for seconds, asked for together, stale rather than none."""

import asyncio
from pathlib import Path

import pytest

from app.core.cache import Cache
from app.core.market_calendar import MarketCalendar
from app.quotes.adapters.yahoo import YahooProcess
from app.quotes.newest import Quotes
from app.quotes.sources import Sources
from tests.quotes.kit import Desk, yahoo_of
from tests.simulators.yahoo import YahooSimulator
from tests.simulators.yahoo.simulator import QUOTE


async def test_a_quote(desk: Desk):
    quote = await desk.get("quote/RELIANCE")
    assert quote["symbol"] == "RELIANCE.NS"
    assert quote["name"] == "Reliance Industries Limited"
    assert (quote["currency"], quote["exchange"], quote["market_state"]) == ("INR", "NSE", "OPEN")
    assert quote["change"] == pytest.approx(quote["price"] - quote["previous_close"], abs=1e-5)
    assert quote["change_percent"] == pytest.approx(quote["change"] / quote["previous_close"] * 100, abs=1e-3)
    assert (quote["source"], quote["stale"], quote["age_seconds"]) == ("yahoo", False, 0.0)


@pytest.mark.parametrize(
    ("text", "symbol"), [("NIFTY50", "^NSEI"), ("sensex", "^BSESN"), ("%5ENSEI", "^NSEI"), ("500325.BO", "500325.BO")]
)
async def test_names(desk: Desk, text: str, symbol: str):
    assert (await desk.get(f"quote/{text}"))["symbol"] == symbol


async def test_fifteen_seconds_while_the_market_is_open_and_minutes_when_it_is_closed(
    desk: Desk, simulator: YahooSimulator
):
    assert desk.quotes._keep_for(_symbol("RELIANCE"))[0] == 15
    await desk.get("quote/RELIANCE")
    await desk.get("quote/RELIANCE.NS")
    assert simulator.calls[QUOTE] == 1
    desk.clock.move(hours=8)  # in the evening
    assert desk.quotes._keep_for(_symbol("RELIANCE"))[0] == 300
    # The market has closed since: what was kept while it was open is no answer.
    assert (await desk.get("quote/RELIANCE"))["market_state"] == "CLOSED"
    assert simulator.calls[QUOTE] == 2
    desk.clock.move(hours=13, minutes=56)  # a minute before the pre-opening session
    assert desk.quotes._keep_for(_symbol("RELIANCE"))[0] <= 150
    assert desk.quotes._keep_for(_symbol("BMW.DE"))[0] == 15


def _symbol(text: str) -> object:
    from app.quotes.naming import resolve

    return resolve(text)


async def test_several_are_one_request_and_fail_one_by_one(desk: Desk, simulator: YahooSimulator):
    names = ["RELIANCE", "NOSUCHTHING", "nifty50", "A$B", "AAPL", "TCS"]
    results = await desk.get("multiple", symbols=",".join(names))
    assert [result["symbol"] for result in results] == names
    assert [bool(result["quote"]) for result in results] == [True, False, True, False, True, True]
    assert results[1]["error"]["status"] == 404
    assert results[3]["error"]["status"] == 422
    assert results[4]["quote"]["currency"] == "USD"
    assert simulator.calls[QUOTE] == 2  # once for all, once for what may be American


async def test_how_many(desk: Desk):
    fifty = [f"SYM{place}" for place in range(50)]
    assert len(await desk.get("multiple", symbols=",".join(fifty))) == 50
    for symbols in (",".join([*fifty, "MORE"]), ",,", ""):
        assert (await desk.client.get("/api/market/multiple", params={"symbols": symbols})).status_code == 422
    assert (await desk.client.get("/api/market/multiple")).status_code == 422


async def test_many_readers_at_once_are_one_request(desk: Desk, simulator: YahooSimulator):
    simulator.fail("slow", seconds=0.2, on=QUOTE)
    names = ["RELIANCE", "TCS", "INFY"]
    await asyncio.gather(*(desk.get(f"quote/{names[place % 3]}") for place in range(30)))
    assert simulator.calls[QUOTE] == 1


async def test_429_gives_the_newest_known_marked_and_no_second_request(desk: Desk, simulator: YahooSimulator):
    fresh = await desk.get("quote/RELIANCE")
    desk.pass_by(seconds=40)
    simulator.fail("too_many", times=100, on=QUOTE)
    for _ in range(5):
        stale = await desk.get("quote/RELIANCE")
        assert (stale["stale"], stale["age_seconds"], stale["price"]) == (True, 40.0, fresh["price"])
    assert simulator.calls[QUOTE] == 2
    # One of several that was never known says why; the other is stale.
    known, unknown = await desk.get("multiple", symbols="RELIANCE,TCS")
    assert known["quote"]["stale"]
    assert unknown["error"] == {
        "status": 503,
        "title": "Temporarily unavailable",
        "detail": "Yahoo: left alone after failures (rate limited (429)).",
    }


async def test_a_process_that_has_just_begun_knows_the_newest_too(
    desk: Desk, process: YahooProcess, simulator: YahooSimulator, tmp_path: Path
):
    fresh = await desk.get("quote/TCS")
    await _until_stored(desk, "TCS.NS")
    desk.pass_by(seconds=100)
    simulator.fail("unavailable", times=100)
    yahoo = await yahoo_of(process, simulator, desk.clock, tmp_path / "other")
    calendar = MarketCalendar(desk.clock)
    sources = Sources([yahoo], desk.clock)
    other = Quotes(sources=sources, store=desk.store, cache=Cache(), clock=desk.clock, calendar=calendar)
    quote = await other.quote("TCS")
    assert quote.stale
    assert quote.price == fresh["price"]
    await other.close()


async def _until_stored(desk: Desk, symbol: str) -> None:
    async with asyncio.timeout(30):
        while await desk.db["quote_newest"].find_one({"_id": symbol}) is None:
            await asyncio.sleep(0.01)
