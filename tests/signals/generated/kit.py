"""Candles that tests own, and generated signals put together as the lifespan does it."""

import json
import math
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import bokeh_sampledata.stocks
import httpx
from beanie import PydanticObjectId
from fastapi import FastAPI

from app.core.bus import Bus, NullTransport
from app.core.cache import Cache
from app.core.candles import CandleSeries
from app.core.charges import ChargeEngine
from app.core.client_address import ClientAddressResolver
from app.core.clock import Sequence as Numbers
from app.core.deps import KnownQuery, Registry
from app.core.errors import InvalidInputError, NotFoundError, UnauthorizedError
from app.core.events import SignalMade
from app.core.market_calendar import MarketCalendar
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import ALL_SCOPES, Authenticator, Principal, Role, Scope
from app.core.settings import Settings
from app.signals.analyses import Analyses
from app.signals.generate import SignalGenerator
from app.signals.generated_reading import GeneratedSignals
from app.signals.indicator_reading import IndicatorReading
from app.signals.router import generated, indicators
from app.signals.signal_chart_service import SignalCharts
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

Row = dict[str, Any]
Candle = tuple[datetime, float, float, float, float, float]
NOON = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 in India, a Friday."""
ENGINE = ChargeEngine()


def series(
    rows: Sequence[Candle], symbol: str = "RELIANCE.NS", timeframe: str = "1D", currency: str | None = "INR"
) -> CandleSeries:
    """Candles as the feature gets them."""
    start, *prices = zip(*rows, strict=True) if rows else ([], *[()] * 5)
    opens, high, low, close, volume = (tuple(part) for part in prices)
    return CandleSeries(
        symbol, timeframe, start, opens, high, low, close, volume, True, "yahoo", NOON, False, currency
    )  # fmt: skip


def days(count: int, last: datetime = datetime(2026, 11, 19, 3, 45, tzinfo=UTC)) -> list[datetime]:
    """The openings of so many weekdays."""
    found: list[datetime] = []
    while len(found) < count:
        if last.weekday() < 5:
            found.append(last)
        last -= timedelta(days=1)
    return found[::-1]


def quarters(count: int) -> list[datetime]:
    """The beginnings of so many candles of 15 minutes, 25 a day."""
    return [day + place * timedelta(minutes=15) for day in days(-(-count // 25)) for place in range(25)][-count:]


def walk(starts: Sequence[datetime], *, seed: int = 1, price: float = 1400.0, keep: float = 0.0) -> list[Candle]:
    """A random walk; with `keep` a drift that lasts and turns every sixty candles or so: a trend."""
    chance = random.Random(seed)  # noqa: S311 (prices, not secrets)
    rows, drift = [], keep
    for start in starts:
        drift = -drift if chance.random() < 1 / 60 else drift
        opens = price * math.exp(chance.gauss(0, 0.002))
        price = opens * math.exp(chance.gauss(drift, 0.01))
        high = max(opens, price) * (1 + abs(chance.gauss(0, 0.003)))
        low = min(opens, price) * (1 - abs(chance.gauss(0, 0.003)))
        rows.append((start, opens, high, low, price, float(chance.randrange(10_000, 9_000_000))))
    return rows


def real(name: str = "AAPL", count: int = 1500) -> list[Candle]:
    """Real candles, adjusted, on the newest weekdays."""
    sample: Row = getattr(bokeh_sampledata.stocks, name)
    rows = []
    for place, start in zip(range(-count, 0), days(count), strict=True):
        factor = sample["adj_close"][place] / sample["close"][place]
        opens, high, low, close = (sample[part][place] * factor for part in ("open", "high", "low", "close"))
        rows.append(
            (start, opens, max(high, opens, close), min(low, opens, close), close, sample["volume"][place] + 0.0)
        )
    return rows


@dataclass
class Prices:
    """Fills the port `CandleHistory`."""

    rows: dict[tuple[str, str], list[Candle]] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    adjusted: bool = True

    async def candles(self, symbol: str, timeframe: str, bars: int) -> CandleSeries:
        self.asked.append((symbol, timeframe, bars))
        for name in names_of(symbol):
            if (name, timeframe) in self.rows:
                found = self.rows[name, timeframe][-bars:]
                made = series(found, name, timeframe, "INR" if name.endswith(".NS") or name[0] == "^" else "USD")
                return made if self.adjusted else made._replace(source="angel_one", adjusted=False)
        raise NotFoundError(f"There is no {symbol}.")


def names_of(symbol: str) -> list[str]:
    """Fills the port `SymbolNames`."""
    if not symbol.strip() or "$" in symbol:
        raise InvalidInputError("path.symbol: This is not a symbol.")
    name = symbol.strip().upper()
    known = {"NIFTY50": "^NSEI"}.get(name)
    if known or name[0] == "^" or "." in name:
        return [known or name]
    return [f"{name}.NS", name]


class People:
    """`ann` may do everything, `reader` may read signals."""

    async def authenticate(self, access_token: str) -> Principal:
        later, one = NOON + timedelta(days=3650), PydanticObjectId("66f000000000000000000001")
        if access_token == "ann":
            return Principal(one, one, Role.USER, later)
        if access_token in {"reader", "writer"}:
            scopes = {Scope.SIGNALS_READ} if access_token == "reader" else ALL_SCOPES
            return Principal(one, one, Role.USER, later, frozenset(scopes), api_token=True)
        raise UnauthorizedError("No.")


@dataclass
class Desk:
    """Generated signals behind their endpoints."""

    db: Db
    clock: StandingClock
    prices: Prices
    cache: Cache
    bus: Bus
    analyses: Analyses
    generator: SignalGenerator
    calendar: MarketCalendar
    client: httpx.AsyncClient
    events: list[SignalMade]

    async def ask(self, method: str, path: str, status: int = 200, who: str | None = None, **options: Any) -> Any:
        """The JSON of an answer that has to have `status`."""
        answer = await self.answer(method, path, status, who, **options)
        return json.loads(answer.content)

    async def answer(
        self, method: str, path: str, status: int = 200, who: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        answer = await self.client.request(method, path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        return answer

    async def generate(self, symbol: str = "RELIANCE", timeframe: str = "1D") -> Row:
        made: Row = await self.ask("POST", f"/api/signals/generate/{symbol}?timeframe={timeframe}", who="ann")
        return made

    async def stored(self) -> int:
        return await self.db["trading_signals"].count_documents({})


@asynccontextmanager
async def desk_of(db: Db) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already."""
    clock, bus, prices, cache = StandingClock(NOON), Bus(NullTransport()), Prices(), Cache()
    events: list[SignalMade] = []
    bus.subscribe(SignalMade, events.append)
    analyses = Analyses(candles=prices, charges=ENGINE, cache=cache)
    generator = SignalGenerator(analyses=analyses, cache=cache, bus=bus, clock=clock, sequence=Numbers(clock))
    app = FastAPI()
    registry = app.state.registry = Registry()
    known: Row = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
    registry.provide(Settings, Settings(secret_key=secrets.token_hex(32), _env_file=None, **known))
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, People())  # type: ignore[type-abstract]
    registry.provide(SignalGenerator, generator)
    registry.provide(GeneratedSignals, GeneratedSignals(names=names_of, clock=clock))
    registry.provide(IndicatorReading, IndicatorReading(candles=prices, cache=cache))
    registry.provide(SignalCharts, SignalCharts(analyses))
    add_problem_handlers(app)
    for router in (generated.router, indicators.router):
        app.include_router(router, dependencies=[KnownQuery])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
        yield Desk(db, clock, prices, cache, bus, analyses, generator, MarketCalendar(clock), client, events)
