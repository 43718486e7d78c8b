"""Deletes old ticks: a little at a time, oldest first, so that nobody waits for it."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo.asynchronous.database import AsyncDatabase

from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.market_data.models import LatestDocument, TickDocument

log = structlog.get_logger(__name__)

STEP_ROWS = 500
"""How many rows a step is meant to delete; the embedded database deletes 2,500 a second, and others wait meanwhile."""
SHORTEST, LONGEST = timedelta(milliseconds=200), timedelta(minutes=1)
PAUSE = 0.05
BUDGET = 240.0
"""Seconds of one run; the next one goes on."""
MARKS = "market_marks"
_MARK = "ticks deleted before"
_RATE = 2
"""Ticks a second that a symbol may have, for a first guess."""


class TickRetention:
    """Lets ticks expire `TICK_RETENTION_DAYS` days after the day in India on which they were received.

    How far it came is kept, so nothing is searched for twice. `after_hours`: ticks outside of sessions are stored, too.
    """

    def __init__(
        self,
        *,
        db: AsyncDatabase[dict[str, Any]],
        clock: Clock,
        calendar: MarketCalendar,
        days: int | None,
        after_hours: bool,
        pause: float = PAUSE,
    ) -> None:
        self._ticks = db[TickDocument.Settings.name]
        self._latest = db[LatestDocument.Settings.name]
        self._marks = db[MARKS]
        self._clock = clock
        self._calendar = calendar
        self._days = days
        self._after_hours = after_hours
        self._pause = pause

    async def expire(self) -> None:
        """Delete what is too old; the periodic job calls this. Raises `PyMongoError`."""
        if self._days is None:
            return
        today = self._clock.now().astimezone(IST).replace(hour=0, minute=0, second=0, microsecond=0)
        limit = today - timedelta(days=self._days)
        start, symbols = await self._oldest()
        if start is None or start >= limit:
            return
        until, deleted = self._clock.monotonic() + BUDGET, 0
        for low, high, crowded in self._stretches(start, limit):
            # Shorter than it should have to be: how crowded it is shows only afterwards.
            width = _clamp(timedelta(seconds=STEP_ROWS / max(1, symbols * _RATE))) / 4 if crowded else high - low
            while low < high and self._clock.monotonic() < until:
                end = min(low + width, high)
                count = (await self._ticks.delete_many({"received_at": {"$gte": low, "$lt": end}})).deleted_count
                deleted, low = deleted + count, end
                if crowded:
                    width = _next_width(width, count)
                await asyncio.sleep(self._pause)
            await self._mark(low)
            if low < high:
                break
        if deleted:
            log.info("old ticks are deleted", ticks=deleted)

    async def _oldest(self) -> tuple[datetime | None, int]:
        """From when on there may be ticks, and of how many symbols."""
        rows = await self._latest.find({}, {"first_at": 1}).to_list()
        mark = await self._marks.find_one({"_id": _MARK})
        first = min((row["first_at"] for row in rows), default=None)
        if mark is None or first is None:
            return first, len(rows)
        return max(first, mark["at"]), len(rows)

    async def _mark(self, moment: datetime) -> None:
        await self._marks.replace_one({"_id": _MARK}, {"_id": _MARK, "at": moment}, upsert=True)

    def _stretches(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, bool]]:
        """The time from `start` to `end` in pieces of a day at most, and whether there may be many ticks in them."""
        while start < end:
            midnight = start.astimezone(IST).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
            stop = min(midnight, end)
            if not self._after_hours:
                if self._calendar.is_open(start):
                    stop = min(stop, self._close(start))
                else:
                    stop = min(stop, self._calendar.next_open(start).at)
            yield start, stop, self._after_hours or self._calendar.is_open(start)
            start = stop

    def _close(self, moment: datetime) -> datetime:
        """The end of the window of trading that `moment` lies in."""
        session = self._calendar.session_of(moment.astimezone(IST).date())
        windows = session.windows if session else ()
        return next(window.closes for window in windows if moment in window)


def _next_width(width: timedelta, deleted: int) -> timedelta:
    """Twice as long at most, and at once as short as need be."""
    return _clamp(min(width * 2, width * (STEP_ROWS / max(deleted, 1))))


def _clamp(width: timedelta) -> timedelta:
    return min(max(width, SHORTEST), LONGEST)
