"""Angel One as a source of Indian candles, and of quotes made of them. Knows both sides."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final

from app.core.candles import Timeframe
from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.integrations.angel_one.candles import RawBar
from app.integrations.angel_one.errors import AngelOneError
from app.integrations.angel_one.errors import NonsenseError as AngelNonsenseError
from app.integrations.angel_one.errors import RateLimitedError as AngelRateLimitedError
from app.integrations.angel_one.errors import RequestRefusedError as AngelRefusedError
from app.integrations.angel_one.session import AngelOneSession
from app.quotes.bars import IndianHours, Row, made_of, misaligned
from app.quotes.errors import (
    NonsenseError,
    NoSuchSymbolError,
    NothingFoundError,
    RateLimitedError,
    RefusedError,
    SourceError,
    UnreachableError,
)
from app.quotes.ports import Fetched, InstrumentPlace, Instruments, Quote, SourceName, Symbol

_NAME: Final = SourceName.ANGEL_ONE
MOST_QUOTES: Final = 10
"""At once: each takes two of the three requests that Angel One allows a second."""
_LIVE: Final = timedelta(seconds=5)
_INTERVALS: Final = {
    Timeframe.M1: "ONE_MINUTE",
    Timeframe.M5: "FIVE_MINUTE",
    Timeframe.M15: "FIFTEEN_MINUTE",
    Timeframe.H1: "ONE_HOUR",
    Timeframe.D1: "ONE_DAY",
}
_INDICES: Final = {"^NSEI": ("NIFTY 50", "NSE"), "^NSEBANK": ("NIFTY BANK", "NSE"), "^BSESN": ("SENSEX", "BSE")}
_EXCHANGES: Final = {".NS": "NSE", ".BO": "BSE"}


class AngelOneHistory:
    """Fills the port `HistorySource`. It does not say what it has adjusted its candles for."""

    name = _NAME

    def __init__(
        self, session: AngelOneSession, instruments: Instruments, *, clock: Clock, calendar: MarketCalendar
    ) -> None:
        """`session` stays its owner's: it is not closed here."""
        self._session, self._instruments, self._clock = session, instruments, clock
        self._hours = IndianHours(calendar)

    def covers(self, symbol: Symbol) -> bool:
        """See the port."""
        return symbol.name in _INDICES or symbol.name[-3:] in _EXCHANGES

    async def candles(self, symbol: Symbol, timeframe: Timeframe, start: datetime) -> Fetched:
        """See the port."""
        place = await self._place(symbol)
        first = start if timeframe.intraday else datetime.combine(start.astimezone(IST).date(), time(), IST)
        now = self._clock.now()
        try:
            raw = await self._session.candles(place.exchange, place.token, _INTERVALS[timeframe], first, now)
        except AngelOneError as error:
            raise _sorted(error) from None
        rows = [_row(bar) for bar in raw]
        if timeframe is Timeframe.H1 and misaligned(rows, timeframe.length, self._hours):
            raise NonsenseError(_NAME, "hours of the clock")
        made = made_of(rows, timeframe, self._hours, now - _LIVE)
        if not made.bars:
            raise NothingFoundError(_NAME, f"no {timeframe} candles")
        return Fetched(
            symbol.name, timeframe, made.bars, _NAME, now, adjusted=False, currency="INR", dropped=made.dropped
        )

    async def quotes(self, symbols: Sequence[Symbol]) -> dict[str, Quote]:
        """See the port: the newest minute's close, and the day so far; the first `MOST_QUOTES` symbols only."""
        found = {}
        for symbol in symbols[:MOST_QUOTES]:
            try:
                found[symbol.name] = await self._quote(symbol)
            except (NoSuchSymbolError, NothingFoundError):
                continue
        return found

    async def _quote(self, symbol: Symbol) -> Quote:
        now = self._clock.now()
        minutes = (await self.candles(symbol, Timeframe.M1, now - timedelta(days=6))).bars
        day = self._hours.date_of(minutes[-1].start)
        today = [bar for bar in minutes if self._hours.date_of(bar.start) == day]
        days = (await self.candles(symbol, Timeframe.D1, now - timedelta(days=12))).bars
        before = [bar for bar in days if self._hours.date_of(bar.start) < day]
        return Quote(
            symbol=symbol.name,
            price=minutes[-1].raw.close,
            source=_NAME,
            fetched_at=now,
            exchange="BSE" if symbol.name.endswith(".BO") or symbol.name == "^BSESN" else "NSE",
            currency="INR",
            previous_close=before[-1].raw.close if before else None,
            open=today[0].raw.open,
            high=max(bar.raw.high for bar in today),
            low=min(bar.raw.low for bar in today),
            volume=sum(bar.raw.volume for bar in today),
            market_state="OPEN" if self._hours.bar(now, Timeframe.D1.length) else "CLOSED",
            at=min(minutes[-1].end, now),
            delay_minutes=0.0,
        )

    async def _place(self, symbol: Symbol) -> InstrumentPlace:
        if symbol.name in _INDICES:
            name, exchange = _INDICES[symbol.name]
        else:
            name, exchange = symbol.name[:-3], _EXCHANGES.get(symbol.name[-3:], "")
        by_number = {"token": name} if name.isdigit() else {"symbol": name}
        place = await self._instruments.find(exchange=exchange, **by_number) if exchange else None
        if place is None:
            raise NoSuchSymbolError(_NAME, "not listed")
        return place

    async def close(self) -> None:
        """See the port: the session is not ours."""


def _row(bar: RawBar) -> Row:
    prices = (float(bar.open), float(bar.high), float(bar.low), float(bar.close))
    return Row(bar.start.astimezone(UTC), *prices, prices[-1], float(bar.volume))


def _sorted(error: AngelOneError) -> SourceError:
    wait = error.retry_after
    told = wait is not None
    if isinstance(error, AngelRateLimitedError):
        return RateLimitedError(_NAME, error.code, retry_after=wait, told=told)
    if isinstance(error, AngelRefusedError):
        return RefusedError(_NAME, error.code)
    if isinstance(error, AngelNonsenseError):
        return NonsenseError(_NAME, error.code)
    return UnreachableError(_NAME, error.code, retry_after=wait, told=told)
