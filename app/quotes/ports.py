"""The words of quotes and candles, and what the feature needs from a provider of them. Prices are in `currency`."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

from app.core.candles import Timeframe


class SourceName(StrEnum):
    """A provider."""

    YAHOO = "yahoo"
    ANGEL_ONE = "angel_one"


class Symbol(NamedTuple):
    """What somebody asked for, in the provider's words; see `naming`."""

    name: str
    """As Yahoo calls it: `RELIANCE.NS`, `^NSEI`, `AAPL`."""
    indian: bool
    """Whether the calendar of NSE and BSE holds for it."""
    otherwise: str | None = None
    """What a name without exchange may be if NSE has none."""


class Prices(msgspec.Struct, frozen=True, array_like=True):
    """Four prices and a volume."""

    open: float
    high: float
    low: float
    close: float
    volume: float


class Bar(msgspec.Struct, frozen=True, array_like=True):
    """One candle."""

    start: datetime
    end: datetime
    """When it is over; aware UTC, like its start."""
    raw: Prices
    """As it was traded."""
    adjusted: Prices
    """For splits and dividends since."""
    closed: bool
    """False: it is still forming, as far as the provider's own data tell."""
    dividend: float = 0.0
    """Per share, as traded; the bar is the first without it."""
    split: float = 0.0
    """Shares for one, from this bar on; 0: none."""


class Fetched(msgspec.Struct, frozen=True):
    """What a provider has of a stretch of time: bars, oldest first."""

    symbol: str
    timeframe: Timeframe
    bars: tuple[Bar, ...]
    source: SourceName
    fetched_at: datetime
    adjusted: bool
    """Whether the provider says what adjustments there are; if not, both prices of a bar are those it gave."""
    currency: str | None = None
    stale: bool = False
    dropped: int = 0
    """Bars that contradicted themselves, or the calendar, and were left out."""


class Quote(msgspec.Struct, frozen=True):
    """The newest price of a symbol and the day it belongs to; None for what the provider does not say."""

    symbol: str
    price: float
    source: SourceName
    fetched_at: datetime
    name: str | None = None
    exchange: str | None = None
    currency: str | None = None
    previous_close: float | None = None
    open: float | None = None
    high: float | None = None
    low: float | None = None
    volume: float | None = None
    year_high: float | None = None
    year_low: float | None = None
    market_cap: float | None = None
    market_state: str | None = None
    """`OPEN`, `CLOSED`, `PRE` or `POST`."""
    at: datetime | None = None
    """When it was traded for that."""
    delay_minutes: float | None = None
    """By how much the provider's prices lag, in its own words."""
    stale: bool = False


def rounded(price: float, digits: int) -> float:
    """To so many digits after the point; of what is less than 1, to one more that count: some coins cost millionths."""
    return round(price, digits) if abs(price) >= 1 else float(f"{price:.{digits + 1}g}")


class HistorySource(Protocol):
    """A provider. Every call raises a `SourceError` (see `errors`) for whatever is not a usable answer."""

    name: SourceName

    def covers(self, symbol: Symbol) -> bool:
        """Whether it may have the symbol at all; never waits."""

    async def candles(self, symbol: Symbol, timeframe: Timeframe, start: datetime) -> Fetched:
        """Candles that begin at `start` or later up to now, the one that is forming too; not of `W1`.

        Raises `NoSuchSymbolError` and `NothingFoundError` too.
        """

    async def quotes(self, symbols: Sequence[Symbol]) -> dict[str, Quote]:
        """The newest quotes by the symbols' names; what it does not know is left out."""

    async def close(self) -> None:
        """Give threads and connections up."""


class InstrumentPlace(Protocol):
    """Where an instrument is listed."""

    @property
    def exchange(self) -> str:
        """`NSE` or `BSE`."""

    @property
    def token(self) -> str:
        """The exchange's number for it."""


class Instruments(Protocol):
    """The list of what the Indian exchanges trade; live market data keeps it."""

    async def find(
        self, *, symbol: str | None = None, exchange: str | None = None, token: str | None = None
    ) -> InstrumentPlace | None:
        """The likeliest instrument of that symbol or name on `exchange`; None if there is none, or no list yet."""
