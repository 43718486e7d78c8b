"""The simulated brokers with our adapters before them: what tests that hold for all of them begin with."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import SecretStr

from app.brokerage.adapters.angel_one.client import AngelOneBroker
from app.brokerage.adapters.groww.client import GrowwBroker
from app.brokerage.adapters.upstox.client import UpstoxBroker
from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession
from app.brokerage.words import BrokerName, Exchange, Listing, OrderTicket, PriceType, Product, Side
from tests.brokerage.patience import TIMEOUTS
from tests.simulators.brokers.groww import GrowwSimulator
from tests.simulators.brokers.kite import KiteSimulator
from tests.simulators.brokers.server import BrokerSimulator
from tests.simulators.brokers.smartapi import SmartApiSimulator
from tests.simulators.brokers.upstox import UpstoxSimulator
from tests.support.clocks import StandingClock

OPEN = datetime(2026, 11, 23, 4, 30, tzinfo=UTC)
"""A Monday, 10:00 in India."""


class MarketClock(StandingClock):
    """The time of day is the test's; waiting is real."""

    def __init__(self, *, runs: bool = False) -> None:
        super().__init__(OPEN)
        self._began = time.monotonic() if runs else None

    def now(self) -> datetime:
        gone = 0.0 if self._began is None else time.monotonic() - self._began
        return self.moment + timedelta(milliseconds=int(gone * 1000))

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass
class Vendor:
    """One of them."""

    broker: Broker
    simulator: BrokerSimulator
    account: BrokerAccount
    session: BrokerSession
    clock: MarketClock
    listings: dict[tuple[Exchange, str], Listing]

    def listing(self, symbol: str = "RELIANCE", exchange: Exchange = Exchange.NSE) -> Listing:
        return self.listings[exchange, symbol]

    async def place(self, ticket: OrderTicket) -> str:
        return await self.broker.place(self.account, self.session, ticket)

    def ticket(self, tag: str = "arrowtag0001", **changes: Any) -> OrderTicket:
        """Ten shares, at a price that nobody sells for yet."""
        usual: dict[str, Any] = {
            "tag": tag,
            "listing": self.listing(),
            "side": Side.BUY,
            "quantity": 10,
            "product": Product.CNC,
            "price_type": PriceType.LIMIT,
            "price": Decimal("1500.1"),
        }
        return OrderTicket(**{**usual, **changes})


def account_of(name: BrokerName, base_url: str, secrets: Mapping[str, str]) -> BrokerAccount:
    return BrokerAccount(
        account_id="65f000000000000000000001",
        user_id="65f000000000000000000002",
        broker=name,
        base_url=base_url,
        secrets={key: SecretStr(value) for key, value in secrets.items()},
    )


@asynccontextmanager
async def zerodha(*, limited: bool = False) -> AsyncIterator[Vendor]:
    clock = MarketClock(runs=limited)
    async with KiteSimulator(now=clock.now, limited=limited) as simulator:
        broker = ZerodhaBroker(
            clock, base_url=simulator.base_url, timeouts=TIMEOUTS, **({} if limited else {"rates": {}})
        )
        async with _opened(broker, simulator, BrokerName.ZERODHA, clock) as vendor:
            yield vendor


@asynccontextmanager
async def angel_one(*, limited: bool = False) -> AsyncIterator[Vendor]:
    clock = MarketClock(runs=limited)
    async with SmartApiSimulator(now=clock.now, limited=limited) as simulator:
        url = simulator.environment()["ANGEL_ONE_INSTRUMENTS_URL"]
        broker = AngelOneBroker(clock, instruments_url=url, timeouts=TIMEOUTS, **({} if limited else {"rates": {}}))
        async with _opened(broker, simulator, BrokerName.ANGEL_ONE, clock) as vendor:
            yield vendor


@asynccontextmanager
async def upstox(*, limited: bool = False) -> AsyncIterator[Vendor]:
    clock = MarketClock(runs=limited)
    async with UpstoxSimulator(now=clock.now, limited=limited) as simulator:
        url = simulator.instruments_url
        broker = UpstoxBroker(clock, instruments_url=url, timeouts=TIMEOUTS, **({} if limited else {"rates": {}}))
        async with _opened(broker, simulator, BrokerName.UPSTOX, clock) as vendor:
            yield vendor


@asynccontextmanager
async def groww(*, limited: bool = False) -> AsyncIterator[Vendor]:
    clock = MarketClock(runs=limited)
    async with GrowwSimulator(now=clock.now, limited=limited) as simulator:
        url = simulator.instruments_url
        broker = GrowwBroker(clock, instruments_url=url, timeouts=TIMEOUTS, **({} if limited else {"rates": {}}))
        async with _opened(broker, simulator, BrokerName.GROWW, clock) as vendor:
            yield vendor


@asynccontextmanager
async def _opened(
    broker: Broker, simulator: BrokerSimulator, name: BrokerName, clock: MarketClock
) -> AsyncIterator[Vendor]:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(broker.close)
        account = account_of(name, simulator.base_url, simulator.credentials())
        listings = {(each.exchange, each.symbol): each for each in await broker.listings()}
        session = await broker.sign_in(account)
        yield Vendor(broker, simulator, account, session, clock, listings)


VENDORS = {"zerodha": zerodha, "angel_one": angel_one, "upstox": upstox, "groww": groww}
