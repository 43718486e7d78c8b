"""Cryptocurrency listings, put together."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import time, timedelta
from typing import Any

from app.core.clock import Sequence
from app.core.deps import Registry
from app.core.errors import UnavailableError
from app.core.scheduler import Job, Run, Scheduler, without_run
from app.core.settings import Settings
from app.crypto.backfill import Backfill, ListedIds
from app.crypto.categories import Categories
from app.crypto.chart_service import PriceCharts
from app.crypto.generations import GenerationStore
from app.crypto.history import CryptoHistory
from app.crypto.history_pages import HistoryPages
from app.crypto.history_reading import HistoryReading
from app.crypto.history_rows import HistoryRows
from app.crypto.holdings import Holdings
from app.crypto.listing import Listings
from app.crypto.naming import CoinNames
from app.crypto.portfolio_risk import PortfolioRisks
from app.crypto.providers import listing_sources
from app.crypto.register import CoinRegister
from app.crypto.requested_sync import RequestedSync
from app.crypto.risk_service import CoinRisks
from app.crypto.runs import GROUP, SYNC, TOP_50, TOP_200
from app.crypto.sync import CryptoSync
from app.crypto.top import TopLists
from app.crypto.watchlists import Watchlists
from app.lifespan.ground import Ground

HISTORY = "crypto.history"
"""The group of the jobs that rewrite history: never two at once."""


async def crypto(
    registry: Registry, settings: Settings, ground: Ground, jobs: Scheduler, stack: AsyncExitStack
) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Make the services and provide what endpoints ask for; gives what `/health` asks."""
    db, clock, bus = ground.database.db, ground.clock, ground.bus
    sources = listing_sources(settings, db, clock)
    stack.push_async_callback(sources.close)
    store = GenerationStore()
    # Somebody carries out what is asked for: a process of the service, or workers.
    somebody = settings.background_tasks_enabled or settings.task_broker_url is not None
    listings = Listings(
        store=store,
        register=(register := CoinRegister()),
        bus=bus,
        clock=clock,
        cache_seconds=settings.crypto_cache_seconds,
        runs=jobs if settings.crypto_sync_enabled and somebody else None,
    )
    registry.provide(Listings, listings)
    stack.push_async_callback(listings.close)
    registry.provide(TopLists, TopLists(listings, Categories(db, clock, sources)))
    registry.provide(RequestedSync, RequestedSync(jobs, store))

    days = settings.crypto_history_retention_days
    rows = HistoryRows(db)
    history = CryptoHistory(rows=rows, clock=clock, retention_days=days)
    reading = HistoryReading(rows=rows, clock=clock, retention_days=days)
    names = CoinNames(listings)
    backfill = Backfill(source=sources, ids=ListedIds(listings.current), history=history, reading=reading, clock=clock)
    registry.provide(HistoryPages, HistoryPages(reading=reading, names=names))
    registry.provide(PriceCharts, PriceCharts(reading=reading, names=names, clock=clock))
    risks = registry.provide(CoinRisks, CoinRisks(reading=reading, names=names))
    sequence = Sequence(clock)
    holdings = registry.provide(
        Holdings, Holdings(listing=listings, names=names, backfill=backfill, clock=clock, sequence=sequence)
    )
    registry.provide(Watchlists, Watchlists(listing=listings, names=names, clock=clock, sequence=sequence))
    registry.provide(PortfolioRisks, PortfolioRisks(holdings=holdings, risks=risks))

    async def fill(run: Run) -> Any:
        with suppress(UnavailableError):  # then it knows no coins, and the next run goes on
            await listings.newest()
        return await backfill.work(run)

    sync = CryptoSync(source=sources, store=store, register=register, history=history, bus=bus, clock=clock)
    jobs.add(Job(SYNC, sync.sync, group=GROUP))
    if settings.crypto_sync_enabled:
        jobs.add(
            Job(TOP_50, sync.top_50, every=timedelta(minutes=5), skip=lambda slot: slot.minute == 0, group=GROUP)
        )  # on the hour the larger one covers it
        jobs.add(Job(TOP_200, sync.top_200, every=timedelta(hours=1), group=GROUP))
        jobs.add(Job("crypto.backfill", fill, every=timedelta(hours=1), group=HISTORY))
    half_an_hour = timedelta(minutes=30)
    jobs.add(Job("crypto.cleanup", without_run(history.expire), at=time(5, 45), timeout=half_an_hour, group=HISTORY))
    await listings.refresh()
    return sources.health
