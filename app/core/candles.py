"""Candles as features hand them to one another, and how long they can be."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol


class Timeframe(StrEnum):
    """How long a candle is. Those of Indian symbols of an hour begin at the session's opening (09:15, 10:15, …)."""

    M1 = "1m"
    M5 = "5m"
    M15 = "15m"
    H1 = "1H"
    D1 = "1D"
    W1 = "1W"

    @property
    def length(self) -> timedelta:
        """The longest that one lasts; the end of a session, or of a week of them, ends it before."""
        return _LENGTHS[self]

    @property
    def intraday(self) -> bool:
        """Whether a session has several."""
        return self not in (Timeframe.D1, Timeframe.W1)

    @classmethod
    def _missing_(cls, value: object) -> "Timeframe | None":
        """Case does not matter: there is no month to take `1M` for."""
        return _BY_NAME.get(value.strip().lower()) if isinstance(value, str) else None


_LENGTHS: Final = {
    Timeframe.M1: timedelta(minutes=1),
    Timeframe.M5: timedelta(minutes=5),
    Timeframe.M15: timedelta(minutes=15),
    Timeframe.H1: timedelta(hours=1),
    Timeframe.D1: timedelta(days=1),
    Timeframe.W1: timedelta(days=7),
}
_BY_NAME: Final = {timeframe.value.lower(): timeframe for timeframe in Timeframe}
TIMEFRAMES: Final = tuple(timeframe.value for timeframe in Timeframe)


class CandleSeries(NamedTuple):
    """Candles of one symbol, of one provider, oldest first: columns of equal length.

    Where `adjusted`, prices and volume are so for splits, prices for dividends too: one unit of money bought at any
    bar's price has earned what the series says.
    """

    symbol: str
    """As the provider calls it: `RELIANCE.NS`, `^NSEI`."""
    timeframe: str
    start: Sequence[datetime]
    """When each begins; aware UTC."""
    open: tuple[float, ...]
    high: tuple[float, ...]
    low: tuple[float, ...]
    close: tuple[float, ...]
    volume: tuple[float, ...]
    closed: bool
    """Whether all of them are over; if not, the last one is still forming."""
    source: str
    """`yahoo` or `angel_one`."""
    fetched_at: datetime
    stale: bool
    """Whether newer ones should exist and could not be fetched."""
    currency: str | None
    adjusted: bool = True
    """False: the provider does not say what its prices are adjusted for; a split may look like a fall."""


class CandleHistory(Protocol):
    """Where candles come from, whoever provides them."""

    async def candles(self, symbol: str, timeframe: str, bars: int) -> CandleSeries:
        """The newest `bars` closed candles, fewer where there are no more; `symbol` as people write it (`RELIANCE` is
        `RELIANCE.NS`, `NIFTY50` is `^NSEI`).

        Raises `NotFoundError` for an unknown symbol, `InvalidInputError` for what is no symbol or timeframe, and
        `UnavailableError` where no provider answers and none are stored.
        """
