"""Deletes old ticks, and what is known of the quality of their days: a little at a time, oldest first, so that nobody
waits for it.

What is deleted is taken off what `market_latest` counts. A row there is changed only if nobody else has changed it
since it was read; the process with the feed, which replaces these rows, does the same (see `latest`). The row of a
symbol of which no tick is left stays, with nothing counted: its candles are found by it. Lists leave it out.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo.asynchronous.database import AsyncDatabase

from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.market_data.models import LatestDocument, QualityDocument, TickDocument

log = structlog.get_logger(__name__)

STEP_ROWS = 500
"""How many rows a step is meant to delete; the embedded database deletes 2,500 a second, and others wait meanwhile."""
SHORTEST, LONGEST = timedelta(milliseconds=200), timedelta(minutes=1)
PAUSE = 0.05
BUDGET = 240.0
"""Seconds of one run; the next one goes on."""
MARKS = "market_marks"
_MARK = "ticks deleted before"
_FIRST_DAY = "1990-01-01"
"""There are no ticks of days before."""
_RATE = 2
"""Ticks a second that a symbol may have, for a first guess."""


_ROUNDS = 20
"""How often a row is read anew that the feed was quicker to replace."""


class _Gone:
    """What was deleted of one symbol."""

    def __init__(self) -> None:
        self.stored = 0
        self.by_quality: Counter[str] = Counter()
        self.by_source: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any]) -> None:
        self.stored += 1
        self.by_quality[str(row.get("data_quality"))] += 1
        self.by_source[str(row.get("source"))] += 1


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
        self._quality = db[QualityDocument.Settings.name]
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
        until = self._clock.monotonic() + BUDGET
        await self._expire_ticks(limit, until)
        await self._expire_quality(limit.date().isoformat(), until)

    async def _expire_ticks(self, limit: datetime, until: float) -> None:
        start, symbols = await self._oldest()
        if start is None or start >= limit:
            return
        deleted = 0
        for low, high, crowded in self._stretches(start, limit):
            # Shorter than it should have to be: how crowded it is shows only afterwards.
            width = _clamp(timedelta(seconds=STEP_ROWS / max(1, symbols * _RATE))) / 4 if crowded else high - low
            gone: dict[str, _Gone] = {}
            try:
                while low < high and self._clock.monotonic() < until:
                    end = min(low + width, high)
                    count = await self._delete(low, end, gone)
                    deleted, low = deleted + count, end
                    if crowded:
                        width = _next_width(width, count)
                    await asyncio.sleep(self._pause)
            finally:
                await self._take_off(gone, low)
            await self._mark(low)
            if low < high:
                break
        else:
            await self._raise_first(limit)
        if deleted:
            log.info("old ticks are deleted", ticks=deleted)

    async def _expire_quality(self, day: str, until: float) -> None:
        """Delete what is known of the quality of the days before `day`."""
        old = {"day": {"$gte": _FIRST_DAY, "$lt": day}}
        while self._clock.monotonic() < until:
            rows = await self._quality.find(old, {"_id": 1}).limit(STEP_ROWS).to_list()
            if not rows:
                break
            await self._quality.delete_many({"_id": {"$in": [row["_id"] for row in rows]}})
            await asyncio.sleep(self._pause)

    async def _delete(self, low: datetime, end: datetime, gone: dict[str, _Gone]) -> int:
        match = {"received_at": {"$gte": low, "$lt": end}}
        rows = await self._ticks.find(match, {"_id": 0, "symbol": 1, "data_quality": 1, "source": 1}).to_list()
        if not rows:
            return 0
        count = (await self._ticks.delete_many(match)).deleted_count
        for row in rows:
            if isinstance(symbol := row.get("symbol"), str):
                gone.setdefault(symbol, _Gone()).add(row)
        return count

    async def _take_off(self, gone: Mapping[str, _Gone], first: datetime) -> None:
        """Take what was deleted off the counts; nothing is left from before `first`."""
        for symbol, less in gone.items():
            for _ in range(_ROUNDS):
                row = await self._latest.find_one({"_id": symbol}, {"tick": 0})
                if row is None:
                    break
                left = {
                    "stored": max(0, row["stored"] - less.stored),
                    "by_quality": _less(row["by_quality"], less.by_quality),
                    "by_source": _less(row["by_source"], less.by_source),
                    "first_at": max(row["first_at"], min(first, row["received_at"])),
                }
                if await self._change(row, left):
                    break
            else:
                log.warning("deleted ticks are still counted", symbol=symbol, ticks=less.stored)

    async def _raise_first(self, first: datetime) -> None:
        """Of symbols, too, of which nothing was left to delete; nothing is stored of those that were silent since."""
        for row in await self._latest.find({}, {"tick": 0}).to_list():
            fields: dict[str, Any] = {}
            if row["received_at"] < first and row["stored"]:
                # A run that was killed had deleted them and not counted it.
                fields = {"stored": 0, "by_quality": {}, "by_source": {}}
            if row["first_at"] < (raised := min(first, row["received_at"])):
                fields["first_at"] = raised
            if fields:
                await self._change(row, fields)

    async def _change(self, row: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
        """Change the row that was read, if nobody has since; says whether."""
        same = {name: row[name] for name in ("_id", "stored", "received_at", "first_at")}
        return (await self._latest.update_one(same, {"$set": dict(fields)})).matched_count == 1

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


def _less(counts: Mapping[str, int], deleted: Mapping[str, int]) -> dict[str, int]:
    return {name: left for name, count in counts.items() if (left := count - deleted.get(name, 0)) > 0}


def _next_width(width: timedelta, deleted: int) -> timedelta:
    """Twice as long at most, and at once as short as need be."""
    return _clamp(min(width * 2, width * (STEP_ROWS / max(deleted, 1))))


def _clamp(width: timedelta) -> timedelta:
    return min(max(width, SHORTEST), LONGEST)
