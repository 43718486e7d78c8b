"""Candles of every length from ticks, as they come: minutes in place, everything longer rolled up from the minutes.

A tick touches one object. What is longer than a minute follows when somebody asks (`live`, `due`), from the minutes
that changed since, so a tick that comes late corrects all candles it belongs to. Only what is recent is in memory; a
late tick for an older minute makes a fragment, which is joined with the stored candle before anything is written.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from app.core.market_calendar import MarketCalendar
from app.market_data.candle_bars import BACKFILL, MIXED, CandleBar, CandleRow, Series, Span, candle_id
from app.market_data.ports import Bar, Gap, Instrument, Quality, Tick, Timeframe
from app.market_data.rows import to_ms

COARSE = tuple(timeframe for timeframe in Timeframe if timeframe is not Timeframe.M1)
"""What is rolled up from minutes."""
CLOSE_AFTER_MS = 1_000
"""How long after its end a candle is closed: ticks on their way are waited for."""
FORMING_EVERY_MS = 5_000
"""How often a candle that is not closed is written at most."""
FORMING_MOST = 150
"""How many of these are written at once, oldest first: closed ones must not wait behind thousands of them."""
KEEP_MS = 600_000
"""How long closed candles stay in memory."""
SUSPECTS_MOST = 20
"""After so many suspect ticks in a row their prices are taken, too: they are all that there is."""
_DAY_MS = Timeframe.D1.milliseconds
_CURRENCY = 13
"""The exchange type whose prices have seven decimals."""


class CandleBuilder:
    """Makes the candles of all symbols; for one event loop, without I/O.

    Times are those by which ticks are listed (`received_ms`), else the exchange's. Ticks outside of sessions are left
    out. Suspect ones count, as they do in the store, but neither their price nor their volume is taken; one wrong price
    would be the day's low. Of an instrument that is doubtful itself all are suspect, and taken.
    """

    def __init__(self, calendar: MarketCalendar) -> None:
        self._calendar = calendar
        self._numbers = count()
        self.clear()

    def clear(self) -> None:
        """Forget everything: another process made candles meanwhile."""
        self._series: dict[str, Series] = {}
        self._changed: list[CandleBar] = []
        # Dictionaries for their order: who waits longest comes first.
        self._unsaved: dict[CandleBar, None] = {}
        self._unseen: dict[CandleBar, None] = {}
        self._unknown: dict[CandleBar, None] = {}
        self._timetable: list[tuple[int, int, CandleBar]] = []

    # Ticks

    def accept(self, tick: Tick) -> None:
        """Take a tick into its minute, at whatever time it comes."""
        series = self._series.get(tick.instrument.symbol)
        if series is None:
            series = self._begin(tick.instrument.symbol, tick.divisor)
        at = tick.received_ms or tick.exchange_ms
        bar = series.last
        if not bar.span.start <= at < bar.span.end:
            found = self._minute(series, at) or self._minute(series, at := tick.exchange_ms)
            if found is None:
                return
            series.last = bar = found
        if tick.quality is not Quality.SUSPECT or tick.instrument.doubtful:
            series.suspects = 0
        else:
            series.suspects += 1
            if series.suspects <= SUSPECTS_MOST:
                bar.ticks += 1
                if bar.priced:
                    self._mark(bar)
                return
        self._take(series, bar, tick, at)

    def _take(self, series: Series, bar: CandleBar, tick: Tick, at: int) -> None:
        price = tick.price if tick.divisor == series.divisor else round(tick.price * series.divisor / tick.divisor)
        if bar.last_ms < 0:
            bar.high = bar.low = price
        elif bar.source == BACKFILL:
            bar.source = MIXED
        if price > bar.high:
            bar.high = price
        if price < bar.low:
            bar.low = price
        if at >= bar.last_ms:
            bar.last_ms, bar.close = at, price
        if at < bar.first_ms:
            bar.first_ms, bar.open = at, price
        bar.ticks += 1
        if tick.has_day and tick.quality is not Quality.SUSPECT:
            bar.count(at, tick.volume, tick.last_quantity)
        if not bar.changed:
            self._mark(bar)

    def _mark(self, bar: CandleBar) -> None:
        """It changed: what is longer has to follow."""
        if not bar.changed:
            bar.changed = True
            self._changed.append(bar)

    def _begin(self, symbol: str, divisor: int) -> Series:
        series = self._series[symbol] = Series(symbol, divisor)
        return series

    def _minute(self, series: Series, at: int) -> CandleBar | None:
        """The minute of `at`, made if need be; None outside of sessions."""
        bounds = self._calendar.bar_at(at, Timeframe.M1.milliseconds)
        if bounds is None:
            return None
        bar = series.bars[Timeframe.M1].get(bounds[0])
        if bar is None:
            bar = self._add(series, self._new(series, Timeframe.M1, *bounds))
            before = self._neighbour(series, bar, later=False)
            bar.base = before.count_end if before else 0 if bar.span.start == bar.day else -1
        return bar

    def _new(self, series: Series, timeframe: Timeframe, start: int, end: int) -> CandleBar:
        known = start > series.top.get(timeframe, start)
        return CandleBar(Span(series.symbol, timeframe, start, end, series.divisor), self._day_of(start), known=known)

    def _day_of(self, ms: int) -> int:
        day = self._calendar.bar_at(ms, _DAY_MS)
        return day[0] if day else ms

    def _add(self, series: Series, bar: CandleBar) -> CandleBar:
        timeframe, start = bar.span.timeframe, bar.span.start
        series.bars[timeframe][start] = bar
        series.top[timeframe] = max(start, series.top.get(timeframe, start))
        if timeframe is Timeframe.M1 and (series.newest is None or start > series.newest.span.start):
            series.floor = series.floor or start
            series.newest = bar
        if not bar.known:
            self._unknown[bar] = None
        self._plan(bar.span.end + (KEEP_MS if bar.closed else CLOSE_AFTER_MS), bar)
        return bar

    def _neighbour(self, series: Series, bar: CandleBar, *, later: bool) -> CandleBar | None:
        """The next minute of the same session that there is, before or after; None also if that is not in memory."""
        start = bar.span.start
        others = [
            other
            for other in series.bars[Timeframe.M1].values()
            if other.day == bar.day and other is not bar and (other.span.start > start) == later
        ]
        if not others:
            return None
        other = min(others, key=lambda other: abs(other.span.start - start))
        first, second = (bar, other) if later else (other, bar)
        return other if first.span.start >= series.floor or first.span.end == second.span.start else None

    # Longer candles

    def _roll(self) -> None:
        """Bring what changed in minutes into everything longer."""
        touched: dict[CandleBar, None] = {}
        while self._changed:
            changed, self._changed = self._changed, []
            for bar in changed:
                bar.changed = False
                if not bar.priced:
                    continue
                series = self._series[bar.span.symbol]
                volume = bar.traded()
                if bar is not series.newest:
                    self._rebase(series, bar)
                for timeframe in COARSE:
                    longer = self._longer(series, timeframe, bar)
                    longer.absorb(bar, bar.ticks - bar.rolled_ticks, volume - bar.rolled_volume)
                    touched[longer] = None
                bar.volume = bar.rolled_volume = volume
                bar.rolled_ticks = bar.ticks
                touched[bar] = None
        for bar in touched:
            bar.revision += bar.closed
            self._unsaved[bar] = self._unseen[bar] = None

    def _rebase(self, series: Series, bar: CandleBar) -> None:
        """The minute after `bar` counts its volume from where `bar` ends."""
        after = self._neighbour(series, bar, later=True)
        if after is not None and bar.count_end >= 0 and after.base != bar.count_end:
            after.base = bar.count_end
            self._mark(after)

    def _longer(self, series: Series, timeframe: Timeframe, minute: CandleBar) -> CandleBar:
        bar = series.current.get(timeframe)
        at = minute.span.start
        if bar is not None and bar.span.start <= at < bar.span.end and not bar.dropped:
            return bar
        bounds = self._calendar.bar_at(at, timeframe.milliseconds)
        assert bounds is not None  # noqa: S101 (its minute is in a session)
        bar = series.bars[timeframe].get(bounds[0])
        if bar is None:
            bar = self._add(series, self._new(series, timeframe, *bounds))
        series.current[timeframe] = bar
        return bar

    # What comes out

    def live(self, now_ms: int, wanted: Callable[[str, Timeframe], bool] | None = None) -> list[CandleRow]:
        """What changed since the last call, or was closed, for those who watch; only what is `wanted`, if given."""
        self._settle_time(now_ms)
        bars = [bar for bar in self._unseen if bar.known or bar.whole]
        for bar in bars:
            del self._unseen[bar]
        return [bar.row() for bar in bars if wanted is None or wanted(bar.span.symbol, bar.span.timeframe)]

    def due(self, now_ms: int) -> list[CandleRow]:
        """What is to be written now: what was closed or corrected, and forming candles now and then.

        Fragments are held back until `restore` was told what the store has of them (`unknown`).
        """
        self._settle_time(now_ms)
        ready = [bar for bar in self._unsaved if bar.known and bar.closed]
        forming = [
            bar for bar in self._unsaved if bar.known and not bar.closed and now_ms - bar.saved_ms >= FORMING_EVERY_MS
        ]
        forming.sort(key=lambda bar: bar.saved_ms)
        return self._saved(ready + forming[:FORMING_MOST], now_ms)

    def remaining(self, now_ms: int) -> list[CandleRow]:
        """All that is not written yet, for the end; fragments, too, if they are known by now."""
        self._settle_time(now_ms)
        return self._saved([bar for bar in self._unsaved if bar.known], now_ms)

    def _saved(self, bars: list[CandleBar], now_ms: int) -> list[CandleRow]:
        for bar in bars:
            del self._unsaved[bar]
            bar.saved_ms = now_ms
        return [bar.row() for bar in bars]

    def _settle_time(self, now_ms: int) -> None:
        self._roll()
        while self._timetable and self._timetable[0][0] <= now_ms:
            bar = heapq.heappop(self._timetable)[2]
            if bar.dropped:
                continue
            if not bar.closed:
                bar.closed = True
                if bar.priced:
                    self._unsaved[bar] = self._unseen[bar] = None
                self._plan(bar.span.end + KEEP_MS, bar)
            elif not self._evict(bar):
                self._plan(now_ms + KEEP_MS, bar)

    def _plan(self, at: int, bar: CandleBar) -> None:
        heapq.heappush(self._timetable, (at, next(self._numbers), bar))

    def _evict(self, bar: CandleBar) -> bool:
        """Forget a closed candle; not if something of it is still to be written, nor a symbol's newest minute."""
        series = self._series[bar.span.symbol]
        if bar.changed or not bar.known or bar in self._unsaved or bar is series.newest:
            return False
        self._drop(series, bar)
        return True

    def _drop(self, series: Series, bar: CandleBar) -> None:
        bar.dropped = True
        if bar.span.timeframe is Timeframe.M1:
            series.floor = max(series.floor, bar.span.end)
        series.bars[bar.span.timeframe].pop(bar.span.start, None)
        if series.last is bar:
            series.last = CandleBar(Span(series.symbol, Timeframe.M1, 0, 0), 0, known=False)
        for waiting in (self._unsaved, self._unseen, self._unknown):
            waiting.pop(bar, None)

    # What the store has

    def unknown(self) -> list[str]:
        """Ids of candles of which the store may have more than memory: read these rows, and give them to `restore`."""
        self._roll()
        return [candle_id(bar.span.symbol, bar.span.timeframe, bar.span.start) for bar in self._unknown]

    def restore(self, rows: Iterable[Mapping[str, Any]], asked: Iterable[str] = ()) -> None:
        """Go on with stored candles; an id in `asked` that has no row is known not to be stored."""
        self._roll()
        found = {row["_id"]: row for row in rows}
        for bar in [bar for bar in self._unknown if self._id(bar) in found]:
            self._join(bar, CandleBar.of(found.pop(self._id(bar)), bar.day))
        for row in found.values():
            series = self._series_of(row)
            bar = CandleBar.of(row, self._day_of(to_ms(row["start"])))
            if bar.span.start not in series.bars[bar.span.timeframe]:
                self._add(series, bar)
                if bar.span.timeframe is Timeframe.M1:
                    series.floor = max(series.floor, bar.span.start)
        absent = set(asked)
        for bar in [bar for bar in self._unknown if self._id(bar) in absent]:
            bar.known, bar.whole = True, False
            del self._unknown[bar]

    def _join(self, bar: CandleBar, stored: CandleBar) -> None:
        whole = bar.whole
        bar.join(stored)
        del self._unknown[bar]
        if whole and bar.same_figures(stored) and stored.closed:
            self._unsaved.pop(bar, None)
        elif bar.span.timeframe is Timeframe.M1:
            # Its revision was counted with the join; it is again when it is rolled up.
            bar.revision -= bar.closed
            self._mark(bar)

    def _series_of(self, row: Mapping[str, Any]) -> Series:
        symbol = row["symbol"]
        return self._series.get(symbol) or self._begin(symbol, (row.get("progress") or {}).get("divisor", 100))

    @staticmethod
    def _id(bar: CandleBar) -> str:
        return candle_id(bar.span.symbol, bar.span.timeframe, bar.span.start)

    def rebuild(self, rows: Sequence[Mapping[str, Any]], changed: Iterable[str] = ()) -> None:
        """Take in all minutes of one symbol's session, as they are stored, and roll all that is longer up anew.

        `changed` are the ids of those that are stored otherwise. What is in memory, and known, is kept as it is.
        """
        if not rows:
            return
        self.restore(rows)
        series = self._series_of(rows[0])
        day = self._day_of(to_ms(rows[0]["start"]))
        series.floor = min(series.floor, day)
        names = set(changed)
        for bar in [bar for bar in series.bars[Timeframe.M1].values() if names and self._id(bar) in names]:
            before = self._neighbour(series, bar, later=False)
            if bar.base < 0 and before is not None:
                bar.base = before.count_end
            self._mark(bar)
        self._roll()
        for timeframe in COARSE:
            for bar in [bar for bar in series.bars[timeframe].values() if bar.day == day]:
                self._drop(series, bar)
        minutes = sorted(
            (bar for bar in series.bars[Timeframe.M1].values() if bar.day == day and bar.priced), key=_start
        )
        for minute in minutes:
            for timeframe in COARSE:
                longer = self._longer(series, timeframe, minute)
                if longer.known or not longer.whole:
                    longer.known, longer.whole = False, True
                    self._unknown[longer] = self._unsaved[longer] = self._unseen[longer] = None
                longer.absorb(minute, minute.ticks, minute.volume)

    # The provider's history

    def backfill(self, instrument: Instrument, bars: Iterable[Bar], gap: Gap) -> int:
        """Fill what lies in `gap` with the provider's minutes; how many changed.

        The stored minutes of that session have to be in memory (`rebuild`). Minutes without a tick become `backfill`;
        those that the gap cut into become `mixed`; whatever lies outside of the gap is ours, and better.
        """
        self._roll()
        divisor = 10_000_000 if instrument.exchange_type == _CURRENCY else 100
        series = self._series.get(instrument.symbol) or self._begin(instrument.symbol, divisor)
        changed = 0
        for given in bars:
            start = to_ms(given.start)
            bounds = self._calendar.bar_at(start, Timeframe.M1.milliseconds)
            if bounds is None or bounds[0] != start or not gap.start_ms < bounds[1] or not start < gap.end_ms:
                continue
            if not 0 < given.low <= min(given.open, given.close) <= max(given.open, given.close) <= given.high:
                continue
            bar = series.bars[Timeframe.M1].get(start)
            if bar is None:
                bar = self._minute(series, start)
                assert bar is not None  # noqa: S101 (it has bounds)
                bar.known = True
                self._unknown.pop(bar, None)
            if bar.fill(given, gap):
                self._mark(bar)
                changed += 1
        return changed

    def health(self) -> dict[str, int]:
        """How much is in memory, and how much of it waits."""
        return {
            "symbols": len(self._series),
            "in_memory": sum(len(bars) for series in self._series.values() for bars in series.bars.values()),
            "unsaved": len(self._unsaved),
            "unknown": len(self._unknown),
        }


def _start(bar: CandleBar) -> int:
    return bar.span.start
