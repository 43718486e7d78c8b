"""Stored candles: pages of them, newest first, and whole stretches for charts.

There is at most one candle in each slot of a session, so the calendar says how far back a window has to reach for so
many of them; a query never reads more rows than that.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from pymongo import DESCENDING

from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInputError
from app.core.market_calendar import IST, MarketCalendar, Session
from app.core.pagination import Cursor, Page, PageRequest
from app.market_data.candle_store import BEFORE, STARTS
from app.market_data.models import CandleDocument
from app.market_data.ports import Timeframe
from app.market_data.reading import MarketReading
from app.market_data.rows import from_ms, to_ms
from app.market_data.schemas import Span
from app.market_data.windows import NOWHERE, PATIENCE_SECONDS
from app.market_data.wire import Wire, candle_of_row

Row = dict[str, Any]

MOST_BARS: Final = 5_000
"""Of one chart."""
_FEWEST: Final = 50


class CandleReading:
    """Reads candles of symbols that `reading` knows."""

    def __init__(self, *, clock: Clock, calendar: MarketCalendar, reading: MarketReading) -> None:
        self._clock, self._calendar, self._reading = clock, calendar, reading

    async def page(self, symbol: str, timeframe: Timeframe, span: Span, page: PageRequest) -> Page[Wire]:
        """Candles that begin within `span`, newest first. Raises `NotFoundError` for an unknown symbol."""
        known = await self._reading.known(symbol)
        now = to_ms(self._clock.now())
        first, newest = (known.first_ms, max(known.newest_ms, now)) if known else (now, now)
        symbol = known.symbol if known else symbol
        low = await self._begin(symbol, first)
        if span.start:
            low = max(low, to_ms(span.start))
        top = min(newest, to_ms(span.end)) if span.end else newest
        if page.after:
            top = min(top, page.after.seq - 1)
        deadline = self._clock.monotonic() + PATIENCE_SECONDS
        found: list[Row] = []
        bars = max(page.limit + 1, _FEWEST)
        while top >= low and len(found) <= page.limit and self._clock.monotonic() <= deadline:
            bottom = max(low, self.back(top, bars, timeframe))
            rows = await self._between(symbol, timeframe, bottom, top, page.limit + 1 - len(found))
            found += rows
            bars, top = min(bars * (1 if rows else 4), MOST_BARS), bottom - 1
        rows = found[: page.limit]
        wires = [candle_of_row(row) for row in rows]
        if len(found) > page.limit:
            return Page(wires, Cursor(to_ms(rows[-1]["start"]), NOWHERE))
        return Page(wires, Cursor(top + 1, NOWHERE) if top >= low else None)

    async def stretch(self, symbol: str, timeframe: Timeframe, span: Span, usual: int) -> tuple[str, list[Row]]:
        """The symbol as it is stored, and its candles within `span`, oldest first; without a start about the `usual`
        newest.

        Raises `NotFoundError` for an unknown symbol, and `InvalidInputError` where there may be more than `MOST_BARS`.
        """
        known = await self._reading.known(symbol)
        now = to_ms(self._clock.now())
        newest = max(now, known.newest_ms) if known else now
        end = to_ms(span.end) if span.end else newest
        if span.start:
            start = to_ms(span.start)
            self._check(from_ms(start), from_ms(min(end, newest)), timeframe)
        else:
            # From the newest tick: a feed that has paused for a week still shows a chart.
            start = self.back(min(end, known.newest_ms) if known else end, usual, timeframe)
        symbol = known.symbol if known else symbol
        return symbol, (await self._between(symbol, timeframe, start, end, MOST_BARS))[::-1]

    async def _begin(self, symbol: str, first: int) -> int:
        """From when on there may be candles; milliseconds. `first`: the symbol's first tick."""
        starts = CandleDocument.get_pymongo_collection().database[STARTS]
        row = await starts.find_one({"_id": symbol})
        return to_ms(row["start"] if row else from_ms(first) - BEFORE)

    async def _between(self, symbol: str, timeframe: Timeframe, low: int, high: int, most: int) -> list[Row]:
        query = _query(symbol, timeframe, low, high)
        return await CandleDocument.get_pymongo_collection().find(query).sort("start", DESCENDING).limit(most).to_list()

    # How many there can be

    def back(self, top: int, bars: int, timeframe: Timeframe) -> int:
        """From when on `bars` candles, no fewer, may have begun up to `top`; milliseconds since the epoch."""
        moment = from_ms(top)
        day = moment.astimezone(IST).date()
        session = self._calendar.session_of(day)
        if session is None or session.opens > moment:
            session = self._calendar.previous_session(day)
        while True:
            slots = self._slots(session, timeframe)
            begun = [start for start in slots if start <= top] if session.day == day else slots
            if len(begun) >= bars:
                return begun[-bars]
            bars -= len(begun)
            session = self._calendar.previous_session(session.day)

    def _slots(self, session: Session, timeframe: Timeframe) -> range | list[int]:
        """When the candles of a session begin."""
        if timeframe is Timeframe.D1:
            return [to_ms(session.opens)]
        length = timeframe.milliseconds
        starts = [range(to_ms(w.opens), to_ms(w.closes), length) for w in session.windows]
        return starts[0] if len(starts) == 1 else [start for window in starts for start in window]

    def _check(self, start: datetime, end: datetime, timeframe: Timeframe) -> None:
        if self._fits(start, end, timeframe):
            return
        coarser = list(Timeframe)[list(Timeframe).index(timeframe) + 1 :]
        better = next((one for one in coarser if self._fits(start, end, one)), None)
        advice = f"ask for timeframe={better}, or for less" if better else "ask for less"
        message = f"There are more than {MOST_BARS:,} candles of {timeframe} in this stretch of time: {advice}"
        problem = FieldError(("query", "timeframe"), message, "too_many_candles")
        raise InvalidInputError(f"query.timeframe: {message}.", [problem])

    def _fits(self, start: datetime, end: datetime, timeframe: Timeframe) -> bool:
        # A candle a day and at least five sessions in eight days: what is far too long need not be counted.
        if (end - start).days > MOST_BARS * 8 // 5:
            return False
        count = 0
        for session in self._sessions(start, end):
            count += len(self._slots(session, timeframe))
            if count > MOST_BARS:
                return False
        return True

    def _sessions(self, start: datetime, end: datetime) -> Iterator[Session]:
        return self._calendar.sessions(start.astimezone(IST).date(), end.astimezone(IST).date())


def _query(symbol: str, timeframe: Timeframe, low: int, high: int) -> Row:
    return {"symbol": symbol, "timeframe": str(timeframe), "start": {"$gte": from_ms(low), "$lte": from_ms(high)}}
