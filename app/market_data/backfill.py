"""Candles of stretches without a feed, from the provider's history: after an outage, a restart, a late start.

A provider that is away is waited for as long as the session is recent; what it refuses, or answers with minutes
missing, is asked for again a few times: a history may be late, and an illiquid symbol has minutes without a trade.

Only minutes are fetched; what is longer follows from them. Requests are far enough apart for the provider's limits,
3 a second and 180 a minute.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import structlog
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.market_data.candle_store import CandleStore
from app.market_data.candles import CandleBuilder
from app.market_data.leading import Past
from app.market_data.ports import Bar, CandleSource, CandlesUnavailableError, Gap, Instrument, Timeframe
from app.market_data.rows import from_ms, to_ms

log = structlog.get_logger(__name__)

APART = 0.34
"""Seconds between requests."""
SETTLED_MS = 10_000
"""How long after a minute's end the provider's candle of it is taken to be final."""
SESSIONS_BACK = 5
"""How many sessions before today's are filled after a long absence; older gaps are given up."""
SHORTEST_MS = 5_000
"""A gap: shorter than that a symbol is silent by itself."""
TRIES = 3
"""How often a gap is asked for that is refused, or answered in part."""
TRY_AGAIN = 60.0
"""Seconds before such a gap is asked for again; five times as long before the last time."""
LONGEST_WAIT = 900.0
MOST_WAITING = 20_000
_MINUTE_MS = 60_000


class _Waiting(NamedTuple):
    gap: Gap
    ready_ms: int
    tries: int = 0
    """Answers that did not fill it."""
    delays: int = 0
    """Times that there was no answer, in a row."""


class Filled(NamedTuple):
    """What an answer brought."""

    changed: int
    """Minutes."""
    rest: Gap | None
    """From the first minute to the last that it did not have."""


class Backfill:
    """The part of the leader that fills gaps, one after another, the first ones first."""

    def __init__(
        self,
        *,
        source: CandleSource,
        builder: CandleBuilder,
        store: CandleStore,
        clock: Clock,
        calendar: MarketCalendar,
        wanted: Callable[[], Sequence[Instrument]],
        apart: float = APART,
    ) -> None:
        self._source = source
        self._builder = builder
        self._store = store
        self._clock = clock
        self._calendar = calendar
        self._wanted = wanted
        self._apart = apart
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._last_key: dict[str, tuple[str, int]] = {}
        self._not_before_ms = 0
        self._last_request = -apart
        self._filled = self._failed = self._dropped = 0
        self._followed: set[str] | None = None
        """Symbols that are wanted while this process runs the feed."""
        self._last_error: str | None = None

    # Gaps

    def outage(self, start_ms: int, end_ms: int, instruments: Sequence[Instrument] | None = None) -> None:
        """There was no feed of `instruments` (all that are wanted) between these times: queue what lies in sessions."""
        self._queue(start_ms, end_ms, self._wanted() if instruments is None else instruments)

    def _queue(self, start_ms: int, end_ms: int, instruments: Sequence[Instrument]) -> None:
        for low, high in self._stretches(start_ms, end_ms):
            for instrument in instruments:
                self.add(Gap(instrument, low, high))

    def look(self) -> None:
        """What is wanted has changed: queue today's session of what was not wanted before, where the feed runs here."""
        if self._followed is None:
            return
        wanted = self._wanted()
        new = [instrument for instrument in wanted if instrument.symbol not in self._followed]
        self._followed = {instrument.symbol for instrument in wanted}
        now = self._clock.now()
        self._queue(to_ms(_midnight(now)), to_ms(now), new)

    def add(self, gap: Gap) -> None:
        """Queue a gap within one session; joined with what touches it of those queued for its symbol before."""
        symbol = gap.instrument.symbol
        tries = 0
        for key in (self._last_key.get(symbol), (symbol, gap.start_ms)):
            known = self._waiting.get(key) if key else None
            if key and known and gap.start_ms <= known.gap.end_ms and known.gap.start_ms <= gap.end_ms:
                del self._waiting[key]
                start, end = min(known.gap.start_ms, gap.start_ms), max(known.gap.end_ms, gap.end_ms)
                gap, tries = Gap(gap.instrument, start, end), known.tries
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        ready = -(-gap.end_ms // _MINUTE_MS) * _MINUTE_MS + SETTLED_MS
        self._put(_Waiting(gap, ready, tries))

    def _put(self, item: _Waiting) -> None:
        key = (item.gap.instrument.symbol, item.gap.start_ms)
        self._last_key[key[0]] = key
        self._waiting[key] = item

    def unfilled_ms(self) -> int | None:
        """When the earliest gap begins that is still to be filled."""
        return min((item.gap.start_ms for item in self._waiting.values()), default=None)

    def _stretches(self, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
        """The parts of a time that lie in sessions, newest first: they are looked at most."""
        last, first = from_ms(end_ms).astimezone(IST).date(), from_ms(start_ms).astimezone(IST).date()
        found = []
        for session in self._calendar.sessions(max(first, self._oldest_day(last)), last):
            for window in session.windows:
                low, high = max(start_ms, to_ms(window.opens)), min(end_ms, to_ms(window.closes))
                if high - low >= SHORTEST_MS:
                    found.append((low, high))
        return found[::-1]

    def _oldest_day(self, day: date) -> date:
        """The day of the oldest session that is filled on `day`."""
        for _ in range(SESSIONS_BACK):
            day = self._calendar.previous_session(day).day
        return day

    # As a part of the leader

    async def begin(self, past: Past) -> None:
        """See `LeaderPart`. What was missed since the last feed; where there never was one, today's session."""
        self._waiting.clear()
        self._last_key.clear()
        now = self._clock.now()
        self._followed = {instrument.symbol for instrument in self._wanted()}
        self.outage(to_ms(past.through or past.at or _midnight(now)), to_ms(now))

    async def run(self) -> None:
        """See `LeaderPart`."""
        while True:
            now = to_ms(self._clock.now())
            ready = (key for key, item in self._waiting.items() if max(item.ready_ms, self._not_before_ms) <= now)
            key = next(ready, None)
            if key is None:
                await asyncio.sleep(min(1.0, max(self._apart, 0.01)))
            else:
                await self._try(key)

    async def finish(self, *, owned: bool) -> None:  # noqa: ARG002 (the port's)
        """See `LeaderPart`: nothing is left to store; the next leader finds what was not filled."""
        self._followed = None

    async def _try(self, key: tuple[str, int]) -> None:
        item = self._waiting[key]
        try:
            changed, rest = await self.fill(item.gap)
        except CandlesUnavailableError as error:
            self._last_error, wait = str(error), error.retry_after
        except PyMongoError as error:
            self._last_error, wait = type(error).__name__, 5.0
        else:
            self._filled += changed
            self._last_error = None
            self._settle(key, item, rest, failed=False)
            return
        if wait is None:
            self._settle(key, item, item.gap, failed=True)
        else:
            self._postpone(key, item, wait)

    def _postpone(self, key: tuple[str, int], item: _Waiting, wait: float) -> None:
        """There was no answer: ask again as long as the session is recent."""
        now = self._clock.now()
        # One refusal holds for all: nobody asks before its time is over. Whom it comes for again waits for longer.
        self._not_before_ms = to_ms(now + timedelta(seconds=min(wait, LONGEST_WAIT)))
        if self._waiting.get(key) is not item:
            return  # it has grown meanwhile
        del self._waiting[key]
        if from_ms(item.gap.end_ms).astimezone(IST).date() < self._oldest_day(now.astimezone(IST).date()):
            self._give_up(item)
            return
        later = min(wait * 2.0 ** min(item.delays, 20), LONGEST_WAIT)
        self._waiting[key] = item._replace(ready_ms=to_ms(now + timedelta(seconds=later)), delays=item.delays + 1)

    def _settle(self, key: tuple[str, int], item: _Waiting, rest: Gap | None, *, failed: bool) -> None:
        """There was an answer, and `rest` is still missing: ask again, or leave it at that."""
        if self._waiting.get(key) is not item:
            return  # it has grown meanwhile
        del self._waiting[key]
        tries = item.tries + 1
        if rest is not None and tries < TRIES:
            later = TRY_AGAIN if tries < TRIES - 1 else TRY_AGAIN * 5
            ready = to_ms(self._clock.now() + timedelta(seconds=later))
            if (key[0], rest.start_ms) in self._waiting:
                self.add(rest)
            else:
                self._put(_Waiting(rest, ready, tries))
        elif failed:
            self._give_up(item)

    def _give_up(self, item: _Waiting) -> None:
        self._failed += 1
        log.warning("a gap could not be filled", symbol=item.gap.instrument.symbol, error=self._last_error)

    async def fill(self, gap: Gap) -> Filled:
        """Fetch the minutes that touch `gap` and give them to the candles.

        Raises `CandlesUnavailableError` and `PyMongoError`; then nothing has changed.
        """
        day = self._calendar.bar_at(gap.start_ms, Timeframe.D1.milliseconds)
        if day is None:
            return Filled(0, None)
        low = gap.start_ms // _MINUTE_MS * _MINUTE_MS
        await asyncio.sleep(self._last_request + self._apart - self._clock.monotonic())
        self._last_request = self._clock.monotonic()
        bars = await self._source.bars(gap.instrument, Timeframe.M1, from_ms(low), from_ms(gap.end_ms))
        if not bars:
            return Filled(0, gap)
        symbol = gap.instrument.symbol
        stored = await self._store.read(symbol, Timeframe.M1, *day)
        # Nothing waits from here on: what is in memory and what was read belong together.
        self._builder.rebuild(stored)
        return Filled(self._builder.backfill(gap.instrument, bars, gap), self._rest(gap, bars))

    def _rest(self, gap: Gap, bars: Sequence[Bar]) -> Gap | None:
        """The part of `gap` whose minutes are not in `bars`."""
        given = {to_ms(bar.start) for bar in bars}
        minutes = range(gap.start_ms // _MINUTE_MS * _MINUTE_MS, gap.end_ms, _MINUTE_MS)
        missing = [ms for ms in minutes if ms not in given and self._calendar.is_open_at(ms)]
        if not missing:
            return None
        return Gap(gap.instrument, max(gap.start_ms, missing[0]), min(gap.end_ms, missing[-1] + _MINUTE_MS))

    def health(self) -> dict[str, Any]:
        """Gaps that wait, were given up or were never queued, minutes filled, and the kind of the last error."""
        return {
            "waiting": len(self._waiting),
            "filled": self._filled,
            "failed": self._failed,
            "dropped": self._dropped,
            "last_error": self._last_error,
        }


def _midnight(moment: datetime) -> datetime:
    """When the day of `moment` began in India."""
    return moment.astimezone(IST).replace(hour=0, minute=0, second=0, microsecond=0)
