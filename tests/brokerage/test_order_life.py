"""What our adapters make of an order's life at a broker, from the first word to the last."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.brokerage.errors import BrokerUnavailableError, OrderRejectedError
from app.brokerage.words import (
    BookedOrder,
    BookedTrade,
    BrokerHolding,
    BrokerName,
    BrokerPosition,
    Exchange,
    Funds,
    OrderChange,
    OrderState,
    PriceType,
    Product,
    Side,
    Validity,
)
from tests.brokerage.vendors import VENDORS, Vendor
from tests.simulators.brokers import instruments
from tests.simulators.vendor import Fault


@pytest.fixture(params=list(VENDORS))
async def vendor(request: pytest.FixtureRequest) -> AsyncIterator[Vendor]:
    async with VENDORS[request.param]() as opened:
        yield opened


def _changed(content: dict[str, Any], change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> dict[str, Any]:
    """A vendor's answer with other rows of its order book."""
    if "payload" in content:
        return {**content, "payload": {"order_list": change(content["payload"]["order_list"])}}
    return {**content, "data": change(content["data"])}


async def _only(vendor: Vendor) -> BookedOrder:
    (order,) = await vendor.broker.orders(vendor.account, vendor.session)
    return order


async def test_a_limit_order_is_filled_in_parts(vendor: Vendor):
    placed = await vendor.place(vendor.ticket())
    book, now = vendor.simulator.book, vendor.clock.now()
    order = await _only(vendor)
    expected = BookedOrder(
        broker_order_id=placed,
        tag="arrowtag0001",
        exchange=Exchange.NSE,
        symbol="RELIANCE",
        side=Side.BUY,
        product=Product.CNC,
        price_type=PriceType.LIMIT,
        quantity=10,
        filled_quantity=0,
        state=OrderState.OPEN,
        price=Decimal("1500.1"),
        exchange_order_id=order.exchange_order_id,
        placed_at=order.placed_at,
        updated_at=now,
    )
    assert order == expected
    assert order.placed_at in {now, None}
    assert order.exchange_order_id in {book.orders[placed].exchange_order_id, None}  # Groww does not tell it
    vendor.clock.move(seconds=5)
    book.fill(placed, 4, "1500.05")
    book.fill(placed, 3, "1500.10")
    order = await _only(vendor)
    assert (order.state, order.filled_quantity) == (OrderState.PARTIALLY_FILLED, 7)
    assert order.updated_at == now + timedelta(seconds=5)
    assert order.average_price is not None
    assert abs(order.average_price - Decimal("1500.0714286")) < Decimal("1e-6")
    book.fill(placed)
    order = await _only(vendor)
    assert (order.state, order.filled_quantity) == (OrderState.COMPLETE, 10)
    trades = await vendor.broker.trades(vendor.account, vendor.session)
    assert [(trade.quantity, trade.price) for trade in trades] == [
        (4, Decimal("1500.05")),
        (3, Decimal("1500.10")),
        (3, Decimal("1510.00")),
    ]
    assert trades[0] == BookedTrade(
        trade_id=trades[0].trade_id,
        broker_order_id=placed,
        exchange=Exchange.NSE,
        symbol="RELIANCE",
        side=Side.BUY,
        product=Product.CNC,
        quantity=4,
        price=Decimal("1500.05"),
        at=now + timedelta(seconds=5),
    )
    assert len({trade.trade_id for trade in trades}) == 3


async def test_a_market_order_is_protected_and_filled(vendor: Vendor):
    await vendor.place(vendor.ticket(price_type=PriceType.MARKET, price=None, product=Product.MIS))
    order = await _only(vendor)
    assert (order.state, order.price_type, order.price) == (OrderState.COMPLETE, PriceType.MARKET, None)
    assert (order.average_price, order.product) == (Decimal(1510), Product.MIS)


@pytest.mark.parametrize(("price_type", "price"), [(PriceType.SL, "1520.5"), (PriceType.SL_M, None)])
async def test_a_stop_waits_for_its_trigger(vendor: Vendor, price_type: PriceType, price: str | None):
    limit = None if price is None else Decimal(price)
    ticket = vendor.ticket(price_type=price_type, price=limit, trigger_price=Decimal("1520.0"))
    placed = await vendor.place(ticket)
    order = await _only(vendor)
    assert (order.state, order.price_type, order.trigger_price, order.price) == (
        OrderState.TRIGGER_PENDING,
        price_type,
        Decimal(1520),
        limit,
    )
    change = OrderChange(quantity=5, price_type=price_type, price=limit, trigger_price=Decimal("1519.9"))
    await vendor.broker.modify(vendor.account, vendor.session, order, vendor.listing(), change)
    vendor.simulator.book.move(instruments.RELIANCE, "1519.9")
    order = await _only(vendor)
    assert (order.state, order.quantity, order.average_price) == (OrderState.COMPLETE, 5, Decimal("1519.9"))
    assert order.broker_order_id == placed


async def test_it_is_changed_and_cancelled(vendor: Vendor):
    await vendor.place(vendor.ticket())
    order = await _only(vendor)
    change = OrderChange(quantity=20, price_type=PriceType.LIMIT, price=Decimal("1499.9"))
    await vendor.broker.modify(vendor.account, vendor.session, order, vendor.listing(), change)
    changed = await _only(vendor)
    assert (changed.quantity, changed.price, changed.state) == (20, Decimal("1499.9"), OrderState.OPEN)
    await vendor.broker.cancel(vendor.account, vendor.session, changed)
    assert (await _only(vendor)).state is OrderState.CANCELLED


async def test_a_limit_becomes_a_market_order(vendor: Vendor):
    await vendor.place(vendor.ticket())
    change = OrderChange(quantity=10, price_type=PriceType.MARKET)
    await vendor.broker.modify(vendor.account, vendor.session, await _only(vendor), vendor.listing(), change)
    assert (await _only(vendor)).state is OrderState.COMPLETE


async def test_what_an_ioc_order_does_not_get_is_cancelled(vendor: Vendor):
    if Validity.IOC not in vendor.broker.capabilities.validities:
        return  # such an order is refused before it comes here
    vendor.simulator.book.liquidity = 4
    await vendor.place(vendor.ticket(price=Decimal("1511.0"), validity=Validity.IOC))
    order = await _only(vendor)
    assert (order.state, order.filled_quantity, order.validity) == (OrderState.CANCELLED, 4, Validity.IOC)


async def test_the_exchange_rejects(vendor: Vendor):
    vendor.simulator.book.reject_next("RMS:Rule: Check circuit limit " + "x" * 600)
    if vendor.broker.capabilities.broker is BrokerName.GROWW:  # says it at once
        with pytest.raises(OrderRejectedError, match="Check circuit limit"):
            await vendor.place(vendor.ticket())
    else:
        await vendor.place(vendor.ticket())
    order = await _only(vendor)
    assert order.state is OrderState.REJECTED
    assert order.reason is not None
    assert order.reason.startswith("RMS:Rule: Check circuit limit xx")
    assert len(order.reason) == 500


async def test_before_the_exchange_has_it(vendor: Vendor):
    vendor.simulator.book.hold = True
    await vendor.place(vendor.ticket())
    order = await _only(vendor)
    assert (order.state, order.exchange_order_id) == (OrderState.PENDING, None)
    vendor.simulator.book.release()
    assert (await _only(vendor)).state is OrderState.OPEN


async def test_at_the_end_of_the_day_it_is_over(vendor: Vendor):
    await vendor.place(vendor.ticket())
    vendor.simulator.book.end_of_day()
    assert (await _only(vendor)).state.final


@pytest.mark.parametrize("side", [Side.BUY, Side.SELL])
async def test_contracts_have_the_exchanges_names(vendor: Vendor, side: Side):
    for symbol in ("NIFTY26DEC24500CE", "NIFTY26DECFUT"):
        listing = vendor.listing(symbol, Exchange.NFO)
        ticket = vendor.ticket(
            f"tag{symbol[:16]}",
            listing=listing,
            quantity=130,
            product=Product.NRML,
            side=side,
            price_type=PriceType.MARKET,
            price=None,
        )
        await vendor.place(ticket)
    orders = await vendor.broker.orders(vendor.account, vendor.session)
    trades = await vendor.broker.trades(vendor.account, vendor.session)
    positions = await vendor.broker.positions(vendor.account, vendor.session)
    wanted = [(Exchange.NFO, "NIFTY26DEC24500CE"), (Exchange.NFO, "NIFTY26DECFUT")]
    for rows in (orders, trades, positions):
        assert sorted((row.exchange, row.symbol) for row in rows) == wanted
        assert {row.product for row in rows} == {Product.NRML}
    assert [position.net_quantity for position in positions] == [side.sign * 130] * 2


async def test_positions_holdings_and_funds(vendor: Vendor):
    book = vendor.simulator.book
    assert await vendor.broker.holdings(vendor.account, vendor.session) == []
    assert await vendor.broker.positions(vendor.account, vendor.session) == []
    market = {"price_type": PriceType.MARKET, "price": None}
    await vendor.place(vendor.ticket("arrowtag0001", **market))
    book.move(instruments.RELIANCE, "1520")
    await vendor.place(vendor.ticket("arrowtag0002", side=Side.SELL, quantity=4, **market))
    (position,) = await vendor.broker.positions(vendor.account, vendor.session)
    last, unrealised = (None, None) if position.last_price is None else (Decimal(1520), Decimal(60))
    assert position == BrokerPosition(
        Exchange.NSE, "RELIANCE", Product.CNC, 6, Decimal(1510), last, Decimal(40), unrealised
    )
    # Groww tells no prices of what is held.
    assert (last is None) == (vendor.broker.capabilities.broker is BrokerName.GROWW)
    funds = await vendor.broker.funds(vendor.account, vendor.session)
    assert funds == Funds(Decimal(990_980), Decimal(9_060), Decimal(1_000_040))
    book.next_day()
    assert await vendor.broker.orders(vendor.account, vendor.session) == []
    assert await vendor.broker.holdings(vendor.account, vendor.session) == [
        BrokerHolding(Exchange.NSE, "RELIANCE", "INE002A01018", 6, Decimal(1510), last)
    ]


async def test_listings_are_those_that_can_be_traded(vendor: Vendor):
    found = vendor.listings
    assert (Exchange.NSE, "NIFTY 50") not in found  # an index
    assert {exchange for exchange, _ in found} <= vendor.broker.capabilities.exchanges
    share = found[Exchange.NSE, "IDEA"]
    assert (share.tick_size, share.lot_size, share.kind, share.expiry) == (Decimal("0.01"), 1, "EQ", None)
    assert found[Exchange.BSE, "RELIANCE"].tick_size == Decimal("0.05")
    call = found[Exchange.NFO, "NIFTY26DEC24500CE"]
    known = instruments.NIFTY_CALL
    assert (call.lot_size, call.kind, call.strike, call.expiry) == (65, "CE", known.strike, known.expiry)
    assert found[Exchange.NFO, "NIFTY26DECFUT"].kind == "FUT"


async def test_what_does_not_fit_is_refused_by_the_broker(vendor: Vendor):
    """We check before; the broker has the last word."""
    for changes in ({"price": Decimal("1500.15")}, {"quantity": 100_000}):
        with pytest.raises(OrderRejectedError):
            await vendor.place(vendor.ticket(**changes))
    assert not vendor.simulator.book.orders


async def test_orders_that_we_have_no_words_for_are_left_out(vendor: Vendor):
    """A person's own, of kinds that we do not place."""
    mine = await vendor.place(vendor.ticket())
    untagged = {"tag": None, "tags": [], "ordertag": "", "order_reference_id": None}

    def foreign(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        cover = [{**row, **untagged, "product": "CO", "producttype": "BO", "groww_order_id": "1"} for row in rows]
        return [*cover, *rows, *({**row, **untagged, "exchange": "MCX", "groww_order_id": "2"} for row in rows)]

    vendor.simulator.fail(Fault(change=lambda content: _changed(content, foreign)))
    assert (await _only(vendor)).broker_order_id == mine


@pytest.mark.parametrize(
    "damage",
    [
        {"order_id": None, "orderid": None, "groww_order_id": None},
        {"quantity": "many"},
        {"filled_quantity": -1, "filledshares": "-1"},
        {"transaction_type": "HOLD", "transactiontype": "HOLD"},
        {"order_type": "SP", "ordertype": "SP"},
        {"status": None, "orderstatus": None, "order_status": None},
        {"tradingsymbol": "", "trading_symbol": "", "instrument_token": None},
        {"exchange": None},
        {"product": 7.5, "producttype": None},
    ],
    ids=lambda damage: next(iter(damage)),
)
async def test_a_book_with_an_unreadable_order_of_ours_is_no_book(vendor: Vendor, damage: dict[str, Any]):
    """Else whoever looks for the order would be told that it never arrived."""
    await vendor.place(vendor.ticket())

    def damaged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, **damage} for row in rows]

    vendor.simulator.fail(Fault(change=lambda content: _changed(content, damaged)))
    with pytest.raises(BrokerUnavailableError, match="makes no sense"):
        await vendor.broker.orders(vendor.account, vendor.session)


async def test_a_word_for_a_state_that_nobody_knows_is_not_the_end(vendor: Vendor):
    await vendor.place(vendor.ticket())

    def renamed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        words = {"status": "QUEUED ELSEWHERE", "orderstatus": "queued elsewhere", "order_status": "QUEUED_ELSEWHERE"}
        return [{**row, **words} for row in rows]

    vendor.simulator.fail(Fault(change=lambda content: _changed(content, renamed)))
    assert (await _only(vendor)).state is OrderState.PENDING
