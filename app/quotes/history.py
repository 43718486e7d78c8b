"""Candles for whoever asks: from the cache, from a provider, or, when no provider answers, as they are stored."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import structlog
from cachetools import LRUCache
from pymongo.errors import PyMongoError

from app.core.cache import Cache
from app.core.cancelling import end as end_tasks
from app.core.candles import CandleSeries, Timeframe
from app.core.clock import Clock
from app.core.errors import FieldError, InvalidInputError, NotFoundError, UnavailableError
from app.core.market_calendar import IST, MarketCalendar
from app.quotes.bars import DailyHours, IndianHours, weeks
from app.quotes.errors import NoSuchSymbolError, NothingFoundError, SourceError
from app.quotes.known_names import KnownNames
from app.quotes.naming import resolve
from app.quotes.ports import Bar, Fetched, Symbol
from app.quotes.sources import Sources
from app.quotes.spans import check_days, days_for, span_of, usual_days
from app.quotes.store import CandleStore, Saved, series_of
from app.quotes.unused import UnusedSeries

log = structlog.get_logger(__name__)

T = TypeVar("T")

GROUP: Final = "quotes"
MOST_BARS: Final = 5_000
"""Of one `CandleSeries`."""
_FRESH_SECONDS, _JUST_CLOSED = 10, timedelta(minutes=2)
"""Soon after a candle's end a provider may not have it yet: such an answer is kept for ten seconds only."""
_STALE_SECONDS: Final = 15
_OVERLAP: Final = timedelta(days=5)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Fetched).decode


class Synced(NamedTuple):
    """What a sync changed."""

    fetched: Fetched
    saved: Saved


class QuoteCandles:
    """Fills the port `core.candles.CandleHistory`."""

    def __init__(
        self,
        *,
        sources: Sources,
        store: CandleStore,
        cache: Cache,
        clock: Clock,
        calendar: MarketCalendar,
        cache_seconds: int = 300,
        unused: UnusedSeries | None = None,
    ) -> None:
        """`unused`: keeps what is stored in bounds; without it everything stays."""
        self._unused = unused
        self._sources, self._store, self._cache = sources, store, cache
        self._clock, self._calendar, self._cache_seconds = clock, calendar, cache_seconds
        self._indian = IndianHours(calendar)
        self._names = KnownNames(store, clock)
        self._locks: LRUCache[str, asyncio.Lock] = LRUCache(2_000)
        self._keeping: set[asyncio.Task[Any]] = set()

    # For others

    async def candles(self, symbol: str, timeframe: str, bars: int) -> CandleSeries:
        """See the port."""
        try:
            wanted = Timeframe(timeframe)
        except ValueError:
            known = ", ".join(Timeframe)
            problem = FieldError(("query", "timeframe"), f"There are {known}", "enum")
            raise InvalidInputError(f"query.timeframe: There are {known}.", [problem]) from None
        bars = min(max(bars, 1), MOST_BARS)
        fetched = await self._get(symbol, wanted, span_of(days_for(bars, wanted), wanted))
        chosen = [bar for bar in fetched.bars if bar.closed][-bars:]
        return CandleSeries(
            fetched.symbol,
            wanted.value,
            tuple(bar.start for bar in chosen),
            tuple(bar.adjusted.open for bar in chosen),
            tuple(bar.adjusted.high for bar in chosen),
            tuple(bar.adjusted.low for bar in chosen),
            tuple(bar.adjusted.close for bar in chosen),
            tuple(bar.adjusted.volume for bar in chosen),
            closed=True,
            source=fetched.source.value,
            fetched_at=fetched.fetched_at,
            stale=fetched.stale,
            currency=fetched.currency,
            adjusted=fetched.adjusted,
        )

    async def history(self, text: str, timeframe: Timeframe, days: int | None) -> Fetched:
        """The candles of the last `days`, the forming one too.

        Raises `InvalidInputError`, `NotFoundError`, and `UnavailableError` where no provider answers and none are
        stored.
        """
        wanted = check_days(days or usual_days(timeframe), timeframe)
        fetched = await self._get(text, timeframe, span_of(wanted, timeframe))
        now = self._clock.now()
        # Nobody who does not say how far back wants nothing, as there is of the last day on a Sunday.
        until = min(now, fetched.bars[-1].end) if days is None and fetched.bars else now
        start = until - timedelta(days=wanted)
        return msgspec.structs.replace(fetched, bars=tuple(bar for bar in fetched.bars if bar.end > start))

    async def sync(self, text: str, timeframe: Timeframe, days: int | None) -> Synced:
        """Fetch now, whatever the cache has, and store; raises as `history` does, and never gives what is stale."""
        wanted = check_days(days or max(usual_days(timeframe), _OVERLAP.days), timeframe)
        start = self._clock.now() - timedelta(days=wanted)
        base = Timeframe.D1 if timeframe is Timeframe.W1 else timeframe

        async def fetch(symbol: Symbol) -> Synced:
            fetched = await self._fetch(symbol, base, start)
            whole, saved = await self._keep(symbol, fetched)
            return Synced(whole, saved)

        synced = await self._resolved(text, fetch)
        self._cache.invalidate(f"{GROUP}:{synced.fetched.symbol}", f"{self._clock.now().timestamp()}")
        return synced

    # Fetching

    async def _get(self, text: str, timeframe: Timeframe, days: int) -> Fetched:
        async def get(symbol: Symbol) -> Fetched:
            return await self._cached(symbol, timeframe, days)

        return await self._resolved(text, get)

    async def _resolved(self, text: str, get: Callable[[Symbol], Awaitable[T]]) -> T:
        """What `get` gives of the symbol that `text` means: of NSE's, or of another exchange's where NSE has none."""
        symbol = resolve(text)
        symbol = self._names.meant(symbol)
        try:
            return await get(symbol)
        except SourceError as error:
            other = await self._names.otherwise(symbol, error)
            if other is not None:
                try:
                    found = await get(other)
                except NoSuchSymbolError:
                    pass
                else:
                    self._names.found(symbol, other)
                    return found
            if isinstance(error, NoSuchSymbolError):
                raise NotFoundError(_unknown(symbol, other, error)) from None
            if isinstance(error, NothingFoundError):
                raise NotFoundError(f"There are no candles of {symbol.name} for this time.") from None
            raise

    async def _cached(self, symbol: Symbol, timeframe: Timeframe, days: int) -> Fetched:
        now = self._clock.now()
        base = Timeframe.D1 if timeframe is Timeframe.W1 else timeframe
        slot, begun = self._slot(symbol, base, now)
        key = f"{symbol.name}:{base.value}:{days}:{slot}"
        early = begun is not None and now - begun < _JUST_CLOSED
        seconds = min(_FRESH_SECONDS if early else self._cache_seconds, self._cache_seconds)
        start = now - timedelta(days=days)

        async def make() -> bytes:
            fetched = await self._fetch(symbol, base, start)
            self._keep_later(symbol, fetched)
            return _encode(fetched)

        group = f"{GROUP}:{symbol.name}"
        try:
            found = _decode(await self._cache.get_or_make(group, key, seconds, make))
        except SourceError as error:
            found = await self._stored(symbol, base, start, error)
        found = msgspec.structs.replace(found, bars=tuple(bar for bar in found.bars if bar.end > start))
        if timeframe is Timeframe.W1:
            found = msgspec.structs.replace(
                found, timeframe=timeframe, bars=self._weeks(symbol, found.bars, start, now)
            )
        return found

    def _weeks(self, symbol: Symbol, days: tuple[Bar, ...], start: datetime, now: datetime) -> tuple[Bar, ...]:
        hours = self._indian if symbol.indian else _hours_of(days)
        made = weeks(days, hours, now)
        # The first may have begun before.
        return made[1:] if made and made[0].start - start < timedelta(days=7) else made

    def _slot(self, symbol: Symbol, timeframe: Timeframe, now: datetime) -> tuple[str, datetime | None]:
        """Names the stretch of time in which an answer holds (a new candle ends it), and when it began."""
        if symbol.indian:
            window = self._calendar.bar_of(now, timeframe.length)
            if window is None:
                state = self._calendar.state(now)
                return f"closed-{state.since.timestamp():.0f}", state.since
            return f"{window.opens.timestamp():.0f}", window.opens
        count = int(now.timestamp() // timeframe.length.total_seconds())
        return str(count), now - timedelta(seconds=now.timestamp() % timeframe.length.total_seconds())

    async def _fetch(self, symbol: Symbol, timeframe: Timeframe, start: datetime) -> Fetched:
        """From a provider, at least from `start` on, and as far back as it takes to join on to what is stored."""
        first = self._sources.order(symbol)
        try:
            state = await self._store.state(series_of(symbol.name, timeframe, first[0])) if first else None
        except PyMongoError as error:
            log.warning("stored candles cannot be read", error=type(error).__name__)
            state = None
        if state is not None:
            # The newest stored one alone says nothing: it may be forming still.
            furthest = self._clock.now() - timedelta(days=span_of(10**6, timeframe))
            start = min(start, max(state.last - _OVERLAP, furthest))
        return await self._sources.candles(symbol, timeframe, start)

    async def _stored(self, symbol: Symbol, timeframe: Timeframe, start: datetime, error: SourceError) -> Fetched:
        """What is stored of the time since `start`, marked as stale; `error` if there is nothing."""
        stored = []
        for source in self._sources.order(symbol):
            series = series_of(symbol.name, timeframe, source)
            key = f"stale:{series}:{start:%Y%m%d}"

            async def read(series: str = series) -> bytes:
                found = await self._store.read(series, start, now := self._clock.now())
                if found:
                    await self._store.asked(series, now)
                return _encode(found) if found else b""

            try:
                found = await self._cache.get_or_make(f"{GROUP}:{symbol.name}", key, _STALE_SECONDS, read)
            except PyMongoError as failure:
                log.warning("stored candles cannot be read", error=type(failure).__name__)
                continue
            if found:
                stored.append(_decode(found))
        if not stored:
            raise error
        return max(stored, key=lambda fetched: fetched.fetched_at)

    # Storing

    def _keep_later(self, symbol: Symbol, fetched: Fetched) -> None:
        task = asyncio.create_task(self._keep_quietly(symbol, fetched), name="quote candles")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep_quietly(self, symbol: Symbol, fetched: Fetched) -> None:
        try:
            _, saved = await self._keep(symbol, fetched)
            if saved.begun and self._unused is not None:
                await self._unused.make_room()
        except (PyMongoError, UnavailableError) as error:
            log.warning("candles were not stored", symbol=symbol.name, error=type(error).__name__)

    async def _keep(self, symbol: Symbol, fetched: Fetched) -> tuple[Fetched, Saved]:
        """Store what was fetched; where older candles have changed with it, these are fetched and stored, too."""
        series = series_of(fetched.symbol, fetched.timeframe, fetched.source)
        async with self._locks.setdefault(series, asyncio.Lock()):
            older = await self._store.check(fetched)
            if older is None:
                return fetched, await self._store.save(fetched)
            furthest = self._clock.now() - timedelta(days=span_of(10**6, fetched.timeframe))
            log.info("older candles have changed", series=series)
            start = max(older - timedelta(days=1), furthest)
            whole = await self._sources.candles(symbol, fetched.timeframe, start, only=fetched.source)
            return whole, await self._store.save(whole, mended=True)

    async def expire(self) -> dict[str, int]:
        """Delete candles of minutes and hours that are older than is useful, and all of symbols that nobody uses.

        For a job; says how much that was.
        """
        now, old = self._clock.now(), 0
        for timeframe, days in KEPT_DAYS.items():
            old += await self._store.expire(timeframe, now - timedelta(days=days))
        dropped = await self._unused.expire() if self._unused is not None else None
        return {"old_candles": old, **(dropped._asdict() if dropped else {})}

    async def drain(self) -> None:
        """Wait until what was fetched is stored."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def close(self) -> None:
        """End what is under way, after a moment."""
        if self._keeping:
            await asyncio.wait(self._keeping, timeout=2)
        await end_tasks(list(self._keeping))


KEPT_DAYS: Final = {Timeframe.M1: 30, Timeframe.M5: 120, Timeframe.M15: 180, Timeframe.H1: 1100}
"""How long stored candles of less than a day are kept."""


def _hours_of(days: tuple[Bar, ...]) -> DailyHours:
    """The hours of an exchange whose daily candles these are, in UTC of today."""
    if not days:
        return DailyHours(IST)
    newest = days[-1]
    return DailyHours(newest.start.tzinfo or IST, newest.start.time(), newest.end.time())


def _unknown(symbol: Symbol, other: Symbol | None, error: SourceError) -> str:
    tried = symbol.name if other is None else f"{symbol.name}, and no {other.name}"
    return f"There is no {tried} at {error.source.value}."
