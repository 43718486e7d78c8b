"""Users' signals put together as the lifespan does it, with prices that a test owns."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
from beanie import PydanticObjectId
from fastapi import FastAPI

from app.core.audit import Act
from app.core.bus import Bus, NullTransport
from app.core.cancelling import end
from app.core.client_address import ClientAddressResolver
from app.core.clock import Sequence as Numbers
from app.core.deps import KnownQuery, Registry
from app.core.errors import UnauthorizedError, UnavailableError
from app.core.events import SignalChanged, TickNotice
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import ALL_SCOPES, Authenticator, Principal, Role, Scope
from app.core.settings import Settings
from app.market_data.wire import encoded, tick_of_row
from app.signals.completion import SignalCompletion
from app.signals.look_back import LookBack
from app.signals.ports import PriceBar
from app.signals.price_names import PriceNames, as_written
from app.signals.router.user_signals import router
from app.signals.user_signals import UserSignals
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

Row = dict[str, Any]
PATH = "/api/v1/signals/"
NOON = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 in India, a Friday."""
MINUTE = timedelta(minutes=1)


def given(**values: Any) -> Row:
    """A valid body."""
    return {
        "symbol": "NIFTY 50",
        "signal_type": "BUY",
        "entry_price": 100,
        "target_price": 110,
        "stop_loss": 95,
        "quantity": 75,
        "confidence": 70,
    } | values


def tick(
    price: float, at: datetime, symbol: str = "NIFTY 50", *, quality: str = "good", late: bool = False
) -> TickNotice:
    """As the feed's process puts it on the bus."""
    row = {"symbol": symbol, "ltpc": price, "data_quality": quality, "received_at": at, "is_realtime": True}
    ms = int(at.timestamp() * 1000)
    return TickNotice(symbol, ms, ms * 1000, encoded(tick_of_row(row, after_hours=late)))


def bar(start: datetime, open_: str, high: str, low: str) -> PriceBar:
    return PriceBar(start, Decimal(open_), Decimal(high), Decimal(low))


class Trail:
    """Fills the port `AuditTrail`."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    async def record(self, act: Act) -> None:
        self.acts.append(act)

    async def note(self, act: Act) -> None:
        self.acts.append(act)


@dataclass
class Candles:
    """Fills the port `PriceHistory`."""

    rows: dict[str, list[PriceBar]] = field(default_factory=dict)
    asked: list[tuple[str, datetime, datetime]] = field(default_factory=list)
    away: bool = False

    async def bars(self, symbol: str, start: datetime, end: datetime) -> Sequence[PriceBar]:
        assert end - start <= timedelta(days=7)
        self.asked.append((symbol, start, end))
        if self.away:
            raise UnavailableError("Not now.")
        return [row for row in self.rows.get(symbol, []) if start <= row.start < end]


class TwoPeople:
    """`ann` and `bob` may do everything, `reader` may only read Ann's, `alerts` has nothing to do here."""

    def __init__(self) -> None:
        # An account's id says when it was made: its lists go back to that.
        made = f"{int(NOON.timestamp()):08x}"
        self.ids = {name: PydanticObjectId(made + secrets.token_hex(8)) for name in ("ann", "bob")}

    async def authenticate(self, access_token: str) -> Principal:
        later = NOON + timedelta(days=3650)
        if access_token in self.ids:
            return Principal(self.ids[access_token], PydanticObjectId(), Role.USER, later)
        if access_token in {"reader", "alerts"}:
            scopes = {Scope.SIGNALS_READ} if access_token == "reader" else ALL_SCOPES - {Scope.SIGNALS_READ}
            return Principal(self.ids["ann"], PydanticObjectId(), Role.USER, later, frozenset(scopes), api_token=True)
        raise UnauthorizedError("No.")


@dataclass
class Desk:
    """Users' signals behind their endpoints, and what completes them, in this event loop."""

    db: Db
    clock: StandingClock
    people: TwoPeople
    bus: Bus
    trail: Trail
    candles: Candles
    client: httpx.AsyncClient
    events: list[SignalChanged]

    async def ask(self, method: str, path: str = "", who: str | None = "ann", status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that has to have `status`; numbers with a point as decimals."""
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        answer = await self.client.request(method, PATH + path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        return json.loads(answer.content, parse_float=Decimal) if answer.content else None

    async def enter(self, who: str = "ann", **values: Any) -> Row:
        """A new signal."""
        made: Row = await self.ask("POST", who=who, status=201, json=given(**values))
        return made

    async def read(self, signal: Row, who: str = "ann") -> Row:
        found: Row = await self.ask("GET", signal["id"], who)
        return found

    def told(self) -> list[tuple[str, str]]:
        """What the bus was told: the change, and the id."""
        return [(json.loads(event.body)["change"], event.signal_id) for event in self.events]

    def completion(
        self, bus: Bus | None = None, check_seconds: float = 3600, names: PriceNames = as_written
    ) -> SignalCompletion:
        """As a process has it that has just begun."""
        return SignalCompletion(
            bus=bus or self.bus,
            clock=self.clock,
            sequence=Numbers(self.clock),
            audit=self.trail,
            past=LookBack(history=self.candles, clock=self.clock),
            names=names,
            check_seconds=check_seconds,
        )

    @asynccontextmanager
    async def completing(self, bus: Bus | None = None, **options: Any) -> AsyncIterator[SignalCompletion]:
        """One that runs, and has read what is stored."""
        made = self.completion(bus, **options)
        active = await self.db["signals"].count_documents({"status": "ACTIVE"})
        task = asyncio.create_task(made.run())
        try:
            await until(
                lambda: task.done() or made.health()["following"] + made.health()["completed"] >= min(active, 1)
            )
            assert not task.done()
            yield made
        finally:
            await end([task])
            assert task.cancelled()


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def desk_of(db: Db) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already."""
    clock, people, bus, trail = StandingClock(NOON), TwoPeople(), Bus(NullTransport()), Trail()
    clock.move(seconds=1)
    events: list[SignalChanged] = []
    bus.subscribe(SignalChanged, events.append)
    app = FastAPI()
    registry = app.state.registry = Registry()
    known: Row = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
    registry.provide(Settings, Settings(secret_key=secrets.token_hex(32), _env_file=None, **known))
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, people)  # type: ignore[type-abstract]
    registry.provide(UserSignals, UserSignals(bus=bus, clock=clock, sequence=Numbers(clock), audit=trail))
    add_problem_handlers(app)
    app.include_router(router, dependencies=[KnownQuery])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
        yield Desk(db, clock, people, bus, trail, Candles(), client, events)
