"""The listing put together as the lifespan does it, with a source of rows that a test owns."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import msgspec
from beanie import PydanticObjectId
from fastapi import FastAPI

from app.core.bus import Bus, NullTransport, Transport
from app.core.client_address import ClientAddressResolver
from app.core.clock import SystemClock
from app.core.deps import KnownQuery, Registry
from app.core.errors import DomainError, UnauthorizedError
from app.core.metrics import Metrics
from app.core.middleware import RequestContextMiddleware
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.scheduler import RunState, RunView, StartedRun
from app.core.security import Authenticator, Principal, Role
from app.core.settings import Settings
from app.crypto.errors import BudgetUsedError, UnreachableError
from app.crypto.generations import GenerationStore
from app.crypto.lane import ListingLane
from app.crypto.listing import Listings
from app.crypto.ports import Category, CategoryMembers, CoinListing, Fetched, Provider
from app.crypto.register import CoinRegister
from app.crypto.requested_sync import RequestedSync
from app.crypto.router.listing import router
from app.crypto.sync import CryptoSync
from app.crypto.top import TopLists

BASE = "/api/v1/cryptocurrencies"
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class SetClock(SystemClock):
    """A clock whose wall time and whose passing a test sets."""

    def __init__(self, moment: datetime = NOON) -> None:
        self.moment = moment
        self.passed = 0.0

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.passed

    def forward(self, step: timedelta) -> None:
        self.moment += step
        self.passed += step.total_seconds()


def gecko(slug: str, symbol: str = "", name: str = "", **figures: Any) -> CoinListing:
    """A row of CoinGecko's, where the id is the slug. Figures may be text."""
    return _row(Provider.COINGECKO, slug, slug, symbol, name, figures)


def cmc(number: int, slug: str, symbol: str = "", name: str = "", **figures: Any) -> CoinListing:
    """A row of CoinMarketCap's, where the id is a number."""
    return _row(Provider.COINMARKETCAP, str(number), slug, symbol, name, figures)


def _row(provider: Provider, id_: str, slug: str, symbol: str, name: str, figures: Mapping[str, Any]) -> CoinListing:
    exact = {
        key: Decimal(value) if isinstance(value, str) and key != "image" else value for key, value in figures.items()
    }
    return CoinListing(
        provider=provider,
        provider_id=id_,
        slug=slug,
        symbol=symbol or slug[:4].upper(),
        name=name or slug.replace("-", " ").title(),
        **exact,
    )


def ranked(rows: Sequence[CoinListing]) -> list[CoinListing]:
    """`rows` with ranks from 1, and a market capitalisation and a price where they have none."""
    return [
        msgspec.structs.replace(
            row,
            rank=place,
            market_cap=row.market_cap if row.market_cap is not None else Decimal(10_000_000 - place),
            price=row.price if row.price is not None else Decimal(1000 - place),
        )
        for place, row in enumerate(rows, 1)
    ]


COINS = ranked(
    [
        gecko("bitcoin", "BTC", price="67187.34", market_cap="1.3e12", volume_24h="3.1e10", price_change_24h="1.5"),
        gecko("ethereum", "ETH", price="3500", market_cap="4.2e11", volume_24h="1.5e10", price_change_24h="-2"),
        gecko("tether", "USDT", price="1", market_cap="1e11", volume_24h="5e10", price_change_24h="0"),
        gecko("bitcoin-cash", "BCH", price="400", market_cap="8e9", volume_24h="2e8", price_change_24h="7"),
        gecko("usd-coin", "USDC", price="1", market_cap="3e10", volume_24h="6e9"),
        gecko("shiba", "SHIB", price="1e-12", market_cap="1e10", volume_24h="500", price_change_24h="400"),
        gecko("ghost", "GHO", market_cap="5", price_change_24h="7"),
    ]
)


@dataclass
class RowSource:
    """Answers with what a test put into it, and counts."""

    rows: list[CoinListing] = field(default_factory=list)
    failure: DomainError | None = None
    failed_over: str | None = None
    seconds: float = 0.0
    asked: list[tuple[int, str | None]] = field(default_factory=list)

    async def fetch(self, limit: int, provider: str | None = None, *, on_demand: bool = False) -> Fetched:
        assert isinstance(on_demand, bool)
        self.asked.append((limit, provider))
        await asyncio.sleep(self.seconds)
        if self.failure:
            raise self.failure
        rows = self.rows[:limit]
        return Fetched(rows[0].provider if rows else Provider.COINGECKO, rows, 0, self.failed_over)


@dataclass
class PointsKept:
    """Keeps what the history is given."""

    points: list[tuple[datetime, str, CoinListing]] = field(default_factory=list)

    async def append(self, at: datetime, rows: Sequence[tuple[str, CoinListing]]) -> int:
        self.points += [(at, slug, row) for slug, row in rows]
        return len(rows)


class VendorsOwn:
    """CoinGecko's categories; `None`: it does not answer."""

    coins: dict[str, list[str]] | None

    def __init__(self) -> None:
        self.coins = {}
        self.used_up: set[str] = set()
        """Categories that nobody asked for before the calls of the day were made."""

    async def names(self) -> list[Category]:
        return [Category(slug, slug.title()) for slug in self._known()]

    async def members(self, slug: str) -> CategoryMembers | None:
        if slug in self.used_up:
            raise BudgetUsedError(Provider.COINGECKO, "categories of the day", retry_after=7200)
        ids = self._known().get(slug)
        return None if ids is None else CategoryMembers(ids, NOON)

    def _known(self) -> dict[str, list[str]]:
        if self.coins is None:
            raise UnreachableError(Provider.COINGECKO, "timeout")
        return self.coins


class SomeRun:
    """A run as the work of a job sees it."""

    def __init__(self, **arguments: Any) -> None:
        self.id, self.job, self.arguments = secrets.token_hex(12), "crypto.sync", arguments
        self.due: datetime | None = None
        self.told: list[tuple[int, int | None]] = []

    async def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        assert note
        self.told.append((done, total))


class RunsHere:
    """Runs syncs in this event loop, one at a time; the same one under way serves for both. See `runs.Runs`."""

    def __init__(self, sync: CryptoSync) -> None:
        self._sync = sync
        self._turn = asyncio.Lock()
        self._under_way: dict[bytes, str] = {}
        self._tasks: dict[str, asyncio.Task[RunView]] = {}

    async def start(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, requested_by: str | None = None
    ) -> StartedRun:
        key = msgspec.json.encode([name, arguments])
        if key in self._under_way:
            return StartedRun(self._under_way[key], joined=True)
        run = SomeRun(**(arguments or {}))
        self._under_way[key] = run.id
        self._tasks[run.id] = asyncio.create_task(self._run(run, requested_by, key))
        return StartedRun(run.id, joined=False)

    async def _run(self, run: SomeRun, requested_by: str | None, key: bytes) -> RunView:
        about: dict[str, Any] = {
            "id": run.id,
            "job": run.job,
            "requested_by": requested_by,
            "created_at": NOON,
            "seq": 1,
        }
        try:
            async with self._turn:
                result = await self._sync.sync(run)
            return RunView(state=RunState.SUCCEEDED, duration_ms=7, result=dict(result), **about)
        except DomainError as error:
            return RunView(state=RunState.FAILED, duration_ms=7, error=error.detail, **about)
        finally:
            del self._under_way[key]

    async def wait(self, run_id: str, seconds: float) -> RunView | None:
        task = self._tasks[run_id]
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
        return RunView(id=run_id, job="crypto.sync", state=RunState.RUNNING, created_at=NOON, seq=1)


class SomebodySignedIn:
    """Takes the token `good`."""

    async def authenticate(self, access_token: str) -> Principal:
        if access_token != "good":
            raise UnauthorizedError("No.")
        return Principal(PydanticObjectId(), PydanticObjectId(), Role.USER, NOON + timedelta(hours=1))


SIGNED_IN = {"Authorization": "Bearer good"}


@dataclass
class Room:
    """The listing behind its endpoints, in this event loop: what one process of the service has of it."""

    clock: SetClock
    source: RowSource
    history: PointsKept
    vendor: VendorsOwn
    bus: Bus
    store: GenerationStore
    register: CoinRegister
    sync: CryptoSync
    listings: Listings
    client: httpx.AsyncClient
    app: FastAPI

    async def synced(self, rows: Sequence[CoinListing], limit: int = 200) -> Mapping[str, Any]:
        """The result of a sync that brings `rows`; a millisecond passes."""
        self.clock.forward(timedelta(milliseconds=1))
        self.source.rows = list(rows)
        return await self.sync.sync(SomeRun(limit=limit))

    async def get(self, path: str = "/", **query: Any) -> Any:
        """The JSON of an answer that has to be 200, numbers with a point as decimals."""
        answer = await self.client.get(BASE + path, params=query)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.content, parse_float=Decimal)

    async def slugs(self, path: str = "/", **query: Any) -> list[str]:
        """The slugs of a list."""
        return [row["slug"] for row in await self.get(path, **query)]


def settings_of(**changes: Any) -> Settings:
    """Settings without limits."""
    known: dict[str, Any] = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000} | changes
    return Settings(secret_key=secrets.token_hex(32), _env_file=None, **known)


@asynccontextmanager
async def room_of(
    *,
    clock: SetClock | None = None,
    source: RowSource | None = None,
    transport: Transport | None = None,
    cold: bool = True,
    cold_seconds: float = 30.0,
    patience: float = 30.0,
    **settings: Any,
) -> AsyncIterator[Room]:
    """Put the room together; Beanie has to know the documents already."""
    clock, source, history, vendor = clock or SetClock(), source or RowSource(), PointsKept(), VendorsOwn()
    bus = Bus(transport or NullTransport())
    store, register = GenerationStore(), CoinRegister()
    sync = CryptoSync(source=source, store=store, register=register, history=history, bus=bus, clock=clock)
    runs = RunsHere(sync)
    known = settings_of(**settings)
    listings = Listings(
        store=store,
        register=register,
        bus=bus,
        clock=clock,
        cache_seconds=known.crypto_cache_seconds,
        runs=runs if cold else None,
        cold_seconds=cold_seconds,
    )
    await bus.start()
    app = FastAPI()
    registry = app.state.registry = Registry()
    registry.provide(Settings, known)
    registry.provide(RateLimiter, RateLimiter())
    addresses = registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, SomebodySignedIn())  # type: ignore[type-abstract]
    registry.provide(Listings, listings)
    registry.provide(TopLists, TopLists(listings, vendor))
    registry.provide(RequestedSync, RequestedSync(runs, store, patience))
    app.add_middleware(ListingLane)
    app.add_middleware(RequestContextMiddleware, metrics=Metrics(), addresses=addresses, hsts=False)
    add_problem_handlers(app)
    app.include_router(router, dependencies=[KnownQuery])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
        yield Room(clock, source, history, vendor, bus, store, register, sync, listings, client, app)
    await listings.close()
    await bus.stop()
