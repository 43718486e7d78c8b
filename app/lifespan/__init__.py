"""The composition root: everything is made here, in order, handed to whoever needs it, and closed in reverse."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from beanie import Document
from fastapi import FastAPI

from app import __version__
from app.alerts.models import DOCUMENTS as ALERT_DOCUMENTS
from app.audit.models import DOCUMENTS as AUDIT_DOCUMENTS
from app.auth.models import DOCUMENTS as AUTH_DOCUMENTS
from app.brokerage.accounts.models import DOCUMENTS as BROKER_ACCOUNT_DOCUMENTS
from app.brokerage.adapters.paper.models import DOCUMENTS as PAPER_DOCUMENTS
from app.brokerage.listing_models import DOCUMENTS as LISTING_DOCUMENTS
from app.brokerage.orders.models import DOCUMENTS as ORDER_DOCUMENTS
from app.brokerage.portfolio.models import DOCUMENTS as PORTFOLIO_DOCUMENTS
from app.brokerage.push.models import DOCUMENTS as PUSH_DOCUMENTS
from app.core.deps import Registry
from app.core.hub import Hub
from app.core.outbox import Channel
from app.core.settings import Settings
from app.crypto.models import DOCUMENTS as CRYPTO_DOCUMENTS
from app.crypto.portfolio_models import DOCUMENTS as CRYPTO_PORTFOLIO_DOCUMENTS
from app.job_runs.models import DOCUMENTS as JOB_DOCUMENTS
from app.lifespan.accounts import accounts
from app.lifespan.background import background
from app.lifespan.brokerage import brokerage
from app.lifespan.brokerage_orders import order_reading
from app.lifespan.crypto import crypto
from app.lifespan.features import features
from app.lifespan.generated_signals import generated_signals
from app.lifespan.ground import ground_floor
from app.lifespan.jobs import job_runs
from app.lifespan.market import Market
from app.lifespan.predictions import predictions
from app.lifespan.quotes import quotes
from app.lifespan.signals import signals
from app.mail.models import DOCUMENTS as MAIL_DOCUMENTS
from app.market_data.models import DOCUMENTS as MARKET_DOCUMENTS
from app.predictions.models import DOCUMENTS as PREDICTION_DOCUMENTS
from app.quotes.models import DOCUMENTS as QUOTE_DOCUMENTS
from app.signals.generated_models import DOCUMENTS as GENERATED_SIGNAL_DOCUMENTS
from app.signals.user_models import DOCUMENTS as USER_SIGNAL_DOCUMENTS

log = structlog.get_logger("arrow")

DOCUMENTS: list[type[Document]] = [
    *AUTH_DOCUMENTS,
    *ALERT_DOCUMENTS,
    *AUDIT_DOCUMENTS,
    *MAIL_DOCUMENTS,
    *MARKET_DOCUMENTS,
    *JOB_DOCUMENTS,
    *CRYPTO_DOCUMENTS,
    *CRYPTO_PORTFOLIO_DOCUMENTS,
    *USER_SIGNAL_DOCUMENTS,
    *QUOTE_DOCUMENTS,
    *GENERATED_SIGNAL_DOCUMENTS,
    *PREDICTION_DOCUMENTS,
    *BROKER_ACCOUNT_DOCUMENTS,
    *LISTING_DOCUMENTS,
    *ORDER_DOCUMENTS,
    *PAPER_DOCUMENTS,
    *PORTFOLIO_DOCUMENTS,
    *PUSH_DOCUMENTS,
]
"""Every document of every feature."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Everything that the application needs, for as long as it runs; see `Registry` for what endpoints get."""
    async with composed(app.state.registry):
        yield


@asynccontextmanager
async def composed(registry: Registry, *, guest: bool = False) -> AsyncIterator[None]:
    """Make the services, run the background tasks, and close all in reverse.

    `guest`: in a program beside the service, a worker of jobs, which keeps no database running for others.
    """
    settings = registry.get(Settings)
    for doubt in settings.doubts():
        log.warning("doubtful setting", about=doubt)
    async with AsyncExitStack() as stack:
        ground = await ground_floor(settings, DOCUMENTS, stack, guest=guest)
        people = accounts(registry, settings, ground)
        await people.audit.complete()
        hub = Hub(ground.clock)
        jobs = job_runs(registry, settings, ground, hub)
        market = Market(registry, settings, ground, hub, people.audit)
        await market.load()
        orders = order_reading(registry, ground, market.calendar)
        features(
            registry,
            settings,
            ground,
            people,
            hub,
            replays={Channel.ORDERS: orders},
            snapshots={Channel.TICKS: market.snapshot},
        )
        shown = quotes(registry, settings, ground, market, jobs, stack)
        generated_signals(registry, settings, ground, hub, jobs, shown.candles, market)
        probes = {
            **brokerage(registry, settings, ground, people, hub, jobs, market, shown.newest, stack),
            "quotes": shown.health,
            "predictions": predictions(registry, settings, ground, jobs, shown.candles, market.calendar, stack),
            "crypto": await crypto(registry, settings, ground, jobs, stack),
            "signals": signals(registry, settings, ground, people, hub, market),
        }
        background(registry, settings, ground, people, market, jobs, probes, stack)
        log.info("started", version=__version__, environment=settings.environment, database=ground.database.mode)
        yield
        log.info("stopping")
