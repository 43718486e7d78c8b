"""Yahoo as a source: what `yfinance` brings becomes bars and quotes."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import structlog

from app.core.candles import Timeframe
from app.core.clock import Clock
from app.core.market_calendar import MarketCalendar
from app.quotes.adapters.yahoo.messages import AskHistory, History
from app.quotes.adapters.yahoo.parse import quote_of
from app.quotes.adapters.yahoo.process import YahooProcess
from app.quotes.bars import SETTLED, DailyHours, Hours, IndianHours, Made, made_of, misaligned
from app.quotes.errors import NonsenseError, NothingFoundError
from app.quotes.ports import Fetched, Quote, SourceName, Symbol

log = structlog.get_logger(__name__)

_NAME: Final = SourceName.YAHOO
_INTERVALS: Final = {
    Timeframe.M1: "1m",
    Timeframe.M5: "5m",
    Timeframe.M15: "15m",
    Timeframe.H1: "1h",
    Timeframe.D1: "1d",
}


class Yahoo:
    """Fills the port `HistorySource`."""

    name = _NAME

    def __init__(self, process: YahooProcess, *, clock: Clock, calendar: MarketCalendar) -> None:
        self._process, self._clock, self._calendar = process, clock, calendar

    def covers(self, symbol: Symbol) -> bool:  # noqa: ARG002 (the port's)
        """See the port: it has something of nearly everything."""
        return True

    async def candles(self, symbol: Symbol, timeframe: Timeframe, start: datetime) -> Fetched:
        """See the port. Hours that Yahoo begins at the clock's hour are made of quarters instead, for 58 days."""
        now = self._clock.now()
        zone = "Asia/Kolkata" if symbol.indian else None
        question = AskHistory(symbol.name, _INTERVALS[timeframe], start, now + timedelta(days=1), zone)
        history = await self._process.history(question)
        hours = self._hours(symbol, history)
        if timeframe is Timeframe.H1 and symbol.indian and misaligned(history.rows, timeframe.length, hours):
            start = max(start, now - timedelta(days=58))
            history = await self._process.history(msgspec.structs.replace(question, interval="15m", start=start))
        # Thousands of rows: nobody else is to wait for them.
        made = await asyncio.to_thread(self._made, history, timeframe, hours)
        if not made.bars:
            raise NothingFoundError(_NAME, f"no {timeframe} candles")
        if made.dropped:
            log.warning("candles left out", symbol=symbol.name, timeframe=timeframe.value, count=made.dropped)
        now = self._clock.now()
        return Fetched(
            symbol.name,
            timeframe,
            made.bars,
            _NAME,
            now,
            adjusted=True,
            currency=history.currency,
            dropped=made.dropped,
        )

    def _hours(self, symbol: Symbol, history: History) -> Hours:
        if symbol.indian:
            return IndianHours(self._calendar)
        try:
            zone = ZoneInfo(history.zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise NonsenseError(_NAME, "time zone") from None
        return DailyHours(zone, history.opens or time(), history.closes or time())

    def _made(self, history: History, timeframe: Timeframe, hours: Hours) -> Made:
        now = self._clock.now()
        known = min(now, history.traded_at) if history.traded_at else now - SETTLED
        return made_of(history.rows, timeframe, hours, max(known, now - SETTLED))

    async def quotes(self, symbols: Sequence[Symbol]) -> dict[str, Quote]:
        """See the port: one request for all."""
        rows = await self._process.quotes(tuple(symbol.name for symbol in symbols))
        now = self._clock.now()
        found = (quote_of(row, now) for row in rows)
        return {quote.symbol: quote for quote in found if quote is not None}

    async def close(self) -> None:
        """See the port."""
        await self._process.close()
