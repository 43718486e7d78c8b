"""Where the prices come from that complete users' signals, as the composition root joins it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from app.core.errors import NotFoundError
from app.lifespan.signals import CandlePrices, price_names
from app.market_data.candle_reading import CandleReading
from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument
from app.market_data.watchlist import Watchlist
from tests.signals.users.kit import MINUTE, NOON, Row, bar


class Reading:
    """A candle a minute of one symbol."""

    async def stretch(self, symbol: str, *_: Any) -> tuple[str, list[Row]]:
        if symbol != "NIFTY 50":
            raise NotFoundError("There is none.")
        starts: list[datetime] = [NOON - MINUTE, NOON, NOON + MINUTE]
        return symbol, [{"start": start, "open": 100.1, "high": 101.0, "low": 99.0} for start in starts]


class Feed:
    """What is followed, and may change."""

    def __init__(self, *followed: Instrument) -> None:
        self.instruments: Sequence[Instrument] = followed

    def followed(self) -> Sequence[Instrument]:
        return self.instruments


async def test_candles_that_may_be_another_instruments_end_nothing() -> None:
    """As their ticks do not: the list of instruments says that the token is something else."""
    doubts: dict[str, str] = {}
    prices = CandlePrices(cast("CandleReading", Reading()), doubts.get)
    assert await prices.bars("NIFTY 50", NOON, NOON + MINUTE) == [bar(NOON, "100.1", "101.0", "99.0")]
    assert await prices.bars("TCS", NOON, NOON + MINUTE) == []
    doubts["NIFTY 50"] = "NSE:99926000 is NIFTY NEXT 50 by the list of instruments."
    assert await prices.bars("NIFTY 50", NOON, NOON + MINUTE) == []


def test_names_are_those_of_what_is_followed_now() -> None:
    feed = Feed(*DEFAULT_INSTRUMENTS)
    name = price_names(cast("Watchlist", feed))
    assert [name(each) for each in ("NIFTY50", "NIFTY BANK", "RELIANCE")] == ["NIFTY 50", "BANKNIFTY", None]
    feed.instruments = [Instrument("RELIANCE-EQ", "2885", "NSE", 1, "EQ")]
    assert [name(each) for each in ("NIFTY50", "RELIANCE")] == [None, "RELIANCE-EQ"]
