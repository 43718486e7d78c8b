"""Quotes and candles put together on a real database and a Yahoo on real sockets, at a time that tests own."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from beanie import PydanticObjectId
from fastapi import FastAPI

from app.core.cache import Cache
from app.core.client_address import ClientAddressResolver
from app.core.deps import KnownQuery, Registry
from app.core.errors import UnauthorizedError
from app.core.market_calendar import MarketCalendar
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import Authenticator, Principal, Role
from app.core.settings import Settings
from app.quotes.adapters.yahoo import Yahoo, YahooProcess
from app.quotes.adapters.yahoo.messages import Setup, Timeouts
from app.quotes.history import QuoteCandles
from app.quotes.newest import Quotes
from app.quotes.ports import HistorySource, SourceName
from app.quotes.reading import QuoteReading
from app.quotes.router import router
from app.quotes.sources import Sources
from app.quotes.store import CandleStore
from app.quotes.unused import UnusedSeries, UsedSymbols
from tests.simulators.yahoo import YahooSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

NOON = datetime(2026, 11, 19, 5, 32, 30, tzinfo=UTC)
"""Thursday, 11:02:30 in India; both exchanges there are open, and the American ones are not."""
PATIENT = Timeouts(10.0, 30.0, 50.0)
"""The simulator may stand still for a while."""
TOKEN = {"Authorization": "Bearer somebody"}


class Somebody:
    """Knows one token."""

    async def authenticate(self, access_token: str) -> Principal:
        if access_token != "somebody":
            raise UnauthorizedError("The token is not valid.")
        one = PydanticObjectId("66f000000000000000000001")
        return Principal(one, one, Role.USER, datetime(2200, 1, 1, tzinfo=UTC))


async def yahoo_of(
    process: YahooProcess, simulator: YahooSimulator, clock: StandingClock, folder: Path, timeouts: Timeouts = PATIENT
) -> Yahoo:
    """A client of the simulator, as of a program that has just begun."""
    await process.point(Setup(simulator.base_url, str(folder / "yahoo"), timeouts))
    return Yahoo(process, clock=clock, calendar=MarketCalendar(clock))


@dataclass
class Desk:
    """A process, as its clients see it, and what is behind it."""

    db: Db
    clock: StandingClock
    sources: Sources
    candles: QuoteCandles
    quotes: Quotes
    store: CandleStore
    client: httpx.AsyncClient

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON of a successful answer."""
        answer = await self.client.get(f"/api/market/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def sync(self, symbol: str, **query: Any) -> Any:
        answer = await self.client.post(f"/api/market/sync/{symbol}", params=query, headers=TOKEN)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def stored(self, series: str) -> list[dict[str, Any]]:
        """The rows of a series, the oldest first."""
        await self.candles.drain()
        return await self.db["quote_candles"].find({"series": series}).sort("start", 1).to_list()

    def pass_by(self, **amount: float) -> None:
        """Time goes by; what was kept in the cache is too old then."""
        self.clock.move(**amount)
        self.cache.clear()

    @property
    def cache(self) -> Cache:
        return self.candles._cache


@asynccontextmanager
async def desk_of(
    db: Db,
    clock: StandingClock,
    sources: Sequence[HistorySource],
    *,
    indian: SourceName = SourceName.YAHOO,
    used: UsedSymbols | None = None,
    most: int = 1_000,
) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already. `most` series are stored where `used` says
    what of them stays."""
    calendar, cache, store = MarketCalendar(clock), Cache(), CandleStore(db)
    asked = Sources(sources, clock, indian=indian)
    unused = UnusedSeries(store=store, used=used, clock=clock, days=30, most=most) if used else None
    candles = QuoteCandles(sources=asked, store=store, cache=cache, clock=clock, calendar=calendar, unused=unused)
    quotes = Quotes(sources=asked, store=store, cache=cache, clock=clock, calendar=calendar)
    app = FastAPI()
    registry = app.state.registry = Registry()
    known: dict[str, Any] = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
    registry.provide(Settings, Settings(secret_key=secrets.token_hex(32), _env_file=None, **known))
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, Somebody())  # type: ignore[type-abstract]
    registry.provide(QuoteReading, QuoteReading(quotes=quotes, candles=candles, clock=clock))
    add_problem_handlers(app)
    app.include_router(router, dependencies=[KnownQuery])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
        yield Desk(db, clock, asked, candles, quotes, store, client)
    await candles.close()
    await quotes.close()


def ago(clock: StandingClock, **amount: float) -> datetime:
    """Before the clock's time."""
    return clock.now() - timedelta(**amount)
