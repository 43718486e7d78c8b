"""Quotes and candles as they go over the wire."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from app.core.candles import TIMEFRAMES, Timeframe
from app.core.errors import DomainError
from app.core.schemas import ResponseModel
from app.quotes.ports import Bar, Fetched, Quote, SourceName, rounded


def _timeframe(value: Any) -> Any:
    try:
        return Timeframe(value)
    except ValueError:
        raise ValueError(f"Input should be one of {', '.join(TIMEFRAMES)}") from None


TimeframeIn = Annotated[
    Timeframe, BeforeValidator(_timeframe), WithJsonSchema({"type": "string", "enum": list(TIMEFRAMES)})
]
"""In any case: `1h` is `1H`."""


class QuoteOut(ResponseModel):
    """The newest price of a symbol, and the day it belongs to; null for what the provider does not say."""

    symbol: str = Field(examples=["RELIANCE.NS"], description="As Yahoo calls it.")
    name: str | None = Field(examples=["Reliance Industries Limited"])
    exchange: str | None = Field(examples=["NSE"])
    currency: str | None = Field(examples=["INR"], description="Of all prices here.")
    price: float = Field(examples=[1432.5])
    change: float | None = Field(examples=[12.1], description="Since the previous close.")
    change_percent: float | None = Field(examples=[0.85])
    previous_close: float | None = Field(examples=[1420.4])
    open: float | None = Field(examples=[1421.0])
    high: float | None = Field(examples=[1436.9])
    low: float | None = Field(examples=[1418.2])
    volume: float | None = Field(examples=[8_123_456])
    year_high: float | None = Field(examples=[1608.8])
    year_low: float | None = Field(examples=[1114.85])
    market_cap: float | None = Field(examples=[19_380_000_000_000])
    market_state: str | None = Field(examples=["OPEN"], description="`OPEN`, `CLOSED`, `PRE` or `POST`.")
    timestamp: datetime | None = Field(description="When it was traded for that.")
    delay_minutes: float | None = Field(examples=[0], description="How much the provider's prices lag, as it says.")
    source: SourceName
    fetched_at: datetime
    age_seconds: float = Field(examples=[3.2], description="Since it was fetched.")
    stale: bool = Field(description="Whether a newer one should exist, and no provider answered.")

    @classmethod
    def of(cls, quote: Quote, age_seconds: float) -> "QuoteOut":
        """As JSON shows it."""
        before = quote.previous_close
        change = quote.price - before if before else None
        return cls(
            symbol=quote.symbol,
            name=quote.name,
            exchange=quote.exchange,
            currency=quote.currency,
            price=quote.price,
            change=None if change is None else rounded(change, 6),
            change_percent=round(change / before * 100, 4) if change is not None and before else None,
            previous_close=before,
            open=quote.open,
            high=quote.high,
            low=quote.low,
            volume=quote.volume,
            year_high=quote.year_high,
            year_low=quote.year_low,
            market_cap=quote.market_cap,
            market_state=quote.market_state,
            timestamp=quote.at,
            delay_minutes=quote.delay_minutes,
            source=quote.source,
            fetched_at=quote.fetched_at,
            age_seconds=age_seconds,
            stale=quote.stale,
        )


class QuoteFault(ResponseModel):
    """Why there is no quote of one of several symbols."""

    status: int = Field(examples=[404], description="What asking for it alone would be answered with.")
    title: str = Field(examples=["Not found"])
    detail: str = Field(examples=["There is no NOSUCH.NS at yahoo."])

    @classmethod
    def of(cls, error: DomainError) -> "QuoteFault":
        """As JSON shows it."""
        return cls(status=error.status, title=error.title, detail=error.detail)


class QuoteResult(ResponseModel):
    """One of several symbols: a quote or an error."""

    symbol: str = Field(examples=["RELIANCE"], description="As it was asked for.")
    quote: QuoteOut | None
    error: QuoteFault | None


class RawPrices(ResponseModel):
    """Prices and volume as they were traded."""

    open: float
    high: float
    low: float
    close: float
    volume: float


class CandleOut(ResponseModel):
    """A candle. Its prices and volume are adjusted for splits, its prices for dividends too; `raw` is not."""

    timestamp: datetime = Field(description="When it begins: of days and of Indian hours at the session's opening.")
    end: datetime
    open: float = Field(examples=[1421.0])
    high: float = Field(examples=[1436.9])
    low: float = Field(examples=[1418.2])
    close: float = Field(examples=[1432.5])
    volume: float = Field(examples=[8_123_456])
    raw: RawPrices
    closed: bool = Field(description="Whether it is over; if not, it is still forming.")
    dividend: float | None = Field(description="Per share, before this candle.")
    split: float | None = Field(description="Shares for one, from this candle on.")

    @classmethod
    def of(cls, bar: Bar) -> "CandleOut":
        """As JSON shows it."""
        adjusted, raw = bar.adjusted, bar.raw
        return cls.model_construct(
            timestamp=bar.start,
            end=bar.end,
            open=adjusted.open,
            high=adjusted.high,
            low=adjusted.low,
            close=adjusted.close,
            volume=adjusted.volume,
            raw=RawPrices.model_construct(
                open=raw.open, high=raw.high, low=raw.low, close=raw.close, volume=raw.volume
            ),
            closed=bar.closed,
            dividend=bar.dividend or None,
            split=bar.split or None,
        )


class HistoryOut(ResponseModel):
    """Candles of a symbol, newest first."""

    symbol: str = Field(examples=["RELIANCE.NS"], description="As Yahoo calls it.")
    timeframe: Timeframe
    currency: str | None = Field(examples=["INR"])
    source: SourceName
    adjusted: bool = Field(
        examples=[True], description="False: the provider does not say what its prices are adjusted for."
    )
    fetched_at: datetime
    age_seconds: float = Field(examples=[3.2], description="Since they were fetched.")
    stale: bool = Field(description="Whether newer ones should exist, and no provider answered.")
    candles: list[CandleOut]

    @classmethod
    def of(cls, fetched: Fetched, bars: list[Bar], age_seconds: float) -> "HistoryOut":
        """As JSON shows it: `bars` are those of one page."""
        return cls(
            symbol=fetched.symbol,
            timeframe=fetched.timeframe,
            currency=fetched.currency,
            source=fetched.source,
            adjusted=fetched.adjusted,
            fetched_at=fetched.fetched_at,
            age_seconds=age_seconds,
            stale=fetched.stale,
            candles=[CandleOut.of(bar) for bar in bars],
        )


class SyncOut(ResponseModel):
    """What a sync did; the same sync again adds and updates nothing but the candle that is forming."""

    symbol: str = Field(examples=["RELIANCE.NS"])
    timeframe: Timeframe = Field(description="Weeks are made of days: then it is days that were stored.")
    source: SourceName
    fetched: int = Field(examples=[250])
    added: int = Field(examples=[1])
    updated: int = Field(examples=[1], description="The forming one, corrections, and all older ones after a split.")
    unchanged: int = Field(examples=[248])
    removed: int = Field(examples=[0], description="Older ones that a split has made wrong, too old to be fetched.")
    left_out: int = Field(examples=[0], description="What the provider sent and cannot be right.")
    first: datetime = Field(description="When the first of the fetched candles begins.")
    last: datetime
    fetched_at: datetime
