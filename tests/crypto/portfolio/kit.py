"""History, risk and portfolios put together as the lifespan does it, with prices that a test owns."""

import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import httpx
from beanie import PydanticObjectId
from fastapi import FastAPI
from pymongo.asynchronous.database import AsyncDatabase

from app.core.client_address import ClientAddressResolver
from app.core.clock import Sequence as Numbers
from app.core.deps import KnownQuery, Registry
from app.core.errors import DomainError, UnauthorizedError
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import ALL_SCOPES, Authenticator, Principal, Role, Scope
from app.core.settings import Settings
from app.crypto.backfill import Backfill
from app.crypto.chart_service import PriceCharts
from app.crypto.history import CryptoHistory
from app.crypto.history_pages import HistoryPages
from app.crypto.history_reading import HistoryReading
from app.crypto.history_rows import HistoryRows
from app.crypto.holdings import Holdings
from app.crypto.naming import CoinNames
from app.crypto.portfolio_risk import PortfolioRisks
from app.crypto.ports import CoinListing, CoinPrice, PricePoint, Provider
from app.crypto.risk_service import CoinRisks
from app.crypto.router.history import router as history_router
from app.crypto.router.portfolio import router as portfolio_router
from app.crypto.router.risk import router as risk_router
from app.crypto.watchlists import Watchlists
from tests.support.clocks import StandingClock

Row = dict[str, Any]
Database = AsyncDatabase[Row]

COINS = "/api/v1/cryptocurrencies"
MINE = "/api/v1/crypto-portfolio"
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MIDNIGHT = NOON - timedelta(hours=12)
DAY, HOUR, FIVE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=5)


def price_of(slug: str, symbol: str, price: str, change: str | None = None, at: datetime = NOON) -> CoinPrice:
    return CoinPrice(
        slug,
        symbol,
        slug.replace("-", " ").title(),
        Decimal(price),
        Decimal(change) if change else None,
        at,
        Provider.COINGECKO,
    )


def listing_of(price: str | None, slug: str = "bitcoin", **figures: Any) -> CoinListing:
    return CoinListing(
        provider=Provider.COINGECKO,
        provider_id=slug,
        slug=slug,
        symbol=slug[:3].upper(),
        name=slug,
        price=Decimal(price) if price else None,
        **figures,
    )


def point(at: datetime, price: str | float | Decimal) -> PricePoint:
    return PricePoint(at, Decimal(str(price)), Decimal(1000), Decimal(10))


def walk(days: int, seed: int, *, start: float = 100.0, step: float = 0.03) -> list[float]:
    """A random walk of prices, one a day."""
    random, prices = Random(seed), [start]  # noqa: S311 (prices, no secrets)
    for _ in range(days - 1):
        prices.append(round(prices[-1] * (1 + random.gauss(0.0005, step)), 6))
    return prices


def daily(prices: Sequence[float], until: datetime = MIDNIGHT) -> list[PricePoint]:
    """Points of the days up to the one before `until`, oldest first."""
    first = until - len(prices) * DAY
    return [point(first + number * DAY, price) for number, price in enumerate(prices)]


class ListingHere:
    """The newest prices; see `naming.LiveListing`."""

    def __init__(self) -> None:
        self.prices: dict[str, CoinPrice] = {}
        self.cold: DomainError | None = None

    def put(self, *prices: CoinPrice) -> None:
        self.prices |= {price.slug: price for price in prices}

    async def newest(self) -> object:
        if self.cold:
            raise self.cold
        return self

    async def refresh(self) -> None:
        return

    def price(self, slug: str) -> CoinPrice | None:
        return self.prices.get(slug)

    def slug_of(self, symbol: str) -> str | None:
        """Of several coins with a symbol the one that was put first is the largest."""
        return next((one.slug for one in self.prices.values() if one.symbol == symbol.upper()), None)

    # see `backfill.ProviderIds`

    def largest(self, count: int) -> list[str]:
        return list(self.prices)[:count]

    def ids(self, slug: str) -> Mapping[str, str]:
        return {"coingecko": f"gecko-{slug}"} if slug in self.prices else {}


@dataclass
class Archive:
    """Older history, as a test wants it."""

    points: dict[str, list[PricePoint]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def history(self, provider_id: str, days: int) -> list[PricePoint]:
        assert 1 <= days <= 365
        self.asked.append(provider_id)
        if provider_id in self.failures:
            raise self.failures[provider_id]
        return self.points.get(provider_id, [])


class TwoPeople:
    """`ann` and `bob` may do everything, `reader` may only read, `alerts` has nothing to do here."""

    def __init__(self) -> None:
        self.ids = {name: PydanticObjectId() for name in ("ann", "bob")}

    async def authenticate(self, access_token: str) -> Principal:
        later = NOON + timedelta(days=3650)
        if access_token in self.ids:
            return Principal(self.ids[access_token], PydanticObjectId(), Role.USER, later)
        if access_token in {"reader", "alerts"}:
            scopes = {Scope.PORTFOLIO_READ} if access_token == "reader" else ALL_SCOPES - {Scope.PORTFOLIO_READ}
            return Principal(self.ids["ann"], PydanticObjectId(), Role.USER, later, frozenset(scopes), api_token=True)
        raise UnauthorizedError("No.")


@dataclass
class Desk:
    """History, risk and portfolios behind their endpoints, in this event loop."""

    db: Database
    clock: StandingClock
    listing: ListingHere
    archive: Archive
    rows: HistoryRows
    history: CryptoHistory
    reading: HistoryReading
    backfill: Backfill
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, who: str | None = None, status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that has to have `status`; numbers with a point as decimals."""
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        answer = await self.client.request(method, path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        return json.loads(answer.content, parse_float=Decimal) if answer.content else None

    async def get(self, path: str, who: str | None = None, status: int = 200, **query: Any) -> Any:
        return await self.ask("GET", path, who, status, params=query)

    async def pages(self, path: str, **query: Any) -> list[list[Row]]:
        """All pages of a list, by their cursors."""
        pages: list[list[Row]] = []
        cursor: str | None = None
        while True:
            answer = await self.client.get(path, params={**query, **({"cursor": cursor} if cursor else {})})
            assert answer.status_code == 200, answer.text
            pages.append(json.loads(answer.content, parse_float=Decimal))
            cursor = answer.headers.get("X-Next-Cursor")
            assert (cursor is None) == ("Link" not in answer.headers)
            if cursor is None:
                return pages
            assert len(pages) < 2000, "the list does not end"

    def another_history(self) -> CryptoHistory:
        """As another process of the service has it."""
        return CryptoHistory(rows=HistoryRows(self.db), clock=self.clock, retention_days=365, pause=0)

    def fresh_reading(self, retention_days: int = 365) -> HistoryReading:
        """As a process has it that has just begun."""
        return HistoryReading(rows=self.rows, clock=self.clock, retention_days=retention_days)


@asynccontextmanager
async def desk_of(db: Database, *, retention_days: int = 365) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already."""
    clock, listing, archive, rows = StandingClock(NOON), ListingHere(), Archive(), HistoryRows(db)
    names, numbers = CoinNames(listing), Numbers(clock)
    history = CryptoHistory(rows=rows, clock=clock, retention_days=retention_days, pause=0)
    reading = HistoryReading(rows=rows, clock=clock, retention_days=retention_days)
    backfill = Backfill(source=archive, ids=listing, history=history, reading=reading, clock=clock)
    risks = CoinRisks(reading=reading, names=names)
    holdings = Holdings(listing=listing, names=names, backfill=backfill, clock=clock, sequence=numbers)
    app = FastAPI()
    registry = app.state.registry = Registry()
    known: Row = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
    registry.provide(Settings, Settings(secret_key=secrets.token_hex(32), _env_file=None, **known))  # type: ignore[arg-type]
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, TwoPeople())  # type: ignore[type-abstract]
    registry.provide(HistoryPages, HistoryPages(reading=reading, names=names))
    registry.provide(PriceCharts, PriceCharts(reading=reading, names=names, clock=clock))
    registry.provide(CoinRisks, risks)
    registry.provide(Holdings, holdings)
    registry.provide(Watchlists, Watchlists(listing=listing, names=names, clock=clock, sequence=numbers))
    registry.provide(PortfolioRisks, PortfolioRisks(holdings=holdings, risks=risks))
    add_problem_handlers(app)
    for router in (history_router, risk_router, portfolio_router):
        app.include_router(router, dependencies=[KnownQuery])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
        yield Desk(db, clock, listing, archive, rows, history, reading, backfill, client)
