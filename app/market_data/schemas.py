"""What goes over the wire in this feature."""

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from app.core.market_calendar import Phase
from app.core.schemas import NoControlCharacters, RequestModel, ResponseModel, example
from app.market_data.ports import Quality, Timeframe

MAX_SYMBOLS = 200
"""In one request."""
MAX_PRICE = 1e9
"""Rupees."""

_SPACE_FOR_PLUS = re.compile(r"(T\d\d:\d\d(?::\d\d(?:\.\d+)?)?) (\d\d:?\d\d)$")


def _plus_in_query(value: Any) -> Any:
    """An unescaped + in a query arrives as a space: `…T09:15:00 05:30` means `…T09:15:00+05:30`."""
    return _SPACE_FOR_PLUS.sub(r"\1+\2", value) if isinstance(value, str) else value


def _whole_milliseconds_utc(moment: datetime) -> datetime:
    if not 1990 <= moment.year <= 2200:  # before any conversion, which overflows at the ends of the calendar
        raise ValueError("Input should be a time between 1990 and 2200")
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _known_years(day: date) -> date:
    if not 1990 <= day.year <= 2199:
        raise ValueError("Input should be a day between 1990 and 2199")
    return day


Moment = Annotated[datetime, BeforeValidator(_plus_in_query), AfterValidator(_whole_milliseconds_utc)]
Day = Annotated[date, AfterValidator(_known_years)]
_TRIMMED = StringConstraints(strip_whitespace=True, min_length=1, max_length=64)
Symbol = Annotated[str, _TRIMMED, NoControlCharacters]
Exchange = Annotated[str, BeforeValidator(_upper), _TRIMMED, NoControlCharacters]
Source = Annotated[str, _TRIMMED, NoControlCharacters]
QualityIn = Annotated[Quality, BeforeValidator(_lower)]
TimeframeIn = Annotated[Timeframe, BeforeValidator(_lower)]
Price = Annotated[float, Field(gt=0, le=MAX_PRICE, allow_inf_nan=False)]


class Span(RequestModel):
    """From when to when; both ends are included."""

    start: Moment | None = None
    end: Moment | None = None

    @model_validator(mode="after")
    def _order(self) -> "Span":
        if self.start and self.end and self.start > self.end:
            raise ValueError("start is after end")
        return self


class TickFilters(Span):
    """Which ticks are asked for; all of it holds together."""

    symbol: Symbol | None = None
    exchange: Exchange | None = None
    source: Source | None = None
    data_quality: QualityIn | None = None
    is_realtime: bool | None = None
    min_price: Price | None = None
    max_price: Price | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "TickFilters":
        if self.min_price is not None and self.max_price is not None and self.min_price > self.max_price:
            raise ValueError("min_price is above max_price")
        if self.symbol is None:
            if self.start is None or self.end is None:
                raise ValueError("Without a symbol both start and end are needed, at most one day apart")
            if (self.end - self.start).total_seconds() > 86_400:
                raise ValueError("Without a symbol start and end are at most one day apart")
        return self


_TICK = {
    "symbol": "NIFTY 50",
    "exchange": "NSE",
    "ltpc": 24350.55,
    "ch": 110.4,
    "chp": 0.4554,
    "open": 24260.1,
    "high": 24391.2,
    "low": 24241.85,
    "close": 24240.15,
    "volume": 0,
    "tk": "99926000",
    "token": "99926000",
    "exchange_type": 1,
    "instrument_type": "INDEX",
    "received_at": "2026-11-20T05:30:00.250Z",
    "ingested_at": "2026-11-20T05:30:00.262Z",
    "source": "angel_one",
    "data_quality": "good",
    "is_realtime": True,
    "processed": False,
    "id": "6b02893a002b26997921d778",
    "raw_data": {},
    "after_hours": False,
}


class MarketTick(ResponseModel):
    """One tick. Prices are rupees; figures that its mode does not bring are null."""

    model_config = ConfigDict(frozen=True, json_schema_extra=example(_TICK))

    symbol: str
    exchange: str
    ltpc: float = Field(description="The price last traded at.")
    ch: float | None = Field(description="Change since the close of the day before.")
    chp: float | None = Field(description="The same in percent.")
    open: float | None
    high: float | None
    low: float | None
    close: float | None = Field(description="Of the day before.")
    volume: int | None = Field(description="Of the day so far.")
    tk: str = Field(description="The same as `token`.")
    token: str = Field(description="The exchange's number for the instrument.")
    exchange_type: int
    instrument_type: str
    received_at: datetime = Field(
        description="The exchange's time of the tick, made unique per symbol by whole milliseconds."
    )
    ingested_at: datetime = Field(description="Our clock when it arrived.")
    source: str
    data_quality: Quality
    is_realtime: bool
    expiry: str | None = None
    strike_price: float | None = None
    depth: dict[str, Any] | None = Field(None, description="The best of both sides, where the feed brings it.")
    raw_data: dict[str, Any] = Field(description="What else the feed brought.")
    processed: bool
    after_hours: bool = Field(description="Whether it belongs to no session.")
    id: str | None = Field(None, description="Of its row in the store.")


class Candle(ResponseModel):
    """Open, high, low and close of a stretch of time, in rupees, with the volume traded in it."""

    symbol: str = Field(examples=["NIFTY 50"])
    timeframe: Timeframe
    start: datetime = Field(description="Candles are anchored at the session's opening, 09:15 IST.")
    end: datetime
    open: float
    high: float
    low: float
    close: float
    volume: int
    ticks: int = Field(description="Of which it was made.")
    revision: int = Field(description="How often it changed after it was closed: a late tick, a backfill.")
    source: str = Field(description="`ticks`, `backfill` (the provider's history) or `mixed`.")
    closed: bool = Field(description="Whether its time is over.")


class SymbolInfo(ResponseModel):
    """A symbol that ticks are known of, or that the feed follows."""

    symbol: str = Field(examples=["NIFTY 50"])
    exchange: str = Field(examples=["NSE"])
    exchange_type: int = Field(examples=[1])
    token: str = Field(examples=["99926000"])
    instrument_type: str = Field(examples=["INDEX"])
    last_price: float | None = Field(description="Null where no tick has come yet.")
    last_tick_at: datetime | None


class FeedCounters(ResponseModel):
    """What the feed took in since it was started, and its state.

    A state: `live`, `silent` (connected, and nothing comes), `connecting`, `backing off`, `refused`, `paused` (the
    market is closed), `off`, or `unknown` when the process that runs it has not said anything for a while.
    """

    state: str = Field(examples=["live"])
    since: datetime | None = None
    updated_at: datetime | None = None
    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = Field(default={}, description="By reason.")
    after_hours: int = 0
    reconnects: int = 0
    lost: int = Field(0, description="Ticks that could not be kept, for example because the disk was full.")
    spilled: int = Field(0, description="Ticks that went to disk while the database was away.")
    conflated: int = Field(0, description="Messages to clients that a newer one took the place of.")


class Statistics(ResponseModel):
    """How many ticks are stored, and how the feed does."""

    total: int
    by_symbol: dict[str, int]
    by_source: dict[str, int]
    by_quality: dict[str, int]
    first_tick_at: datetime | None
    last_tick_at: datetime | None
    feed: FeedCounters


class QualityGap(ResponseModel):
    """A stretch of the session without ticks."""

    start: datetime
    end: datetime


class SymbolQuality(ResponseModel):
    """How good the data of a symbol were on a day."""

    symbol: str
    day: date
    gaps: list[QualityGap] = Field(description="The first hundred.")
    gap_count: int
    longest_silence_seconds: float
    duplicates: int = Field(description="Repeated frames, of which one row was kept.")
    late: int = Field(description="Ticks that came after newer ones.")
    rejected: dict[str, int] = Field(description="By reason.")
    by_quality: dict[str, int]
    last_tick_at: datetime | None = Field(description="The newest tick of the symbol, of whatever day.")
    silent_seconds: float | None = Field(description="How long ago that is.")
    stale: bool = Field(description="Whether the market is open and nothing has come for 15 seconds.")
    doubt: str | None = Field(None, description="What the list of instruments says against the symbol's token.")


class SessionHours(ResponseModel):
    """A trading day's hours."""

    day: date
    kind: str = Field(examples=["regular"])
    name: str | None = Field(description="What a special session is held for.")
    opens: datetime
    closes: datetime
    pre_open: datetime | None
    post_close: datetime | None


class CalendarInfo(ResponseModel):
    """Which days the calendar knows."""

    version: str
    first: date
    last: date


class MarketStatus(ResponseModel):
    """What the Indian stock exchanges do now."""

    status: Literal["open", "closed", "pre-open"]
    phase: Phase = Field(description="The same, with the closing session told apart.")
    is_open: bool
    at: datetime
    since: datetime
    until: datetime = Field(description="When the phase ends.")
    session: SessionHours | None = Field(description="That of the day, over or not; null on a day without.")
    next_open: datetime
    next_session: SessionHours
    certain: bool = Field(description="Whether the exchanges have announced it so.")
    note: str | None = Field(description="The holiday, the special session, or what is not known.")
    time_zone: str = "Asia/Kolkata"
    calendar: CalendarInfo


class ChartFormat(StrEnum):
    """What a chart comes as."""

    JSON = "json"
    HTML = "html"


class CandleFigure(ResponseModel):
    """A Plotly figure."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]
