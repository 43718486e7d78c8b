"""Deletes what is stored of symbols that nobody uses: whoever asks for candles, anonymously too, has them stored.

What was not asked for in `MARKET_SERIES_UNUSED_DAYS` goes, and of more than `MARKET_SERIES_MAX` series those that were
asked for longest ago. What the service itself works with (what the feed follows, what signals and predictions are of)
stays, however many there are.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

import structlog

from app.core.clock import Clock
from app.quotes.store import CandleStore, Use

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 60.0
"""How often new series can lead to a look for what may go, in one process."""
_AT_ONCE: Final = 50
"""Symbols that are asked about together."""


class UsedSymbols(Protocol):
    """What the rest of the service works with."""

    async def used(self, symbols: Collection[str]) -> Collection[str]:
        """Those of `symbols`, as the providers call them, whose candles are to stay."""


class Dropped(NamedTuple):
    """What was deleted."""

    series: int
    candles: int
    quotes: int


class UnusedSeries:
    """Keeps the number of stored series in bounds."""

    def __init__(self, *, store: CandleStore, used: UsedSymbols, clock: Clock, days: int, most: int) -> None:
        """`days` since something was last asked for, and `most` series of all."""
        self._store, self._used, self._clock = store, used, clock
        self._unused, self._most = timedelta(days=days), most
        self._look_at = clock.monotonic()

    async def expire(self) -> Dropped:
        """Delete what is not used. For a job; raises `PyMongoError`."""
        series = candles = 0
        for use in await self._going(await self._store.uses()):
            count = await self._store.drop(use)
            series, candles = series + (count is not None), candles + (count or 0)
        quotes = 0
        for use in await self._going(await self._store.quote_uses()):
            quotes += await self._store.drop_quote(use)
        if series or quotes:
            log.info("what nobody asks for was deleted", series=series, candles=candles, quotes=quotes)
        return Dropped(series, candles, quotes)

    async def make_room(self) -> None:
        """A series is new: delete others if there are too many now. Raises `PyMongoError`."""
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        if await self._store.size() > self._most:
            await self.expire()

    async def _going(self, uses: Sequence[Use]) -> list[Use]:
        """Those to delete of `uses`, which begin with the one that was asked for longest ago."""
        limit, over = self._clock.now() - self._unused, len(uses) - self._most
        going: list[Use] = []
        for begin in range(0, len(uses), _AT_ONCE):
            part = uses[begin : begin + _AT_ONCE]
            if part[0].asked_at >= limit and len(going) >= over:
                break
            staying = frozenset(await self._used.used({use.symbol for use in part}))
            for use in part:
                if use.symbol not in staying and (use.asked_at < limit or len(going) < over):
                    going.append(use)
        return going
