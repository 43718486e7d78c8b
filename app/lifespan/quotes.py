"""Quotes and candles of listed symbols, put together."""

from contextlib import AsyncExitStack
from datetime import time
from typing import Any, NamedTuple

from app.core.deps import Registry
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.lifespan.ground import Ground
from app.lifespan.market import Market
from app.quotes.adapters.angel_one import AngelOneHistory
from app.quotes.adapters.yahoo import Yahoo, YahooProcess
from app.quotes.history import QuoteCandles
from app.quotes.newest import Quotes
from app.quotes.ports import HistorySource, SourceName
from app.quotes.reading import QuoteReading
from app.quotes.sources import Sources
from app.quotes.store import CandleStore


class QuoteParts(NamedTuple):
    """What the rest of the composition needs of it."""

    candles: QuoteCandles
    """The port `core.candles.CandleHistory`, for signals and predictions."""
    newest: Quotes
    sources: Sources

    async def health(self) -> dict[str, Any]:
        """What `/health` asks."""
        return self.sources.health()


def quotes(
    registry: Registry, settings: Settings, ground: Ground, market: Market, jobs: Scheduler, stack: AsyncExitStack
) -> QuoteParts:
    """Make the services and provide what endpoints ask for."""
    clock, calendar = ground.clock, market.calendar
    asked: list[HistorySource] = [
        Yahoo(
            YahooProcess(cache_dir=settings.data_dir / "yahoo", base_url=settings.yahoo_base_url),
            clock=clock,
            calendar=calendar,
        )
    ]
    if market.session is not None:
        asked.append(AngelOneHistory(market.session, market.master, clock=clock, calendar=calendar))
    sources = Sources(asked, clock, indian=SourceName(settings.quotes_indian_source))
    stack.push_async_callback(sources.close)
    store = CandleStore(ground.database.db)
    candles = QuoteCandles(
        sources=sources,
        store=store,
        cache=ground.cache,
        clock=clock,
        calendar=calendar,
        cache_seconds=settings.market_cache_seconds,
    )
    stack.push_async_callback(candles.close)
    newest = Quotes(
        sources=sources,
        store=store,
        cache=ground.cache,
        clock=clock,
        calendar=calendar,
        open_seconds=settings.quote_cache_seconds,
        closed_seconds=settings.market_cache_seconds,
    )
    stack.push_async_callback(newest.close)
    registry.provide(QuoteReading, QuoteReading(quotes=newest, candles=candles, clock=clock))
    jobs.add(Job("quotes.expire", without_run(candles.expire), at=time(6, 15)))
    return QuoteParts(candles, newest, sources)
