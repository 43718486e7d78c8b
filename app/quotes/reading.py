"""What the endpoints of quotes and candles answer."""

from datetime import datetime

from app.core.candles import Timeframe
from app.core.clock import Clock
from app.quotes.history import QuoteCandles
from app.quotes.newest import Quotes
from app.quotes.ports import Quote
from app.quotes.schemas import HistoryOut, QuoteFault, QuoteOut, QuoteResult, SyncOut


class QuoteReading:
    """Answers with the age of what it says."""

    def __init__(self, *, quotes: Quotes, candles: QuoteCandles, clock: Clock) -> None:
        self._quotes, self._candles, self._clock = quotes, candles, clock

    async def quote(self, symbol: str) -> QuoteOut:
        """See `Quotes.quote`."""
        return self._out(await self._quotes.quote(symbol))

    async def several(self, symbols: list[str]) -> list[QuoteResult]:
        """A quote or an error for each, in their order."""
        found = await self._quotes.several(symbols)
        return [
            QuoteResult(symbol=symbol, quote=self._out(one), error=None)
            if isinstance(one, Quote)
            else QuoteResult(symbol=symbol, quote=None, error=QuoteFault.of(one))
            for symbol, one in zip(symbols, found, strict=True)
        ]

    async def history(
        self, symbol: str, timeframe: Timeframe, days: int | None, limit: int, before: datetime | None
    ) -> tuple[HistoryOut, datetime | None]:
        """A page of candles, newest first, of those that begin before a time; and before which time the next are."""
        fetched = await self._candles.history(symbol, timeframe, days)
        bars = [bar for bar in reversed(fetched.bars) if before is None or bar.start < before]
        more = bars[limit - 1].start if len(bars) > limit else None
        return HistoryOut.of(fetched, bars[:limit], self._age(fetched.fetched_at)), more

    async def sync(self, symbol: str, timeframe: Timeframe, days: int | None) -> SyncOut:
        """See `QuoteCandles.sync`."""
        fetched, saved = await self._candles.sync(symbol, timeframe, days)
        return SyncOut(
            symbol=fetched.symbol,
            timeframe=fetched.timeframe,
            source=fetched.source,
            fetched=len(fetched.bars),
            added=saved.added,
            updated=saved.updated,
            unchanged=saved.unchanged,
            removed=saved.removed,
            left_out=fetched.dropped,
            first=fetched.bars[0].start,
            last=fetched.bars[-1].start,
            fetched_at=fetched.fetched_at,
        )

    def _out(self, quote: Quote) -> QuoteOut:
        return QuoteOut.of(quote, self._age(quote.fetched_at))

    def _age(self, moment: datetime) -> float:
        return max(round((self._clock.now() - moment).total_seconds(), 1), 0.0)
