"""What holds for every broker, the paper one and the others before their simulators: the port `Broker`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.brokerage.adapters.paper.models import DOCUMENTS
from app.brokerage.errors import OrderRejectedError
from app.brokerage.ports import Broker, BrokerAccount, BrokerSession
from app.brokerage.words import (
    BookedOrder,
    Exchange,
    Listing,
    OrderChange,
    OrderState,
    OrderTicket,
    PriceType,
    Product,
    Side,
    Validity,
)
from tests.brokerage.paper.kit import desk_of
from tests.brokerage.vendors import VENDORS
from tests.simulators.brokers.instruments import RELIANCE
from tests.support.mongodb import empty_database, mongodb_server

D = Decimal


@dataclass
class Bench:
    """A broker with an empty account of a million rupees, on a market where a share costs 1,510."""

    broker: Broker
    account: BrokerAccount
    session: BrokerSession
    listing: Listing
    moved: Callable[[str], Awaitable[None]]
    """The share is at another price, and the broker has done what follows from it."""
    settled: Callable[[], Awaitable[None]]
    """The broker has done what it does at once."""

    async def place(self, tag: str, side: Side = Side.BUY, quantity: int = 10, **options: Any) -> str:
        """At the market, for delivery, if nothing else is said."""
        usual = {"product": Product.CNC, "price_type": PriceType.MARKET, "listing": self.listing}
        ticket = OrderTicket(tag=tag, side=side, quantity=quantity, **{**usual, **options})
        placed = await self.broker.place(self.account, self.session, ticket)
        await self.settled()
        return placed

    async def orders(self) -> list[BookedOrder]:
        return await self.broker.orders(self.account, self.session)

    async def order(self, order_id: str) -> BookedOrder:
        [found] = [order for order in await self.orders() if order.broker_order_id == order_id]
        return found

    async def modify(self, order_id: str, **change: Any) -> None:
        await self.broker.modify(
            self.account, self.session, await self.order(order_id), self.listing, OrderChange(**change)
        )
        await self.settled()

    async def cancel(self, order: BookedOrder) -> None:
        await self.broker.cancel(self.account, self.session, order)


@asynccontextmanager
async def _paper(database: str) -> AsyncIterator[Bench]:
    async with empty_database(database, DOCUMENTS) as db, desk_of(db) as desk:
        listings = {(each.exchange, each.symbol): each for each in await desk.broker.listings()}

        async def move(price: str) -> None:
            desk.clock.move(seconds=6)
            desk.tape.quote(price)
            await desk.step()

        desk.tape.quote("1510")
        listing = listings[Exchange.NSE, "RELIANCE"]
        yield Bench(desk.broker, desk.account, desk.session, listing, move, desk.step)


@asynccontextmanager
async def _vendor(name: str, _database: str) -> AsyncIterator[Bench]:
    async with VENDORS[name]() as vendor:

        async def move(price: str) -> None:
            vendor.simulator.book.move(RELIANCE, price)

        async def settled() -> None:
            """The simulators' exchange does all at once."""

        yield Bench(vendor.broker, vendor.account, vendor.session, vendor.listing(), move, settled)


BENCHES: dict[str, Callable[[str], AbstractAsyncContextManager[Bench]]] = {
    "paper": _paper,
    **{name: partial(_vendor, name) for name in VENDORS},
}


@pytest_asyncio.fixture(scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder: Path = tmp_path_factory.mktemp("contract")
    async with mongodb_server(folder) as url:
        yield url


@pytest.fixture(params=list(BENCHES))
async def bench(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Bench]:
    async with BENCHES[request.param](database) as opened:
        yield opened


async def test_an_account_begins_empty_and_the_words_agree(bench: Bench):
    assert await bench.orders() == []
    assert await bench.broker.trades(bench.account, bench.session) == []
    assert await bench.broker.positions(bench.account, bench.session) == []
    assert await bench.broker.holdings(bench.account, bench.session) == []
    assert await bench.broker.funds(bench.account, bench.session) == (1_000_000, 0, 1_000_000)
    able = bench.broker.capabilities
    assert able.broker is bench.account.broker
    assert set(able.products) == able.exchanges
    assert all(able.products.values())
    assert {PriceType.MARKET, PriceType.LIMIT} <= able.price_types
    assert Validity.DAY in able.validities
    assert 8 <= able.tag_length <= 20
    expires_at = bench.session.expires_at
    assert able.session_ends is None or expires_at is not None
    assert expires_at is None or expires_at.utcoffset() == timedelta(0)
    listings = await bench.broker.listings()
    assert len({(listing.exchange, listing.symbol) for listing in listings}) == len(listings)
    for listing in listings:
        assert listing.exchange in able.exchanges
        assert listing.tick_size > 0
        assert listing.lot_size > 0
        assert listing.key


async def test_a_market_order_is_filled_and_all_books_say_so(bench: Bench):
    placed = await bench.place("contract0001")
    order = await bench.order(placed)
    assert (order.state, order.filled_quantity, order.average_price) == (OrderState.COMPLETE, 10, D(1510))
    assert (order.tag, order.side, order.product, order.symbol) == ("contract0001", Side.BUY, Product.CNC, "RELIANCE")
    assert all(at is None or at.utcoffset() == timedelta(0) for at in (order.placed_at, order.updated_at))
    trades = await bench.broker.trades(bench.account, bench.session)
    assert {(trade.broker_order_id, trade.price, trade.side) for trade in trades} == {(placed, D(1510), Side.BUY)}
    assert sum(trade.quantity for trade in trades) == 10
    [position] = await bench.broker.positions(bench.account, bench.session)
    assert (position.symbol, position.product, position.net_quantity) == ("RELIANCE", Product.CNC, 10)
    assert position.average_price == 1510
    with pytest.raises(OrderRejectedError):
        await bench.cancel(order)


async def test_a_limit_order_waits_is_changed_and_filled_no_worse(bench: Bench):
    placed = await bench.place("contract0001", price_type=PriceType.LIMIT, price=D(1500))
    assert (await bench.order(placed)).state is OrderState.OPEN
    await bench.modify(placed, quantity=20, price_type=PriceType.LIMIT, price=D("1495.50"))
    order = await bench.order(placed)
    assert (order.state, order.quantity, order.price) == (OrderState.OPEN, 20, D("1495.50"))
    await bench.moved("1498")
    assert (await bench.order(placed)).filled_quantity == 0
    await bench.moved("1495")
    order = await bench.order(placed)
    assert (order.state, order.filled_quantity) == (OrderState.COMPLETE, 20)
    assert order.average_price is not None
    assert order.average_price <= D("1495.50")


async def test_what_is_cancelled_stays_so(bench: Bench):
    placed = await bench.place("contract0001", price_type=PriceType.LIMIT, price=D(1500))
    order = await bench.order(placed)
    await bench.cancel(order)
    await bench.moved("1490")
    cancelled = await bench.order(placed)
    assert (cancelled.state, cancelled.filled_quantity) == (OrderState.CANCELLED, 0)
    with pytest.raises(OrderRejectedError):
        await bench.cancel(order)
    with pytest.raises(OrderRejectedError):
        await bench.modify(placed, quantity=5, price_type=PriceType.LIMIT, price=D(1500))


async def test_a_stop_waits_for_its_trigger(bench: Bench):
    for tag, kind, limit, trigger in (
        ("contract0001", PriceType.SL, 1525, 1520),
        ("contract0002", PriceType.SL_M, None, 1530),
    ):
        price = None if limit is None else D(limit)
        placed = await bench.place(tag, price_type=kind, price=price, trigger_price=D(trigger))
        order = await bench.order(placed)
        assert (order.state, order.price_type, order.trigger_price) == (OrderState.TRIGGER_PENDING, kind, D(trigger))
        await bench.moved(str(trigger - 1))
        assert (await bench.order(placed)).state is OrderState.TRIGGER_PENDING
        await bench.moved(str(trigger + 1))
        order = await bench.order(placed)
        assert (order.state, order.average_price) == (OrderState.COMPLETE, D(trigger + 1))


async def test_sold_short_and_bought_back(bench: Bench):
    await bench.place("contract0001", Side.SELL, product=Product.MIS)
    [position] = await bench.broker.positions(bench.account, bench.session)
    assert (position.product, position.net_quantity) == (Product.MIS, -10)
    await bench.moved("1500")
    await bench.place("contract0002", Side.BUY, product=Product.MIS)
    [position] = await bench.broker.positions(bench.account, bench.session)
    assert (position.net_quantity, position.realised) == (0, D(100))


async def test_what_is_refused_or_has_to_be_at_once_leaves_nothing_open(bench: Bench):
    with pytest.raises(OrderRejectedError) as refused:
        await bench.place("contract0001", quantity=100_000)
    assert refused.value.reason
    assert all(order.state is OrderState.REJECTED for order in await bench.orders())
    if Validity.IOC in bench.broker.capabilities.validities:  # else such an order is refused before it comes here
        late = await bench.place("contract0002", price_type=PriceType.LIMIT, price=D(1500), validity=Validity.IOC)
        order = await bench.order(late)
        assert (order.state, order.filled_quantity) == (OrderState.CANCELLED, 0)
    assert await bench.broker.funds(bench.account, bench.session) == (1_000_000, 0, 1_000_000)


async def test_funds_add_up_and_a_unique_tag_is_one_order(bench: Bench):
    first = await bench.place("contract0001")
    await bench.place("contract0002", price_type=PriceType.LIMIT, price=D(1500))
    funds = await bench.broker.funds(bench.account, bench.session)
    assert funds.available + funds.used == funds.total
    # Ten shares are paid, ten held for; charges come on top.
    assert D(969_800) < funds.available <= 1_000_000 - 15_100 - 15_000
    if bench.broker.capabilities.tag_unique:  # else nobody there looks
        assert await bench.place("contract0001") == first
        assert sorted(order.tag or "" for order in await bench.orders()) == ["contract0001", "contract0002"]
