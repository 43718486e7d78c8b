"""The providers as the settings have them, put together."""

import ssl
from typing import Any, Final

from pymongo.asynchronous.database import AsyncDatabase

from app.core.clock import Clock
from app.core.settings import Settings
from app.crypto.adapters.coingecko import CoinGecko
from app.crypto.adapters.coinmarketcap import CoinMarketCap
from app.crypto.adapters.wire import Timeouts
from app.crypto.budget import Plan
from app.crypto.gate import Gate
from app.crypto.ports import Provider
from app.crypto.sources import ListingSources, Source

SCHEDULED_PER_DAY: Final = 24 * 12
"""Calls of the periodic syncs: every five minutes, on the hour the larger one instead."""


def listing_sources(
    settings: Settings,
    db: AsyncDatabase[dict[str, Any]],
    clock: Clock,
    *,
    tls: ssl.SSLContext | None = None,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 (a constant)
) -> ListingSources:
    """CoinGecko, and CoinMarketCap if it has a key; whoever makes them closes them. Nothing is sent yet.

    `tls`: whom to trust, by default the system's authorities.
    """
    scheduled = SCHEDULED_PER_DAY if settings.crypto_sync_enabled else 0
    gecko = CoinGecko(settings.coingecko_base_url, settings.coingecko_api_key, clock, tls=tls, timeouts=timeouts)
    plan = Plan(
        settings.coingecko_calls_per_minute,
        settings.coingecko_calls_per_month,
        scheduled,
        settings.coingecko_category_calls_per_day,
    )
    sources = [Source(gecko, Gate(db, clock, Provider.COINGECKO, plan))]
    if settings.coinmarketcap_api_key:
        second = CoinMarketCap(
            settings.coinmarketcap_base_url, settings.coinmarketcap_api_key, clock, tls=tls, timeouts=timeouts
        )
        plan = Plan(settings.coinmarketcap_calls_per_minute, settings.coinmarketcap_calls_per_month, scheduled)
        sources.append(Source(second, Gate(db, clock, Provider.COINMARKETCAP, plan)))
    return ListingSources(sources, archive=gecko)
