"""Candles of stretches without a feed, from the provider's history: after an outage, a restart, a late start.

Only minutes are fetched; what is longer follows from them. Requests are far enough apart for the provider's limits,
3 a second and 180 a minute.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from pymongo.errors import PyMongoError

from app.core.clock import Clock
from app.core.market_calendar import IST, MarketCalendar
from app.market_data.candle_store import CandleStore
from app.market_data.candles import CandleBuilder
from app.market_data.leading import Past
from app.market_data.ports import CandleSource, CandlesUnavailableError, Gap, Instrument, Timeframe
from app.market_data.rows import from_ms, to_ms

log = structlog.get_logger(__name__)

APART = 0.34
"""Seconds between requests."""
SETTLED_MS = 10_000
"""How long after a minute's end the provider's candle of it is taken to be final."""
SESSIONS_BACK = 5
"""How many sessions before today's are filled after a long absence."""
SHORTEST_MS = 5_000
"""A gap: shorter than that a symbol is silent by itself."""
TRIES = 5
LONGEST_WAIT = 900.0
MOST_WAITING = 20_000
_MINUTE_MS = 60_000


class _Waiting(NamedTuple):
    gap: Gap
    ready_ms: int
    tries: int = 0


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

    def outage(self, start_ms: int, end_ms: int) -> None:
        """There was no feed between these times: queue what of it lies in sessions, for all that is wanted."""
        self._queue(start_ms, end_ms, self._wanted())

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
        """Queue a gap within one session; joined with the one queued last for its symbol if they touch."""
        symbol = gap.instrument.symbol
        key = self._last_key.get(symbol)
        tries = 0
        if key in self._waiting and gap.start_ms <= self._waiting[key].gap.end_ms and key[1] <= gap.end_ms:
            known, _, tries = self._waiting.pop(key)
            gap = Gap(gap.instrument, min(known.start_ms, gap.start_ms), max(known.end_ms, gap.end_ms))
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        ready = -(-gap.end_ms // _MINUTE_MS) * _MINUTE_MS + SETTLED_MS
        self._last_key[symbol] = (symbol, gap.start_ms)
        self._waiting[symbol, gap.start_ms] = _Waiting(gap, ready, tries)

    def unfilled_ms(self) -> int | None:
        """When the earliest gap begins that is still to be filled."""
        return min((item.gap.start_ms for item in self._waiting.values()), default=None)

    def _stretches(self, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
        """The parts of a time that lie in sessions, newest first: they are looked at most."""
        last = from_ms(end_ms).astimezone(IST).date()
        day, first = last, from_ms(start_ms).astimezone(IST).date()
        for _ in range(SESSIONS_BACK):
            day = self._calendar.previous_session(day).day
        found = []
        for session in self._calendar.sessions(max(first, day), last):
            for window in session.windows:
                low, high = max(start_ms, to_ms(window.opens)), min(end_ms, to_ms(window.closes))
                if high - low >= SHORTEST_MS:
                    found.append((low, high))
        return found[::-1]

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
        wait: float | None = None
        try:
            self._filled += await self.fill(item.gap)
            self._last_error = None
            # Unless it has grown meanwhile.
            if self._waiting.get(key) is item:
                del self._waiting[key]
            return
        except CandlesUnavailableError as error:
            self._last_error, wait = str(error), error.retry_after
        except PyMongoError as error:
            self._last_error, wait = type(error).__name__, 5.0
        item = self._waiting.pop(key)
        if wait is None or item.tries + 1 >= TRIES:
            self._failed += 1
            log.warning("a gap could not be filled", symbol=key[0], error=self._last_error)
            return
        self._waiting[key] = item._replace(tries=item.tries + 1)
        # One refusal holds for all: nobody asks before its time is over.
        self._not_before_ms = to_ms(self._clock.now() + timedelta(seconds=min(wait, LONGEST_WAIT)))

    async def fill(self, gap: Gap) -> int:
        """Fetch the minutes that touch `gap` and give them to the candles; how many changed.

        Raises `CandlesUnavailableError` and `PyMongoError`; then nothing has changed.
        """
        day = self._calendar.bar_at(gap.start_ms, Timeframe.D1.milliseconds)
        if day is None:
            return 0
        low = gap.start_ms // _MINUTE_MS * _MINUTE_MS
        await asyncio.sleep(self._last_request + self._apart - self._clock.monotonic())
        self._last_request = self._clock.monotonic()
        bars = await self._source.bars(gap.instrument, Timeframe.M1, from_ms(low), from_ms(gap.end_ms))
        if not bars:
            return 0
        symbol = gap.instrument.symbol
        stored = await self._store.read(symbol, Timeframe.M1, *day)
        # Nothing waits from here on: what is in memory and what was read belong together.
        self._builder.rebuild(stored)
        return self._builder.backfill(gap.instrument, bars, gap)

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
