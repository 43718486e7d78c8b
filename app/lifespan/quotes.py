"""Quotes and candles of listed symbols, put together."""

from collections.abc import Collection, Iterable
from contextlib import AsyncExitStack
from datetime import time
from typing import Any, NamedTuple

from beanie import Document

from app.core.deps import Registry
from app.core.scheduler import Job, Scheduler, without_run
from app.core.settings import Settings
from app.lifespan.ground import Ground
from app.lifespan.market import Market
from app.market_data.ports import Instrument
from app.market_data.watchlist import Watchlist
from app.predictions.models import PredictionDocument
from app.quotes.adapters.angel_one import AngelOneHistory
from app.quotes.adapters.yahoo import Yahoo, YahooProcess
from app.quotes.history import QuoteCandles
from app.quotes.naming import INDICES
from app.quotes.newest import Quotes
from app.quotes.ports import HistorySource, SourceName
from app.quotes.reading import QuoteReading
from app.quotes.sources import Sources
from app.quotes.store import CandleStore
from app.quotes.unused import UnusedSeries
from app.signals.generated_models import TradingSignalDocument
from app.signals.user_models import SignalDocument

_NAMED_BY: tuple[type[Document], ...] = (PredictionDocument, TradingSignalDocument, SignalDocument)
"""What refers to symbols and has to find their candles as long as it is there; each has an index on `symbol`."""


class QuoteParts(NamedTuple):
    """What the rest of the composition needs of it."""

    candles: QuoteCandles
    """The port `core.candles.CandleHistory`, for signals and predictions."""
    newest: Quotes
    sources: Sources

    async def health(self) -> dict[str, Any]:
        """What `/health` asks."""
        return self.sources.health()


class SymbolsInUse:
    """Fills the port `UsedSymbols`: what the feed follows, and what predictions and signals are of."""

    def __init__(self, watchlist: Watchlist) -> None:
        self._watchlist = watchlist

    async def used(self, symbols: Collection[str]) -> Collection[str]:
        """See the port."""
        found = _followed(self._watchlist.followed()) & set(symbols)
        for symbol in set(symbols) - found:
            written = {"$in": [symbol, *_spelled(symbol)]}
            for document in _NAMED_BY:
                if await document.get_pymongo_collection().find_one({"symbol": written}, {"_id": 1}):
                    found.add(symbol)
                    break
        return found


def _spelled(symbol: str) -> list[str]:
    """How users' signals may say it: `RELIANCE`, `NSE:RELIANCE` and `NIFTY 50`, as people do."""
    name, _, ending = symbol.rpartition(".")
    if exchange := {"NS": "NSE", "BO": "BSE"}.get(ending):
        return [name, f"{exchange}:{name}", f"{name}-EQ", f"{exchange}:{name}-EQ"]
    indices = [name for name, listed in INDICES.items() if listed == symbol]
    return [*indices, "NIFTY 50"] if "NIFTY50" in indices else indices


def _followed(instruments: Iterable[Instrument]) -> set[str]:
    """What the feed follows, as the providers of candles call it."""
    names = set()
    for one in instruments:
        if one.kind == "INDEX":
            names.add(INDICES.get(one.symbol.replace(" ", ""), ""))
        elif one.exchange in {"NSE", "BSE"}:  # shares, of whatever series: `SUZLON-BE`
            series = f"-{one.kind}" if one.kind else "-EQ"
            names.add(one.symbol.removesuffix(series) + (".BO" if one.exchange == "BSE" else ".NS"))
    return names


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
        unused=UnusedSeries(
            store=store,
            used=SymbolsInUse(registry.get(Watchlist)),
            clock=clock,
            days=settings.market_series_unused_days,
            most=settings.market_series_max,
        ),
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
