"""Where quotes and candles come from: the first provider that answers, each behind a circuit breaker.

The breakers are each process's own. Providers here have no plan whose calls have to be counted.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import structlog

from app.core.breaker import FIRST_REST, LONGEST_REST, Circuit
from app.core.candles import Timeframe
from app.core.clock import Clock
from app.quotes.errors import BusyError, LeftAloneError, NoSuchSymbolError, RateLimitedError, SourceError
from app.quotes.ports import Fetched, HistorySource, Quote, SourceName, Symbol

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST_AT_ONCE: Final = 50
"""Symbols of one question."""


class _Guarded:
    """A provider and its breaker."""

    def __init__(self, source: HistorySource, clock: Clock) -> None:
        self.source, self._clock = source, clock
        self._circuit = Circuit()
        self._last_error: str | None = None
        self._last_error_at: datetime | None = None

    async def ask(self, question: Callable[[HistorySource], Awaitable[T]]) -> T:
        now = self._clock.now()
        if (wait := self._circuit.wait(now)) is not None:
            code = self._last_error or "probe under way"
            raise LeftAloneError(self.source.name, code, retry_after=wait.total_seconds())
        self._circuit = self._circuit.admitted(now)
        try:
            answer = await question(self.source)
        except BusyError:
            self._unasked()
            raise
        except SourceError as error:
            self._note(error)
            raise
        except BaseException:
            self._unasked()
            raise
        self._circuit = self._circuit.succeeded(self._clock.now())
        self._last_error = None
        return answer

    def _unasked(self) -> None:
        """Nothing is known of the provider then: the next call is the probe again."""
        self._circuit = Circuit(
            failures=self._circuit.failures, rests=self._circuit.rests, open_until=self._circuit.open_until
        )

    def _note(self, error: SourceError) -> None:
        now = self._clock.now()
        if not error.trips:
            self._circuit = self._circuit.succeeded(now)  # an answer, if not the one that was hoped for
            return
        asked = timedelta(seconds=error.retry_after) if error.told else None
        if asked is None and isinstance(error, RateLimitedError):
            asked = min(FIRST_REST * 2 ** min(self._circuit.rests, 8), LONGEST_REST)
        self._circuit = self._circuit.failed(now, asked)
        self._last_error, self._last_error_at = error.word, now
        log.warning("provider of quotes failed", provider=self.source.name.value, error=error.word)

    def health(self) -> dict[str, Any]:
        now = self._clock.now()
        line: dict[str, Any] = {"circuit": self._circuit.word(now)}
        if self._last_error:
            line |= {"last_error": self._last_error, "last_error_at": self._last_error_at}
        if (wait := self._circuit.wait(now)) is not None:
            line["tried_again"] = now + wait
        return line

    @property
    def well(self) -> bool:
        return self._last_error is None


class Sources:
    """Asks providers, first choice first. Nothing is tried again by itself."""

    def __init__(
        self, sources: Sequence[HistorySource], clock: Clock, *, indian: SourceName = SourceName.YAHOO
    ) -> None:
        """`indian`: whom to ask first for Indian symbols, if it is among `sources`."""
        self._sources = [_Guarded(source, clock) for source in sources]
        self._indian = indian

    def order(self, symbol: Symbol) -> list[SourceName]:
        """Who is asked for a symbol, in which order."""
        return [guarded.source.name for guarded in self._asked(symbol)]

    def _asked(self, symbol: Symbol) -> list[_Guarded]:
        found = [guarded for guarded in self._sources if guarded.source.covers(symbol)]
        if symbol.indian:
            found.sort(key=lambda guarded: guarded.source.name is not self._indian)
        return found

    async def candles(
        self, symbol: Symbol, timeframe: Timeframe, start: datetime, *, only: SourceName | None = None
    ) -> Fetched:
        """Candles of the first provider that has any; `only`: of this one.

        Raises `NoSuchSymbolError` if nobody knows the symbol, else the first choice's `SourceError`.
        """
        failures: list[SourceError] = []
        for guarded in self._asked(symbol):
            if only in (None, guarded.source.name):
                try:
                    return await guarded.ask(lambda source: source.candles(symbol, timeframe, start))
                except SourceError as error:
                    failures.append(error)
        raise _worst(failures)

    async def quotes(self, symbols: Sequence[Symbol]) -> tuple[dict[str, Quote], dict[str, SourceError]]:
        """Quotes by the symbols' names, and why there is none of the others. `MOST_AT_ONCE` symbols at most."""
        found: dict[str, Quote] = {}
        failures: dict[str, list[SourceError]] = {}
        tries = max((len(self._asked(symbol)) for symbol in symbols), default=0)
        for place in range(tries):
            groups: dict[SourceName, list[Symbol]] = {}
            for symbol in symbols:
                order = self._asked(symbol)
                if symbol.name not in found and place < len(order):
                    groups.setdefault(order[place].source.name, []).append(symbol)
            for guarded in self._sources:
                if group := groups.get(guarded.source.name):
                    await self._quotes_of(guarded, group, found, failures)
        return found, {
            symbol.name: _worst(failures.get(symbol.name, [])) for symbol in symbols if symbol.name not in found
        }

    @staticmethod
    async def _quotes_of(
        guarded: _Guarded, group: list[Symbol], found: dict[str, Quote], failures: dict[str, list[SourceError]]
    ) -> None:
        name = guarded.source.name
        try:
            answered = await guarded.ask(lambda source: source.quotes(group))
        except SourceError as error:
            for symbol in group:
                failures.setdefault(symbol.name, []).append(error)
            return
        for symbol in group:
            if (quote := answered.get(symbol.name)) is not None:
                found[symbol.name] = quote
            else:
                failures.setdefault(symbol.name, []).append(NoSuchSymbolError(name, "no quote"))

    def health(self) -> dict[str, Any]:
        """The line for `/health`; never raises. `degraded` while a provider is not well."""
        well = all(guarded.well for guarded in self._sources)
        line: dict[str, Any] = {"status": "ok" if well else "degraded"}
        return line | {guarded.source.name.value: guarded.health() for guarded in self._sources}

    async def close(self) -> None:
        """Give all threads and connections up."""
        for guarded in self._sources:
            await guarded.source.close()


def _worst(failures: Sequence[SourceError]) -> SourceError:
    """What a person is told: that a provider is away rather than that another does not know the symbol."""
    others = [error for error in failures if not isinstance(error, NoSuchSymbolError)]
    return next(iter([*others, *failures]), NoSuchSymbolError(SourceName.YAHOO, "nobody has it"))
