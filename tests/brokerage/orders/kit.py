"""Orders put together as the lifespan does it, with a simulated Zerodha and a clock that a test owns."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
from beanie import PydanticObjectId
from fastapi import FastAPI
from pymongo.errors import PyMongoError

from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.orders.budget import OrderBudget
from app.brokerage.orders.changing import Changing
from app.brokerage.orders.checks import OrderLimits
from app.brokerage.orders.guarding import OrderGuard
from app.brokerage.orders.ledger import Ledger
from app.brokerage.orders.merging import Timing
from app.brokerage.orders.news import OrdersHeard
from app.brokerage.orders.placing import Placing
from app.brokerage.orders.polling import OrderPolling
from app.brokerage.orders.reading import OrderReading
from app.brokerage.orders.reconciliation import Reconciliation
from app.brokerage.orders.router import router
from app.brokerage.ports import Broker
from app.brokerage.words import BrokerName
from app.core.audit import Act
from app.core.bus import Bus, NullTransport
from app.core.client_address import ClientAddressResolver
from app.core.clock import Sequence as Numbers
from app.core.deps import KnownQuery, Registry
from app.core.errors import UnauthorizedError, UnavailableError
from app.core.events import OrderChanged
from app.core.market_calendar import MarketCalendar
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import ALL_SCOPES, Authenticator, Principal, Role, Scope
from app.core.settings import Settings
from tests.brokerage.orders.parts import FixedListings, FixedPrices, FixedSessions, KeptFills
from tests.brokerage.patience import TIMEOUTS
from tests.simulators.brokers.book import Order as Booked
from tests.simulators.brokers.kite.simulator import KiteSimulator
from tests.support.clocks import StandingClock
from tests.support.http import NO_TLS
from tests.support.mongodb import Db

Row = dict[str, Any]
PATH = "/api/v1/dashboard/"
NOON = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 in India, a Friday."""
SEED = {"stock_ticker": "RELIANCE", "quantity": 10, "price": 1500.0, "order_type": "buy"}
"""The body of the system that this one replaces."""


class Trail:
    """Fills the port `AuditTrail`."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.away = False
        self.gates: dict[str, asyncio.Event] = {}
        """Whoever wants an action written down waits for the one of its name."""
        self.waiting: list[str] = []
        """The actions that have come to one."""

    async def record(self, act: Act, *, hurried: bool = False) -> None:  # noqa: ARG002
        if self.away:
            raise UnavailableError("Not now.")
        if act.action in self.gates:
            self.waiting.append(act.action)
            await self.gates[act.action].wait()
        self.acts.append(act)

    async def note(self, act: Act) -> None:
        self.acts.append(act)

    def of(self, order: Row) -> list[str]:
        """What was written down about an order."""
        return [act.action for act in self.acts if act.target == ("order", order["id"])]


class TwoPeople:
    """`ann` and `bob` may do everything, `reader` may only read Ann's, `alerts` has nothing to do here."""

    def __init__(self) -> None:
        # An account's id says when it was made: its lists go back to that.
        made = f"{int(NOON.timestamp()) - 86_400 * 9:08x}"
        self.ids = {name: PydanticObjectId(made + secrets.token_hex(8)) for name in ("ann", "bob")}

    async def authenticate(self, access_token: str) -> Principal:
        later = NOON + timedelta(days=3650)
        if access_token in self.ids:
            return Principal(self.ids[access_token], PydanticObjectId(), Role.USER, later)
        if access_token in {"reader", "alerts"}:
            scopes = {Scope.ORDERS_READ} if access_token == "reader" else ALL_SCOPES - {Scope.ORDERS_READ}
            scopes = scopes - ({Scope.ORDERS_WRITE} if access_token == "alerts" else set())
            return Principal(self.ids["ann"], PydanticObjectId(), Role.USER, later, frozenset(scopes), api_token=True)
        raise UnauthorizedError("No.")


@dataclass
class Desk:
    """Orders behind their endpoints, in this event loop."""

    db: Db
    clock: StandingClock
    people: TwoPeople
    bus: Bus
    trail: Trail
    kite: KiteSimulator
    sessions: FixedSessions
    listings: FixedListings
    fills: KeptFills
    ledger: Ledger
    budget: OrderBudget
    news: OrdersHeard
    placing: Placing
    changing: Changing
    reconciliation: Reconciliation
    reading: OrderReading
    client: httpx.AsyncClient
    events: list[OrderChanged]
    prices: FixedPrices

    async def ask(self, method: str, path: str = "", who: str | None = "ann", status: int = 200, **options: Any) -> Any:
        """The JSON of an answer that has to have `status`; numbers with a point as decimals."""
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        answer = await self.client.request(method, PATH + path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        return json.loads(answer.content, parse_float=Decimal) if answer.content else None

    async def place(self, who: str = "ann", side: str = "buy", status: int = 201, **values: Any) -> Row:
        """A new order; `price=None` leaves that out."""
        body = {name: value for name, value in (SEED | {"order_type": side} | values).items() if value is not None}
        made: Row = await self.ask("POST", f"order/{side}", who, status, json=body)
        return made

    async def read(self, order: Row | str, who: str = "ann") -> Row:
        id_ = order if isinstance(order, str) else order.get("order_id") or order["id"]
        found: Row = await self.ask("GET", f"orders/{id_}", who)
        return found

    async def refresh(self, who: str = "ann") -> None:
        """Read the broker's book, as polling does."""
        await self.news.refresh(str(self.people.ids[who]))

    async def refreshed(self, order: Row) -> Row:
        await self.refresh()
        return await self.read(order)

    async def settled(self, order: Row | str) -> Row:
        """After the broker's book was read late enough, and again."""
        self.clock.move(seconds=60)
        await self.refresh()
        self.clock.move(seconds=10)
        await self.refresh()
        return await self.read(order)

    def at_broker(self, order: Row) -> list[Booked]:
        """What the broker has with the order's tag."""
        return self.kite.book.with_tag(order["tag"])

    def polling(self, **options: Any) -> OrderPolling:
        """As a process has it that has just begun."""
        return OrderPolling(ledger=self.ledger, news=self.news, bus=self.bus, **options)

    def another_process(self) -> "OrdersHeard":
        """What hears of orders in a process that knows nothing yet."""
        ledger = Ledger(bus=self.bus, clock=self.clock, sequence=Numbers(self.clock))
        return OrdersHeard(
            ledger=ledger,
            brokers=self.news._brokers,
            sessions=self.sessions,
            fills=self.fills,
            audit=self.trail,
            timing=self.news.timing,
        )


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def answering(db: Db) -> None:
    """Wait for a database that is back."""
    deadline = time.monotonic() + 30
    while True:
        try:
            await db.command("ping")
            return
        except PyMongoError:
            assert time.monotonic() < deadline, "the database did not come back"


def path_of(order: Row) -> list[str]:
    """The states that it went through."""
    return [step["status"] for step in order["transitions"]]


@asynccontextmanager
async def desk_of(db: Db, *, timing: Timing | None = None) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already."""
    clock, people, bus, trail = StandingClock(NOON), TwoPeople(), Bus(NullTransport()), Trail()
    events: list[OrderChanged] = []
    bus.subscribe(OrderChanged, events.append)
    async with KiteSimulator(now=clock.now, limited=False) as kite:
        kite.book.fills_itself = False
        broker = ZerodhaBroker(clock, base_url=kite.base_url, timeouts=TIMEOUTS, tls=NO_TLS)
        sessions, listings, fills = FixedSessions(kite.base_url, kite.issue()), FixedListings(), KeptFills()
        ledger, budget = Ledger(bus=bus, clock=clock, sequence=Numbers(clock)), OrderBudget(clock, patience=0.05)
        brokers: dict[BrokerName, Broker] = {BrokerName.ZERODHA: broker}
        news = OrdersHeard(
            ledger=ledger, brokers=brokers, sessions=sessions, fills=fills, audit=trail, timing=timing or Timing()
        )
        common: dict[str, Any] = {
            "ledger": ledger,
            "brokers": brokers,
            "sessions": sessions,
            "budget": budget,
            "news": news,
            "audit": trail,
        }
        prices = FixedPrices()
        guard = OrderGuard(OrderLimits(Decimal(10_000_000), Decimal(20)), prices=prices, positions=fills, clock=clock)
        placing, changing = Placing(listings=listings, guard=guard, **common), Changing(guard=guard, **common)
        reconciliation = Reconciliation(ledger=ledger, news=news, sessions=sessions, positions=fills)
        reading = OrderReading(ledger, clock, MarketCalendar(clock))
        app = FastAPI()
        registry = app.state.registry = Registry()
        known: Row = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
        registry.provide(Settings, Settings(secret_key=secrets.token_hex(32), _env_file=None, **known))
        registry.provide(RateLimiter, RateLimiter())
        registry.provide(ClientAddressResolver, ClientAddressResolver([]))
        registry.provide(Authenticator, people)  # type: ignore[type-abstract]
        for service in (placing, changing, reconciliation, reading):
            registry.provide(type(service), service)
        add_problem_handlers(app)
        app.include_router(router, dependencies=[KnownQuery])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
            try:
                yield Desk(
                    db, clock, people, bus, trail, kite, sessions, listings, fills, ledger, budget, news, placing,
                    changing, reconciliation, reading, client, events, prices,
                )  # fmt: skip
            finally:
                await placing.drain()
                await changing.drain()
                await broker.close()
