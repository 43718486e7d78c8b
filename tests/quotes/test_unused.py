"""What is stored of symbols that nobody uses goes, and what the service works with stays."""

from collections.abc import Collection

from app.lifespan.quotes import SymbolsInUse
from app.market_data.ports import Instrument
from app.predictions.models import DOCUMENTS as PREDICTION_DOCUMENTS
from app.quotes.adapters.yahoo import Yahoo
from app.signals.generated_models import DOCUMENTS as GENERATED_DOCUMENTS
from app.signals.user_models import DOCUMENTS as SIGNAL_DOCUMENTS
from tests.quotes.kit import Desk, desk_of
from tests.simulators.yahoo import YahooSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database


class Used:
    """What the rest of the service works with, here."""

    def __init__(self, *symbols: str) -> None:
        self.symbols = set(symbols)

    async def used(self, symbols: Collection[str]) -> Collection[str]:
        return self.symbols & set(symbols)


async def series(db: Db) -> list[str]:
    return sorted([row["_id"] async for row in db["quote_series"].find({})])


async def ask(desk: Desk, symbol: str, timeframe: str = "1D") -> None:
    """As anybody may, without a token."""
    await desk.get(f"historical/{symbol}", timeframe=timeframe)
    await desk.candles.drain()


async def test_what_nobody_asked_for_in_a_month_goes_and_what_is_used_stays(db: Db, clock: StandingClock, yahoo: Yahoo):
    async with desk_of(db, clock, [yahoo], used=Used("TCS.NS")) as desk:
        for symbol in ("RELIANCE", "TCS", "INFY"):
            await ask(desk, symbol)
            await desk.get(f"quote/{symbol}")
        await desk.candles.expire()
        assert await series(db) == ["INFY.NS|1D|yahoo", "RELIANCE.NS|1D|yahoo", "TCS.NS|1D|yahoo"]

        desk.pass_by(days=20)
        await ask(desk, "INFY")
        await desk.get("quote/INFY")
        desk.pass_by(days=11)
        said = await desk.candles.expire()

        assert await series(db) == ["INFY.NS|1D|yahoo", "TCS.NS|1D|yahoo"]
        assert sorted(await db["quote_candles"].distinct("series")) == await series(db)
        assert sorted(await db["quote_newest"].distinct("_id")) == ["INFY.NS", "TCS.NS"]
        assert (said["series"], said["quotes"]) == (1, 1)
        assert said["candles"] > 10
        assert await desk.candles.expire() == {"old_candles": 0, "series": 0, "candles": 0, "quotes": 0}
        # It is as if nobody had ever asked.
        await ask(desk, "RELIANCE")
        assert await desk.stored("RELIANCE.NS|1D|yahoo")


async def test_asking_while_no_provider_answers_keeps_what_is_stored(
    db: Db, clock: StandingClock, yahoo: Yahoo, simulator: YahooSimulator
):
    async with desk_of(db, clock, [yahoo], used=Used()) as desk:
        await ask(desk, "RELIANCE")
        desk.pass_by(days=20)
        simulator.fail("unavailable", times=10)
        assert (await desk.get("historical/RELIANCE", days=40))["stale"]
        desk.pass_by(days=11)
        await desk.candles.expire()
        assert await series(db) == ["RELIANCE.NS|1D|yahoo"]


async def test_one_series_too_many_ends_the_one_that_was_asked_for_longest_ago(
    db: Db, clock: StandingClock, yahoo: Yahoo
):
    async with desk_of(db, clock, [yahoo], used=Used("TCS.NS"), most=3) as desk:
        for symbol in ("TCS", "RELIANCE", "INFY"):
            await ask(desk, symbol)
            desk.pass_by(minutes=6)
        await ask(desk, "RELIANCE")
        desk.pass_by(minutes=6)
        assert len(await series(db)) == 3

        await ask(desk, "AAPL")

        assert await series(db) == ["AAPL|1D|yahoo", "RELIANCE.NS|1D|yahoo", "TCS.NS|1D|yahoo"]
        assert not await desk.stored("INFY.NS|1D|yahoo")


async def test_a_series_that_is_fetched_while_it_goes_is_fetched_whole(db: Db, desk: Desk):
    await desk.sync("RELIANCE", days=300)
    whole = await desk.stored("RELIANCE.NS|1D|yahoo")
    [use] = await desk.store.uses()
    # Its deletion was cut off in the middle.
    await db["quote_series"].update_one({"_id": use.id}, {"$set": {"mending": True}})
    await db["quote_candles"].delete_many({"series": use.id, "start": {"$lt": whole[len(whole) // 2]["start"]}})
    desk.pass_by(minutes=6)

    await desk.sync("RELIANCE", days=30)

    assert len(await desk.stored("RELIANCE.NS|1D|yahoo")) == len(whole)
    assert await desk.store.drop(use) is None  # somebody wanted it since
    assert len(await desk.stored("RELIANCE.NS|1D|yahoo")) == len(whole)


class Followed:
    """What the feed follows, here."""

    def followed(self) -> list[Instrument]:
        return [
            Instrument("NIFTY 50", "99926000", "NSE", 1, "INDEX"),
            Instrument("TCS-EQ", "11536", "NSE", 1, "EQ"),
            Instrument("RELIANCE", "500325", "BSE", 3, "EQ"),
            Instrument("SUZLON-BE", "12018", "NSE", 1, "BE"),
            Instrument("NIFTY29DEC2624500CE", "43567", "NFO", 2, "OPTIDX"),
        ]


async def test_what_the_service_works_with(mongodb_url: str):
    documents = [*PREDICTION_DOCUMENTS, *GENERATED_DOCUMENTS, *SIGNAL_DOCUMENTS]
    async with empty_database(mongodb_url, documents) as db:
        await db["predictions"].insert_one({"key": "1", "symbol": "AAPL"})
        await db["trading_signals"].insert_one({"key": "1", "symbol": "INFY.NS"})
        said = ("SBIN", "NSE:HDFC", "BSE:LT", "ITC-EQ", "BANKNIFTY")
        await db["signals"].insert_many([{"symbol": symbol} for symbol in said])
        unused = {"RELIANCE.NS", "MSFT", "^BSESN", "WIPRO.BO", "HDFC.BO"}
        using = {"AAPL", "INFY.NS", "SBIN.NS", "TCS.NS", "SUZLON.NS", "RELIANCE.BO", "^NSEI"}
        using |= {"HDFC.NS", "LT.BO", "ITC.NS", "^NSEBANK"}

        found = await SymbolsInUse(Followed()).used(unused | using)  # type: ignore[arg-type]

        assert set(found) == using
