"""Newest quotes: kept for seconds while a market is open, asked for together, and stale rather than none."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog
from cachetools import LRUCache
from pymongo.errors import PyMongoError

from app.core.cache import Cache
from app.core.cancelling import end as end_tasks
from app.core.clock import Clock
from app.core.errors import DomainError, NotFoundError
from app.core.market_calendar import MarketCalendar
from app.quotes.errors import NoSuchSymbolError, SourceError
from app.quotes.known_names import KnownNames
from app.quotes.naming import resolve
from app.quotes.ports import Quote, Symbol
from app.quotes.sources import MOST_AT_ONCE, Sources
from app.quotes.store import CandleStore

log = structlog.get_logger(__name__)

_GROUP: Final = "quotes-newest"
_REMEMBERED: Final = 2_000
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Quote).decode


class Quotes:
    """The newest prices of symbols."""

    def __init__(
        self,
        *,
        sources: Sources,
        store: CandleStore,
        cache: Cache,
        clock: Clock,
        calendar: MarketCalendar,
        open_seconds: int = 15,
        closed_seconds: int = 300,
    ) -> None:
        """How long a quote is kept while the market is open, and while it is closed."""
        self._sources, self._store, self._cache = sources, store, cache
        self._clock, self._calendar = clock, calendar
        self._open_seconds, self._closed_seconds = open_seconds, max(open_seconds, closed_seconds)
        self._newest: LRUCache[str, Quote] = LRUCache(_REMEMBERED)
        self._names = KnownNames(store, clock)
        self._waiting: dict[Symbol, asyncio.Future[Quote]] = {}
        self._asking: set[asyncio.Task[Any]] = set()

    async def quote(self, text: str) -> Quote:
        """The newest quote of a symbol.

        Raises `InvalidInputError`, `NotFoundError`, and `UnavailableError` where no provider answers and none is kept.
        """
        return await self._resolved(resolve(text))

    async def several(self, texts: Sequence[str]) -> list[Quote | DomainError]:
        """For each of `texts` (at most 50) the quote, or why there is none."""
        if len(texts) > MOST_AT_ONCE:
            raise ValueError(f"at most {MOST_AT_ONCE} at once")

        async def one(text: str) -> Quote | DomainError:
            try:
                return await self._resolved(resolve(text, where=("query", "symbols")))
            except DomainError as error:
                return error

        return await asyncio.gather(*map(one, texts))

    async def _resolved(self, symbol: Symbol) -> Quote:
        symbol = self._names.meant(symbol)
        try:
            return await self._cached(symbol)
        except SourceError as error:
            other = await self._names.otherwise(symbol, error)
            if other is not None:
                try:
                    found = await self._cached(other)
                except NoSuchSymbolError:
                    pass
                else:
                    self._names.found(symbol, other)
                    return found
            if not isinstance(error, NoSuchSymbolError):
                raise
            tried = symbol.name if other is None else f"{symbol.name}, and no {other.name}"
            raise NotFoundError(f"There is no {tried} at {error.source.value}.") from None

    async def _cached(self, symbol: Symbol) -> Quote:
        async def make() -> bytes:
            return _encode(await self._ask(symbol))

        seconds, state = self._keep_for(symbol)
        try:
            return _decode(await self._cache.get_or_make(_GROUP, f"{symbol.name}:{state}", seconds, make))
        except SourceError as error:
            # Also where it is said not to exist: answers may lack what there is.
            stale = await self._kept(symbol)
            if stale is None:
                raise error from None
            return stale

    def _keep_for(self, symbol: Symbol) -> tuple[int, str]:
        """Seconds, and a word that changes when the market opens or closes."""
        if not symbol.indian:
            return self._open_seconds, ""
        now = self._clock.now()
        state = self._calendar.state(now)
        if state.phase.value != "closed":
            return self._open_seconds, state.phase.value
        left = int((state.until - now).total_seconds())
        return max(min(self._closed_seconds, left), 1), state.phase.value

    # Asking together

    def _ask(self, symbol: Symbol) -> "asyncio.Future[Quote]":
        """The quote, asked for with all others that are wanted in this turn of the event loop."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._start)
        if symbol not in self._waiting:
            self._waiting[symbol] = loop.create_future()
        return self._waiting[symbol]

    def _start(self) -> None:
        waiting, self._waiting = self._waiting, {}
        symbols = list(waiting)
        for start in range(0, len(symbols), MOST_AT_ONCE):
            part = {symbol: waiting[symbol] for symbol in symbols[start : start + MOST_AT_ONCE]}
            task = asyncio.create_task(self._answer(part), name="quotes")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _answer(self, waiting: "dict[Symbol, asyncio.Future[Quote]]") -> None:
        try:
            found, failures = await self._sources.quotes(list(waiting))
        except BaseException as error:
            for future in waiting.values():
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            raise
        for symbol, future in waiting.items():
            if future.done():
                continue
            if symbol.name in found:
                future.set_result(found[symbol.name])
            else:
                future.set_exception(failures[symbol.name])
        self._newest.update(found)
        try:
            await self._store.put_quotes(list(found.values()))
        except PyMongoError as error:
            log.warning("newest quotes were not stored", error=type(error).__name__)

    async def _kept(self, symbol: Symbol) -> Quote | None:
        newest = self._newest.get(symbol.name)
        if newest is None:
            try:
                newest = await self._store.quote(symbol.name)
            except PyMongoError as error:
                log.warning("kept quotes cannot be read", error=type(error).__name__)
            if newest is not None:
                self._newest[symbol.name] = newest
        return msgspec.structs.replace(newest, stale=True) if newest else None

    async def close(self) -> None:
        """End what is under way."""
        await end_tasks(list(self._asking))
