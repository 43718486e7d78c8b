"""How good the data of each symbol are, day by day: silences, repeats, what came late, what was refused and why."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

import structlog
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.market_data.counters import Counters, SymbolTally
from app.market_data.leading import Past
from app.market_data.models import QualityDocument
from app.market_data.ports import Tick, Timeframe
from app.market_data.rows import from_ms, to_ms

log = structlog.get_logger(__name__)

SAVE_EVERY = 15.0
SHORTEST_GAP_MS = 20_000
UNUSUAL = 20
"""A silence is a gap if it is so many times as long as what is usual for the symbol."""
MOST_GAPS = 100
"""Listed of a day; the rest are counted."""
_USUAL_MS, _LONGEST_USUAL_MS, _WEIGHT = 1_000.0, 120_000, 16
_OPERATIONS = 200


class _Rhythm:
    """When ticks of a symbol come."""

    __slots__ = ("last_ms", "usual_ms")

    def __init__(self) -> None:
        self.last_ms = 0
        self.usual_ms = _USUAL_MS


class _Day:
    """What is known of a symbol's day; a row of `market_quality`."""

    __slots__ = ("by_quality", "duplicates", "gap_count", "gaps", "late", "longest_ms", "rejected")

    def __init__(self, row: dict[str, Any] | None = None) -> None:
        row = row or {}
        self.gaps: list[dict[str, Any]] = list(row.get("gaps") or [])
        self.gap_count: int = row.get("gap_count", 0)
        self.longest_ms = round(row.get("longest_silence_seconds", 0.0) * 1000)
        self.duplicates: int = row.get("duplicates", 0)
        self.late: int = row.get("late", 0)
        self.by_quality = Counter[str](row.get("by_quality") or {})
        self.rejected = Counter[str](row.get("rejected") or {})

    def silent(self, start_ms: int, end_ms: int, *, gap: bool) -> None:
        self.longest_ms = max(self.longest_ms, end_ms - start_ms)
        if gap:
            self.gap_count += 1
            if len(self.gaps) < MOST_GAPS:
                self.gaps.append({"start": from_ms(start_ms), "end": from_ms(end_ms)})

    def add(self, tally: SymbolTally) -> None:
        self.duplicates += tally.duplicates
        self.late += tally.late
        self.by_quality.update({name: count for name, count in tally.by_quality().items() if count})
        self.rejected.update(tally.rejected)

    def document(self, symbol: str, day: str) -> dict[str, Any]:
        return {
            "_id": f"{symbol}|{day}",
            "schema_version": 1,
            "symbol": symbol,
            "day": day,
            "gaps": self.gaps,
            "gap_count": self.gap_count,
            "longest_silence_seconds": self.longest_ms / 1000,
            "duplicates": self.duplicates,
            "late": self.late,
            "by_quality": dict(self.by_quality),
            "rejected": dict(self.rejected),
        }


class DataQuality:
    """The part of the leader that keeps `market_quality`.

    Silences are measured by the ticks' own times, within sessions. What the pipeline counts by symbol is taken from
    `counters` and belongs to the day in India on which it is taken.
    """

    def __init__(
        self, *, db: AsyncDatabase[dict[str, Any]], clock: Clock, calendar: MarketCalendar, counters: Counters
    ) -> None:
        self._rows = db[QualityDocument.Settings.name]
        self._clock = clock
        self._calendar = calendar
        self._counters = counters
        self._rhythms: dict[str, _Rhythm] = {}
        self._days: dict[tuple[str, str], _Day] = {}
        self._changed: set[tuple[str, str]] = set()

    def saw(self, ticks: Sequence[Tick]) -> None:
        """Take ticks after the pipeline had them; those that it refused have no `received_ms`. Never waits."""
        for tick in ticks:
            at = tick.received_ms
            if not at or tick.after_hours:
                continue
            rhythm = self._rhythms.get(tick.instrument.symbol)
            if rhythm is None:
                rhythm = self._rhythms[tick.instrument.symbol] = _Rhythm()
            silence = at - rhythm.last_ms
            if silence > SHORTEST_GAP_MS:
                self._broke(tick.instrument.symbol, rhythm, at)
            elif silence > 0:
                rhythm.usual_ms += (silence - rhythm.usual_ms) / _WEIGHT
                rhythm.last_ms = at

    def _broke(self, symbol: str, rhythm: _Rhythm, at: int) -> None:
        """A silence ended, a long one perhaps: of the symbol's, or before its first tick of a session."""
        before, rhythm.last_ms = rhythm.last_ms, at
        day = self._calendar.bar_at(at, Timeframe.D1.milliseconds)
        if day is None:
            return
        start = max(before, day[0])
        usual = rhythm.usual_ms
        if start == before:
            rhythm.usual_ms += (min(at - before, _LONGEST_USUAL_MS) - usual) / _WEIGHT
        if at - start <= SHORTEST_GAP_MS:
            return
        self._day(symbol, _date_of(start)).silent(start, at, gap=at - start > usual * UNUSUAL)

    def _day(self, symbol: str, day: str) -> _Day:
        self._changed.add((symbol, day))
        known = self._days.get((symbol, day))
        if known is None:
            known = self._days[symbol, day] = _Day()
        return known

    # As a part of the leader

    async def begin(self, past: Past) -> None:  # noqa: ARG002 (the port's)
        """See `LeaderPart`. Goes on with today's rows."""
        today = self._today()
        rows = await self._rows.find({"day": today}).to_list()
        self._days = {(row["symbol"], today): _Day(row) for row in rows}
        self._rhythms, self._changed = {}, set()
        self._counters.take_symbols()

    async def run(self) -> None:
        """See `LeaderPart`."""
        while True:
            await asyncio.sleep(SAVE_EVERY)
            await self.save()

    async def finish(self, *, owned: bool) -> None:
        """See `LeaderPart`."""
        if owned:
            await self.save()

    def _today(self) -> str:
        return _date_of(to_ms(self._clock.now()))

    def _collect(self) -> None:
        """What was counted since, and silences that last."""
        today = self._today()
        for symbol, tally in self._counters.take_symbols().items():
            self._day(symbol, today).add(tally)
        now = to_ms(self._clock.now())
        day = self._calendar.bar_at(now, Timeframe.D1.milliseconds)
        if day is not None and self._calendar.is_open_at(now):
            for symbol, rhythm in self._rhythms.items():
                silence = now - max(rhythm.last_ms, day[0])
                if silence > max(SHORTEST_GAP_MS, self._days.get((symbol, today), _NONE).longest_ms):
                    self._day(symbol, today).longest_ms = silence

    async def save(self) -> bool:
        """Write what has changed; whether all of it is written. Never raises `PyMongoError`."""
        self._collect()
        today, keys = self._today(), sorted(self._changed)
        for start in range(0, len(keys), _OPERATIONS):
            some = keys[start : start + _OPERATIONS]
            documents = [self._days[key].document(*key) for key in some]
            try:
                await self._rows.bulk_write(
                    [ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in documents], ordered=False
                )
            except PyMongoError as error:
                log.warning("data quality cannot be saved now", error=type(error).__name__, rows=len(keys) - start)
                self._changed.update(keys[start:])
                return False
            self._changed.difference_update(some)
        # Yesterday's rows are written; nothing is added to them any more.
        self._days = {key: day for key, day in self._days.items() if key[1] == today or key in self._changed}
        return True


_NONE = _Day()


def _date_of(ms: int) -> str:
    day: date = from_ms(ms).astimezone(IST).date()
    return day.isoformat()
