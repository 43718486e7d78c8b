"""The portfolio put together as the lifespan does it, with a broker and prices that a test owns."""

import json
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import httpx
from beanie import PydanticObjectId
from fastapi import FastAPI
from pydantic import SecretStr

from app.brokerage.portfolio.broker_view import BrokerView
from app.brokerage.portfolio.days import Days
from app.brokerage.portfolio.fills import TradeFills
from app.brokerage.portfolio.ledger import Ledger
from app.brokerage.portfolio.reading import Portfolio
from app.brokerage.portfolio.router import dashboard_router, trade_router
from app.brokerage.portfolio.sheets import Sheets
from app.brokerage.portfolio.trades import Trades
from app.brokerage.portfolio.upkeep import PortfolioUpkeep
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession, LastPrice
from app.brokerage.words import (
    BookedTrade,
    BrokerHolding,
    BrokerName,
    BrokerPosition,
    Exchange,
    Funds,
    Product,
    Side,
)
from app.core.audit import Act
from app.core.charges import ChargeEngine
from app.core.client_address import ClientAddressResolver
from app.core.deps import KnownQuery, Registry
from app.core.errors import UnauthorizedError
from app.core.market_calendar import MarketCalendar
from app.core.problem import add_problem_handlers
from app.core.rate_limit import RateLimiter
from app.core.security import ALL_SCOPES, Authenticator, Principal, Role, Scope
from app.core.settings import Settings
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

Row = dict[str, Any]
TRADE = "/api/v1/trade/trade"
TRADES = "/api/v1/trade/trades"
DASHBOARD = "/api/v1/dashboard/dashboard"
PNL = "/api/v1/dashboard/pnl"
MONDAY = datetime(2026, 11, 16, 5, 0, tzinfo=UTC)
"""10:30 in India, of a week without holidays."""
NOON = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""12:00 in India, a Friday."""
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ENGINE = ChargeEngine()
D = Decimal

SYSTEM_4 = {
    "price": 2500.0,
    "quantity": 10,
    "stock_ticker": "RELIANCE",
    "type": "eq",
    "order_type": "buy",
    "buy_price": 2500.0,
    "brokerage_charge": 20.0,
    "mtf_charge": 0.0,
}
"""The body that system 4 shows, without its order."""


def given(side: str, quantity: int, price: float | str, at: datetime | None = None, **more: Any) -> Row:
    """A trade that is entered by hand."""
    body = {"stock_ticker": "RELIANCE", "order_type": side, "quantity": quantity, "price": price, **more}
    return body | ({"order_executed_at": at.isoformat()} if at else {})


_numbers = iter(range(1_000_000))


def fill(
    side: str,
    quantity: int,
    price: str,
    at: datetime = MONDAY,
    symbol: str = "RELIANCE",
    *,
    product: Product = Product.CNC,
    exchange: Exchange = Exchange.NSE,
    order: str | None = None,
    trade: str | None = None,
) -> BookedTrade:
    """A fill as a broker tells it; without a name of its own it is the next one."""
    number = next(_numbers)
    return BookedTrade(
        trade_id=trade or f"7{number:07d}",
        broker_order_id=order or f"B{number:07d}",
        exchange=exchange,
        symbol=symbol,
        side=Side(side),
        product=product,
        quantity=quantity,
        price=D(price),
        at=at,
    )


class Trail:
    """Fills the port `AuditTrail`."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    async def record(self, act: Act) -> None:
        self.acts.append(act)

    async def note(self, act: Act) -> None:
        self.acts.append(act)


@dataclass
class PricesHere:
    """Fills the port `Prices`."""

    known: dict[str, LastPrice] = field(default_factory=dict)

    def put(self, symbol: str, price: str, *, live: bool = True) -> None:
        self.known[symbol] = LastPrice(D(price), NOON, live=live)

    async def last(self, exchange: Exchange, symbol: str) -> LastPrice | None:  # noqa: ARG002 (the port's)
        return self.known.get(symbol)

    def on_price(self, listener: Any, wants: Any) -> None:  # noqa: ARG002
        raise AssertionError("nobody here listens")


@dataclass
class BrokerHere:
    """What of the port `Broker` the portfolio asks."""

    money: Funds = field(default_factory=lambda: Funds(D(900_000), D(100_000), D(1_000_000)))
    held: list[BrokerHolding] = field(default_factory=list)
    open: list[BrokerPosition] = field(default_factory=list)
    fault: Exception | None = None
    asked: int = 0

    async def funds(self, account: BrokerAccount, session: BrokerSession) -> Funds:
        assert session.access_token.get_secret_value() == account.account_id
        self.asked += 1
        if self.fault:
            raise self.fault
        return self.money

    async def holdings(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerHolding]:  # noqa: ARG002
        if self.fault:
            raise self.fault
        return self.held

    async def positions(self, account: BrokerAccount, session: BrokerSession) -> list[BrokerPosition]:  # noqa: ARG002
        if self.fault:
            raise self.fault
        return self.open


@dataclass
class SessionsHere:
    """Fills the port `AccountsHere`: everybody has one account, with `broker`."""

    broker: BrokerName = BrokerName.ZERODHA
    accounts: dict[str, str] = field(default_factory=dict)
    """By user."""
    fault: Exception | None = None
    ended: list[str] = field(default_factory=list)

    async def active(self, user_id: str) -> str:
        return self.accounts.setdefault(user_id, secrets.token_hex(12))

    async def broker_of(self, account_id: str) -> BrokerName:  # noqa: ARG002
        return self.broker

    async def owns(self, user_id: str, account_id: str) -> bool:
        return self.accounts.get(user_id) == account_id

    async def open(self, account_id: str) -> tuple[BrokerAccount, BrokerSession]:
        if self.fault:
            raise self.fault
        user_id = next(user for user, account in self.accounts.items() if account == account_id)
        account = BrokerAccount(
            account_id=account_id, user_id=user_id, broker=self.broker, base_url="http://broker.test", secrets={}
        )
        return account, BrokerSession(access_token=SecretStr(account_id), expires_at=None)

    async def expired(self, account_id: str, session: BrokerSession) -> None:  # noqa: ARG002
        self.ended.append(account_id)

    async def all_open(self) -> list[str]:
        return list(self.accounts.values())


@dataclass
class OrdersHere:
    """Fills the port `OrdersHere`."""

    mine: dict[str, str] = field(default_factory=dict)
    """Our id by the broker's."""
    rows: list[Row] = field(default_factory=list)

    async def owns(self, user_id: str, order_id: str) -> bool:  # noqa: ARG002
        return order_id in self.mine.values()

    async def ids(self, account_id: str, broker_order_ids: Collection[str]) -> Mapping[str, str]:  # noqa: ARG002
        return {one: self.mine[one] for one in broker_order_ids if one in self.mine}

    async def open_orders(self, user_id: str, account_id: str, limit: int) -> Sequence[Row]:  # noqa: ARG002
        return self.rows[:limit]

    async def newest(self, user_id: str, start: datetime, end: datetime) -> AsyncIterator[Row]:  # noqa: ARG002
        for row in self.rows:
            if start <= row["created_at"] <= end:
                yield row


class SomeRun:
    """A run of a job that nobody follows."""

    id, job, arguments, due = "run", "job", cast("Mapping[str, Any]", {}), None

    async def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        assert total is None or done <= total
        assert isinstance(note, str)


class TwoPeople:
    """`ann` and `bob` may do everything, `reader` may only read Ann's, `alerts` has nothing to do here."""

    def __init__(self) -> None:
        made = f"{int(MONDAY.timestamp()):08x}"
        self.ids = {name: PydanticObjectId(made + secrets.token_hex(8)) for name in ("ann", "bob")}

    async def authenticate(self, access_token: str) -> Principal:
        later = NOON + timedelta(days=3650)
        if access_token in self.ids:
            return Principal(self.ids[access_token], PydanticObjectId(), Role.USER, later)
        if access_token in {"reader", "alerts"}:
            scopes = {Scope.PORTFOLIO_READ} if access_token == "reader" else ALL_SCOPES - {Scope.PORTFOLIO_READ}
            return Principal(self.ids["ann"], PydanticObjectId(), Role.USER, later, frozenset(scopes), api_token=True)
        raise UnauthorizedError("No.")


@dataclass
class Process:
    """What one process of the service has; several may work on one database."""

    days: Days
    ledger: Ledger
    fills: TradeFills


def process_of(orders: OrdersHere, clock: StandingClock) -> Process:
    days = Days(ENGINE)
    ledger = Ledger(clock=clock, engine=ENGINE, days=days, mtf_funded_share=D("0.75"))
    return Process(days, ledger, TradeFills(ledger=ledger, orders=orders, clock=clock))


@dataclass
class Desk:
    """The portfolio behind its endpoints, in this event loop."""

    db: Db
    clock: StandingClock
    prices: PricesHere
    broker: BrokerHere
    sessions: SessionsHere
    orders: OrdersHere
    people: TwoPeople
    audit: Trail
    here: Process
    upkeep: PortfolioUpkeep
    client: httpx.AsyncClient

    async def ask(self, method: str, path: str, status: int = 200, who: str = "ann", **options: Any) -> Any:
        """The JSON of an answer that has to have `status`; numbers with a point as decimals."""
        headers = {"Authorization": f"Bearer {who}"} if who else {}
        answer = await self.client.request(method, path, headers=headers, **options)
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        else:
            assert answer.headers["cache-control"] == "no-store"
        return json.loads(answer.content, parse_float=Decimal) if answer.content else None

    async def get(self, path: str, status: int = 200, /, who: str = "ann", **query: Any) -> Any:
        return await self.ask("GET", path, status, who, params=query)

    async def enter(self, *bodies: Row, who: str = "ann") -> list[Row]:
        """Trades entered by hand."""
        return [await self.ask("POST", TRADE, 201, who, json=body) for body in bodies]

    async def take(self, *fills: BookedTrade, who: str = "ann", process: Process | None = None) -> int:
        """Fills that the broker of somebody tells."""
        user_id = str(self.people.ids[who])
        account_id = await self.sessions.active(user_id)
        return await (process or self.here).fills.take(account_id, user_id, self.sessions.broker, fills)

    async def account(self, who: str = "ann") -> str:
        return await self.sessions.active(str(self.people.ids[who]))

    async def all_of(self, name: str) -> list[Row]:
        """A collection's rows, without what counts writes."""
        rows = await self.db[name].find({}).to_list()
        return sorted(
            ({key: value for key, value in row.items() if key not in {"revision", "updated_at"}} for row in rows),
            key=lambda row: str(row["_id"]),
        )


@asynccontextmanager
async def desk_of(db: Db) -> AsyncIterator[Desk]:
    """Put everything together; Beanie has to know the documents already."""
    clock, prices, broker, sessions = StandingClock(NOON), PricesHere(), BrokerHere(), SessionsHere()
    orders, audit, people = OrdersHere(), Trail(), TwoPeople()
    here = process_of(orders, clock)
    brokers = {name: cast("Broker", broker) for name in BrokerName}
    view = BrokerView(sessions=sessions, brokers=brokers, clock=clock, patience=30)
    trades = Trades(ledger=here.ledger, sessions=sessions, orders=orders, clock=clock, audit=audit)
    app = FastAPI()
    registry = app.state.registry = Registry()
    known: Row = {"rate_limit_per_minute": 1_000_000, "user_rate_limit_per_minute": 1_000_000}
    registry.provide(Settings, Settings(secret_key=secrets.token_hex(32), _env_file=None, **known))  # type: ignore[arg-type]
    registry.provide(RateLimiter, RateLimiter())
    registry.provide(ClientAddressResolver, ClientAddressResolver([]))
    registry.provide(Authenticator, people)  # type: ignore[type-abstract]
    registry.provide(Trades, trades)
    registry.provide(Sheets, Sheets(trades=trades, orders=orders, clock=clock))
    registry.provide(
        Portfolio,
        Portfolio(
            ledger=here.ledger,
            view=view,
            trades=trades,
            orders=orders,
            sessions=sessions,
            prices=prices,
            clock=clock,
        ),
    )
    upkeep = PortfolioUpkeep(
        ledger=here.ledger,
        days=here.days,
        view=view,
        prices=prices,
        calendar=MarketCalendar(clock),
        clock=clock,
    )
    add_problem_handlers(app)
    for router in (dashboard_router, trade_router):
        app.include_router(router, dependencies=[KnownQuery])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://arrow.test") as client:
        yield Desk(db, clock, prices, broker, sessions, orders, people, audit, here, upkeep, client)


def by_symbol(rows: Sequence[Row]) -> dict[str, Row]:
    """Rows of different symbols."""
    found = {row["symbol"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def on(moment: datetime) -> date:
    """The day in India of these tests' moments."""
    return (moment + timedelta(hours=5, minutes=30)).date()
