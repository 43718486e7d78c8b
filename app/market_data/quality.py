"""How good the data of each symbol are, day by day: silences, repeats, what came late, what was refused and why."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

import structlog
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.market_data.counters import Counters, SymbolTally
from app.market_data.leading import Past
from app.market_data.models import LatestDocument, QualityDocument
from app.market_data.ports import Instrument, Tick
from app.market_data.rows import from_ms, to_ms

log = structlog.get_logger(__name__)

SAVE_EVERY = 15.0
SHORTEST_GAP_MS = 20_000
UNUSUAL = 20
"""A silence is a gap if it is so many times as long as what is usual for the symbol."""
MOST_GAPS = 100
"""Listed of a day; the rest are counted."""
SESSIONS_BACK = 5
"""How many sessions before today's a silence is looked for in after a long absence."""
SETTLED_MS = 60_000
"""How long after a window of trading has closed its last ticks may still arrive."""
_USUAL_MS, _LONGEST_USUAL_MS, _WEIGHT = 1_000.0, 120_000, 16
_OPERATIONS = 200


class _Window(NamedTuple):
    """A stretch of continuous trading, and its day in India."""

    day: str
    opens: int
    closes: int


class _Rhythm:
    """When ticks of a symbol come."""

    __slots__ = ("last_ms", "usual_ms")

    def __init__(self, last_ms: int) -> None:
        self.last_ms = last_ms
        """Of the newest tick; later if the silence since is booked up to then."""
        self.usual_ms = _USUAL_MS


class _Day:
    """What is known of a symbol's day; a row of `market_quality`."""

    __slots__ = (
        "booked_until",
        "by_quality",
        "duplicates",
        "gap_count",
        "gaps",
        "late",
        "longest_ms",
        "rejected",
        "usual_ms",
    )

    def __init__(self, row: dict[str, Any] | None = None) -> None:
        row = row or {}
        self.gaps: list[dict[str, Any]] = list(row.get("gaps") or [])
        self.gap_count: int = row.get("gap_count", 0)
        self.longest_ms = round(row.get("longest_silence_seconds", 0.0) * 1000)
        self.booked_until: datetime | None = row.get("booked_until")
        self.usual_ms: float | None = row.get("usual_ms")
        self.duplicates: int = row.get("duplicates", 0)
        self.late: int = row.get("late", 0)
        self.by_quality = Counter[str](row.get("by_quality") or {})
        self.rejected = Counter[str](row.get("rejected") or {})

    def silent(self, start_ms: int, end_ms: int, *, gap: bool) -> None:
        self.longest_ms = max(self.longest_ms, end_ms - start_ms)
        self.booked_until = from_ms(end_ms)
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
            **({} if self.booked_until is None else {"booked_until": self.booked_until}),
            **({} if self.usual_ms is None else {"usual_ms": self.usual_ms}),
        }


class DataQuality:
    """The part of the leader that keeps `market_quality`.

    Silences are measured by the ticks' own times, within the windows of sessions, and belong to the window's day. One
    is booked when a tick ends it, or when its window is over. What the pipeline counts by symbol is taken from
    `counters` and belongs to the day in India on which it is taken.
    """

    def __init__(
        self,
        *,
        db: AsyncDatabase[dict[str, Any]],
        clock: Clock,
        calendar: MarketCalendar,
        counters: Counters,
        wanted: Callable[[], Sequence[Instrument]],
    ) -> None:
        """`wanted`: what ticks are expected of; of others a silence that lasts to the close is no gap."""
        self._rows = db[QualityDocument.Settings.name]
        self._latest = db[LatestDocument.Settings.name]
        self._clock = clock
        self._calendar = calendar
        self._counters = counters
        self._wanted = wanted
        self._windows_of: date | None = None
        self._known_windows: list[_Window] = []
        self._settled_ms = 0
        """The newest close up to which all silences are booked."""
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
                # What is not known of it is missing today; nothing was expected of it before.
                rhythm = self._rhythms[tick.instrument.symbol] = _Rhythm(to_ms(self._midnight()))
            silence = at - rhythm.last_ms
            if silence > SHORTEST_GAP_MS:
                self._book(tick.instrument.symbol, rhythm, at)
            elif silence > 0:
                rhythm.usual_ms += (silence - rhythm.usual_ms) / _WEIGHT
                rhythm.last_ms = at

    def _book(self, symbol: str, rhythm: _Rhythm, until: int) -> None:
        """Book the silence that ended at `until`, piece by piece on the days of the windows that it lay in."""
        before, rhythm.last_ms, usual = rhythm.last_ms, until, rhythm.usual_ms
        for window in self._windows(until):
            start, end = max(before, window.opens), min(until, window.closes)
            if end - start > SHORTEST_GAP_MS:
                self._day(symbol, window.day).silent(start, end, gap=end - start > usual * UNUSUAL)
            if window.opens <= before and until < window.closes:  # between two ticks of one window
                rhythm.usual_ms += (min(until - before, _LONGEST_USUAL_MS) - usual) / _WEIGHT

    def _windows(self, ms: int) -> list[_Window]:
        """The windows of the day in India of `ms` and of the sessions before that count, oldest first."""
        last = first = from_ms(ms).astimezone(IST).date()
        if last != self._windows_of:
            for _ in range(SESSIONS_BACK):
                first = self._calendar.previous_session(first).day
            self._known_windows = [
                _Window(session.day.isoformat(), to_ms(window.opens), to_ms(window.closes))
                for session in self._calendar.sessions(first, last)
                for window in session.windows
            ]
            self._windows_of = last
        return self._known_windows

    def _day(self, symbol: str, day: str) -> _Day:
        self._changed.add((symbol, day))
        known = self._days.get((symbol, day))
        if known is None:
            known = self._days[symbol, day] = _Day()
        return known

    # As a part of the leader

    async def begin(self, past: Past) -> None:  # noqa: ARG002 (the port's)
        """See `LeaderPart`. Goes on with today's rows, from the newest ticks that are stored.

        Of the days before those rows are read on which a silence lasted to the close that may not be booked yet.
        """
        now = to_ms(self._clock.now())
        newest = await self._latest.find({}, {"received_at": 1}).to_list()
        self._rhythms = {row["_id"]: _Rhythm(to_ms(row["received_at"])) for row in newest}
        self._days, self._changed, self._settled_ms = {}, set(), 0
        for day in self._days_from(now):
            for row in await self._rows.find({"day": day}).to_list():
                known = self._days[row["symbol"], day] = _Day(row)
                if (rhythm := self._rhythms.get(row["symbol"])) is not None:
                    if known.booked_until is not None:
                        rhythm.last_ms = max(rhythm.last_ms, to_ms(known.booked_until))
                    rhythm.usual_ms = known.usual_ms or rhythm.usual_ms
        self._settle(now)
        self._counters.take_symbols()

    def _days_from(self, now: int) -> list[str]:
        """Today, and before it the days with a window at whose end something that is wanted was silent; in order."""
        wanted = {instrument.symbol for instrument in self._wanted()}
        oldest = min((rhythm.last_ms for name, rhythm in self._rhythms.items() if name in wanted), default=now)
        silent = (window.day for window in self._windows(now) if window.closes - oldest > SHORTEST_GAP_MS)
        return sorted({*silent, _date_of(now)})

    async def run(self) -> None:
        """See `LeaderPart`."""
        while True:
            await asyncio.sleep(SAVE_EVERY)
            await self.save()

    async def finish(self, *, owned: bool) -> None:
        """See `LeaderPart`."""
        if owned:
            await self.save()

    def _midnight(self) -> datetime:
        return self._clock.now().astimezone(IST).replace(hour=0, minute=0, second=0, microsecond=0)

    def _collect(self, now: int) -> None:
        """What was counted since, silences that last, and those at whose windows' end nothing more can come."""
        today = _date_of(now)
        for symbol, tally in self._counters.take_symbols().items():
            self._day(symbol, today).add(tally)
        self._settle(now)
        window = next((window for window in self._windows(now) if window.opens <= now < window.closes), None)
        if window is None:
            return
        for symbol in {instrument.symbol for instrument in self._wanted()}.intersection(self._rhythms):
            silence = now - max(self._rhythms[symbol].last_ms, window.opens)
            if silence > max(SHORTEST_GAP_MS, self._days.get((symbol, window.day), _NONE).longest_ms):
                self._day(symbol, window.day).longest_ms = silence

    def _settle(self, now: int) -> None:
        """Book the silences that last, up to the end of the newest window that is over."""
        over = [window.closes for window in self._windows(now) if window.closes <= now - SETTLED_MS]
        if not over or over[-1] == self._settled_ms:
            return
        self._settled_ms = over[-1]
        wanted = {instrument.symbol for instrument in self._wanted()}
        for symbol, rhythm in self._rhythms.items():
            if rhythm.last_ms >= self._settled_ms:
                continue
            if symbol in wanted:
                self._book(symbol, rhythm, self._settled_ms)
            else:
                rhythm.last_ms = self._settled_ms

    def _document(self, key: tuple[str, str]) -> dict[str, Any]:
        day, rhythm = self._days[key], self._rhythms.get(key[0])
        day.usual_ms = rhythm.usual_ms if rhythm else day.usual_ms
        return day.document(*key)

    async def save(self) -> bool:
        """Write what has changed; whether all of it is written. Never raises `PyMongoError`."""
        now = to_ms(self._clock.now())
        self._collect(now)
        oldest, keys = _date_of(now - SETTLED_MS), sorted(self._changed)
        for start in range(0, len(keys), _OPERATIONS):
            some = keys[start : start + _OPERATIONS]
            documents = [self._document(key) for key in some]
            try:
                await self._rows.bulk_write(
                    [ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in documents], ordered=False
                )
            except PyMongoError as error:
                log.warning("data quality cannot be saved now", error=type(error).__name__, rows=len(keys) - start)
                self._changed.update(keys[start:])
                return False
            self._changed.difference_update(some)
        # The rows of days before are written; nothing is added to them any more.
        self._days = {key: day for key, day in self._days.items() if key[1] >= oldest or key in self._changed}
        return True


_NONE = _Day()


def _date_of(ms: int) -> str:
    day: date = from_ms(ms).astimezone(IST).date()
    return day.isoformat()
