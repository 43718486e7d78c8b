#!/usr/bin/env python3
"""What a page of a coin's price history costs as history grows: `python scripts/bench_crypto_history.py`.

Starts an embedded database of its own, writes histories of 10,000 and of 100,000 points there (20 and 200 coins, fresh
rows and packed buckets), and prints the median time of the same questions to both, asked by turns, beside a bare
look-up of one document; then what writing one sync of 200 coins costs.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog
from beanie import init_beanie
from pymongo import AsyncMongoClient

from app.core.clock import SystemClock
from app.core.embedded import EmbeddedDatabase
from app.crypto.history import CryptoHistory
from app.crypto.history_reading import HistoryReading
from app.crypto.history_rows import HistoryRows, fresh_row
from app.crypto.history_slots import DAY, HOUR, Interval, floor
from app.crypto.portfolio_models import DOCUMENTS
from app.crypto.ports import CoinListing, PricePoint, Provider

COINS = [f"coin-{number}" for number in range(200)]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SIZES = (10_000, 100_000)
ROUNDS = 15
RANDOM = Random(1)  # noqa: S311 (prices, no secrets)


class Noon(SystemClock):
    """It is always noon."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return NOON


def point(at: datetime) -> PricePoint:
    """A point like a provider's."""
    numbers = (RANDOM.uniform(1, 1e5), RANDOM.uniform(1e9, 1e12), RANDOM.uniform(1e6, 1e10))
    return PricePoint(at, *(Decimal(repr(number)) for number in numbers))


def listing(slug: str) -> CoinListing:
    """A row like a provider's."""
    _, price, cap, volume = point(NOON)
    return CoinListing(
        provider=Provider.COINGECKO,
        provider_id=slug,
        slug=slug,
        symbol=slug.upper(),
        name=slug,
        price=price,
        market_cap=cap,
        volume_24h=volume,
    )


async def fill(rows: HistoryRows, coins: list[str]) -> None:
    """A day of fresh points, 29 days of hours and 69 days of these coins: 500 points of each in three series."""
    today = floor(NOON, DAY)
    await rows.note_day(today)
    for slug in coins:
        fine = [point(today + number * timedelta(minutes=5)) for number in range(144)]
        await rows.insert([fresh_row(slug, Interval.M5, one) for one in fine])
        await rows.insert([fresh_row(slug, Interval.H1, one) for one in fine[::12]])
        hours = [point(today - number * HOUR) for number in range(1, 276)]
        await rows.pack(slug, Interval.H1, hours)
        await rows.pack(slug, Interval.D1, [point(today - number * DAY) for number in range(1, 70)])


async def taken_ms(ask: Callable[[str], Awaitable[Any]], coins: list[str]) -> float:
    """How long a question about some coin takes, in milliseconds."""
    slug = RANDOM.choice(coins)
    began = time.perf_counter()
    await ask(slug)
    return (time.perf_counter() - began) * 1000


def questions(rows: HistoryRows, reading: HistoryReading) -> dict[str, Callable[[str], Awaitable[Any]]]:
    """What is asked."""
    return {
        "one document by its id": lambda slug: rows.fresh.find_one({"_id": f"{slug}|5m|0"}),
        "page of 50, auto": lambda slug: reading.page(slug, None, None, None, 50),
        "page of 50, 1h": lambda slug: reading.page(slug, Interval.H1, None, None, 50),
        "page of 50, 1d": lambda slug: reading.page(slug, Interval.D1, None, None, 50),
        "all daily points": lambda slug: reading.points(slug, None, None, Interval.D1),
        "chart of 31 days": lambda slug: reading.points(slug, NOON - 31 * DAY, None),
    }


async def main() -> None:
    """Measure and print."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory() as folder:
        embedded = EmbeddedDatabase(Path(folder), role="tool")
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            await embedded.start(), tz_aware=True, w="majority", journal=True, maxPoolSize=4
        )
        rows = HistoryRows(client["bench"])
        asked, found = [], defaultdict[str, list[list[float]]](lambda: [[], []])
        for size in SIZES:
            db, coins = client[f"bench_{size}"], COINS[: size // 500]
            await init_beanie(db, document_models=DOCUMENTS)
            rows = HistoryRows(db)
            reading = HistoryReading(rows=rows, clock=Noon(), retention_days=365)
            await fill(rows, coins)
            asked.append((questions(rows, reading), coins))
        # By turns: whatever else the machine does, it does to both.
        for _ in range(ROUNDS):
            for name in asked[0][0]:
                for place, (ask, coins) in enumerate(asked):
                    found[name][place].append(await taken_ms(ask[name], coins))
        print(f"{'':26}{SIZES[0]:>10,}{SIZES[1]:>12,} points")
        for name, (few, many) in ((name, map(statistics.median, each)) for name, each in found.items()):
            print(f"{name:26}{few:>8.1f} ms{many:>9.1f} ms   x {many / few:.2f}")
        history = CryptoHistory(rows=rows, clock=Noon(), retention_days=365)
        began = time.perf_counter()
        new = await history.append(NOON + HOUR, [(slug, listing(slug)) for slug in COINS])
        print(f"\na sync of {new} coins is written in {(time.perf_counter() - began) * 1000:.0f} ms")
        await client.close()
        await embedded.stop()


if __name__ == "__main__":
    asyncio.run(main())
