"""Market data as it is stored, written as documents; and the reads put together as the lifespan does it."""

import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any

import httpx
from bson import ObjectId
from fastapi import FastAPI
from pymongo.asynchronous.database import AsyncDatabase

from app.core.bus import Bus, NullTransport
from app.core.client_address import ClientAddressResolver
from app.core.clock import SystemClock
from app.core.deps import Registry
from app.core.hub import Hub
from app.core.market_calendar import MarketCalendar
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings
from app.market_data.candle_reading import CandleReading
from app.market_data.chart_service import MarketCharts
from app.market_data.market_status import MarketHours
from app.market_data.ports import Instrument, Tick, Timeframe
from app.market_data.reading import MarketReading
from app.market_data.router import routers
from app.market_data.rows import to_ms
from app.market_data.stream import TickStream

Row = dict[str, Any]
Database = AsyncDatabase[Row]

BASE = "/api/v1/market-data"
SUNDAY = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
"""When the tests take place: the market is closed, the last session was on Friday."""
FRIDAY_OPEN = datetime(2026, 11, 20, 3, 45, tzinfo=UTC)
SESSION = timedelta(hours=6, minutes=15)


class SetClock(SystemClock):
    """A clock that a test sets.

    What measures time stands still: what is read here does not depend on how busy the machine is.
    """

    def __init__(self, moment: datetime = SUNDAY) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return 0.0


def tick_row(symbol: str, at: datetime, price: float = 100.0, **fields: Any) -> Row:
    """A row of `market_data`."""
    return {
        "_id": ObjectId(),
        "schema_version": 1,
        "tk": "1",
        "symbol": symbol,
        "exchange": "NSE",
        "ltpc": price,
        "exchange_type": 1,
        "token": "1",
        "instrument_type": "INDEX",
        "received_at": at,
        "ingested_at": at + timedelta(milliseconds=12),
        "source": "angel_one",
        "processed": False,
        "raw_data": {"exchange_time": to_ms(at), "sequence": 5_000_000_000},
        "data_quality": "good",
        "is_realtime": True,
        **fields,
    }


def latest_row(rows: list[Row]) -> Row:
    """The row of `market_latest` that tells of `rows`, which are of one symbol."""
    newest = max(rows, key=lambda row: row["received_at"])
    by_quality: dict[str, int] = {}
    by_source: dict[str, int] = {}
    for row in rows:
        by_quality[row["data_quality"]] = by_quality.get(row["data_quality"], 0) + 1
        by_source[row["source"]] = by_source.get(row["source"], 0) + 1
    return {
        "_id": newest["symbol"],
        "schema_version": 1,
        "token": newest["token"],
        "exchange": newest["exchange"],
        "exchange_type": newest["exchange_type"],
        "tick": newest,
        "received_at": newest["received_at"],
        "first_at": min(row["received_at"] for row in rows),
        "stored": len(rows),
        "by_quality": by_quality,
        "by_source": by_source,
    }


def candle_row(symbol: str, timeframe: Timeframe, start: datetime, end: datetime, price: float, **fields: Any) -> Row:
    """A row of `candles`."""
    return {
        "_id": f"{symbol}|{timeframe}|{round(start.timestamp() * 1000)}",
        "schema_version": 1,
        "symbol": symbol,
        "timeframe": str(timeframe),
        "start": start,
        "end": end,
        "open": price,
        "high": price + 4,
        "low": price - 3,
        "close": price + 1.5,
        "volume": 1000,
        "ticks": 60,
        "revision": 0,
        "source": "ticks",
        "closed": True,
        **fields,
    }


async def store(db: Database, rows: Iterable[Row]) -> None:
    """Write ticks, and what tells of them."""
    rows = list(rows)
    await db["market_data"].insert_many(rows, ordered=False)
    for symbol in {row["symbol"] for row in rows}:
        await db["market_latest"].insert_one(latest_row([row for row in rows if row["symbol"] == symbol]))


def walk(symbol: str, start: datetime, end: datetime, step: timedelta, seed: int, **fields: Any) -> list[Row]:
    """Ticks of a random walk from `start` to `end`, about one each `step`, at whole milliseconds, none twice."""
    random, rows, price, moment = Random(seed), [], 24_000.0, start  # noqa: S311 (prices, no secrets)
    while moment < end:
        price = round(price + random.gauss(0, 2), 2)
        rows.append(tick_row(symbol, moment, price, **fields))
        moment += max(step * random.expovariate(1), timedelta(milliseconds=1))
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    return rows


_NUMBERS = count(1)


def live_tick(symbol: str, ms: int, price: float = 100.0, **fields: Any) -> Tick:
    """A tick on its way, as the pipeline hands it on."""
    instrument = Instrument(symbol, f"9{abs(hash(symbol)) % 10_000}", "NSE", 1, "INDEX")
    fields = {"digest": next(_NUMBERS), "received_ms": ms} | fields
    return Tick(instrument=instrument, exchange_ms=ms, arrival_ms=ms + 5, price=round(price * 100), **fields)


@dataclass
class Reads:
    """The reads of market data behind their endpoints, in this event loop."""

    db: Database
    clock: SetClock
    calendar: MarketCalendar
    hub: Hub
    bus: Bus
    stream: TickStream
    reading: MarketReading
    candles: CandleReading
    client: httpx.AsyncClient

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of an answer that has to be 200."""
        answer = await self.client.get(BASE + path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, path: str, status: int, **query: Any) -> Any:
        """The problem document of an answer that has to be `status`."""
        answer = await self.client.get(BASE + path, params=query)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.json()

    async def pages(self, path: str, **query: Any) -> list[list[Row]]:
        """All pages of a list, by their cursors."""
        pages, cursor = list[list[Row]](), None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            answer = await self.client.get(BASE + path, params={**query, **more})
            assert answer.status_code == 200, answer.text
            pages.append(answer.json())
            cursor = answer.headers.get("X-Next-Cursor")
            assert (cursor is None) == ("Link" not in answer.headers)
            if cursor is None:
                return pages
            assert len(pages) < 5000, "the list does not end"


@asynccontextmanager
async def reads_of(db: Database, clock: SetClock, settings: Settings | None = None) -> AsyncIterator[Reads]:
    """Put the reads together on `db`."""
    calendar, hub, bus = MarketCalendar(clock), Hub(clock), Bus(NullTransport())
    await bus.start()
    stream = TickStream(hub=hub, bus=bus, clock=clock)
    reading = MarketReading(clock=clock, calendar=calendar, stream=stream, snapshot_seconds=0)
    candles = CandleReading(clock=clock, calendar=calendar, reading=reading)
    app = FastAPI()
    registry = app.state.registry = Registry()
    registry.provide(
        Settings,
        settings or Settings(secret_key=secrets.token_hex(32), rate_limit_per_minute=1_000_000, _env_file=None),  # type: ignore[call-arg]
    )
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(MarketReading, reading)
    registry.provide(CandleReading, candles)
    registry.provide(MarketCharts, MarketCharts(candles=candles, calendar=calendar))
    registry.provide(MarketHours, MarketHours(clock=clock, calendar=calendar))
    add_problem_handlers(app)
    for router in routers:
        app.include_router(router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://arrow.test") as client:
        yield Reads(db, clock, calendar, hub, bus, stream, reading, candles, client)
    stream.close()
    await bus.stop()
