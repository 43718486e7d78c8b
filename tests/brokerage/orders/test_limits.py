"""Orders that nobody can have meant are stopped, and exits are not."""

from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest

from app.brokerage.orders.checks import OrderLimits
from app.brokerage.orders.guarding import RECENT, OrderGuard
from app.brokerage.ports import LastPrice
from app.brokerage.words import BookedTrade, Exchange, Product, Side
from tests.brokerage.orders.kit import Desk, Row

CALL = "NIFTY26DEC24500CE"
OPTION = {"stock_ticker": CALL, "exchange": "NFO", "quantity": 65}


def price(
    desk: Desk, text: str, *, symbol: str = "RELIANCE", exchange: Exchange = Exchange.NSE, old: float = 0
) -> None:
    """The newest price, so many hours old."""
    desk.prices.known[exchange, symbol] = LastPrice(Decimal(text), desk.clock.now() - timedelta(hours=old))


async def filled(desk: Desk, side: Side, quantity: int, product: Product = Product.MIS) -> None:
    """A position of Ann's."""
    ann = str(desk.people.ids["ann"])
    trade = BookedTrade(
        trade_id=f"{side}{quantity}",
        broker_order_id="1",
        symbol="RELIANCE",
        exchange=Exchange.NSE,
        side=side,
        quantity=quantity,
        price=Decimal(1500),
        product=product,
        at=desk.clock.now(),
    )
    desk.fills.trades[ann, trade.trade_id] = trade


@pytest.mark.parametrize(
    ("body", "newest", "said"),
    [
        ({"quantity": 6667}, None, "6667 of RELIANCE at 1500 are worth 10,000,500.00 rupees, and this server takes no"),
        ({"quantity": 6667, "price": None}, "1500", "worth 10,000,500.00 rupees"),
        ({"quantity": 6667, "price": None, "price_type": "SL-M", "trigger_price": 1500}, None, "10,000,500.00"),
        ({"price": 1815}, "1500", "To buy at 1815 is 21 % above the newest price, 1500, and this server takes 20 %"),
        ({"price": 150, "side": "sell"}, "1500", "To sell at 150 is 90 % below the newest price, 1500"),
        ({**OPTION, "price": 1800}, "180", "To buy at 1800 is 900 % above the newest price, 180"),
        (
            {**OPTION, "price": 1800, "price_type": "SL", "trigger_price": 300},
            "180",
            "To buy at 1800 is 500 % above its trigger price, 300",
        ),
    ],
)
async def test_a_digit_too_many_is_told_with_the_limit(desk: Desk, body: Row, newest: str | None, said: str):
    if newest is not None:
        option = body.get("stock_ticker") == CALL
        price(desk, newest, symbol=CALL if option else "RELIANCE", exchange=Exchange.NFO if option else Exchange.NSE)

    refused = await desk.place(status=422, **body)

    assert said in refused["detail"], refused["detail"]
    setting = {"order_value": "ORDER_MAX_VALUE", "price_deviation": "ORDER_MAX_PRICE_DEVIATION_PERCENT"}
    assert setting[refused["errors"][0]["type"]] in refused["detail"]
    assert not desk.kite.book.orders


@pytest.mark.parametrize(
    ("body", "newest"),
    [
        ({"quantity": 6666}, "1500"),
        ({"price": 1800}, "1500"),
        ({"price": 2500}, None),
        # What waits for a better price, a target far away, and the stop of somebody who has written the option.
        ({"price": 150}, "1500"),
        ({**OPTION, "side": "sell", "price": 540}, "180"),
        ({**OPTION, "price": 370, "price_type": "SL", "trigger_price": 360}, "180"),
    ],
)
async def test_what_can_be_meant_is_placed(desk: Desk, body: Row, newest: str | None):
    if newest is not None:
        price(desk, newest)
        price(desk, newest, symbol=CALL, exchange=Exchange.NFO)

    assert desk.at_broker(await desk.place(**body))


async def test_circuit_limits_of_the_broker_and_old_prices_say_more_or_nothing(desk: Desk):
    price(desk, "150", old=RECENT / timedelta(hours=1) + 1)
    assert desk.at_broker(await desk.place(price=1500))
    price(desk, "150")
    await desk.place(status=422, price=1500)
    key = (Exchange.NSE, "RELIANCE")
    listed = msgspec.structs.replace(desk.listings.rows[key], upper_circuit=Decimal(1600))
    desk.listings.rows[key] = listed
    assert desk.at_broker(await desk.place(price=1500))


async def test_exits_may_be_worth_whatever_the_position_is(desk: Desk):
    large = {"quantity": 10_000, "product": "MIS"}
    await desk.place(side="sell", status=422, **large)
    await filled(desk, Side.BUY, 9_999)
    await desk.place(side="sell", status=422, **large)  # it would turn the position around
    await desk.place(side="buy", status=422, **large)
    await filled(desk, Side.BUY, 1)
    assert desk.at_broker(await desk.place(side="sell", **large))
    assert desk.at_broker(await desk.place(side="sell", **large | {"product": "CNC"}))  # delivery sells what is held
    price(desk, "15000")
    await desk.place(side="sell", status=422, **large)  # the price is wrong all the same


async def test_nobody_waits_long_for_a_price(desk: Desk):
    price(desk, "1500")
    desk.prices.silent = True
    limits = OrderLimits(Decimal(10_000_000), Decimal(20))
    desk.placing._guard = OrderGuard(limits, prices=desk.prices, positions=desk.fills, clock=desk.clock, patience=0.01)
    assert desk.at_broker(await desk.place(price=15_000))


async def test_limits_can_be_switched_off(desk: Desk):
    off = OrderGuard(OrderLimits(None, None), prices=desk.prices, positions=desk.fills, clock=desk.clock)
    desk.placing._guard = off
    desk.prices.silent = True
    assert desk.at_broker(await desk.place(side="sell", price=1, quantity=99_999))
    assert desk.at_broker(await desk.place(price=15_000, quantity=99_999))


async def test_a_change_is_held_to_the_limits_too(desk: Desk):
    price(desk, "1500")
    order = await desk.place()
    await desk.refresh()
    for change in ({"price": 15_000}, {"quantity": 7_000}):
        await desk.ask("PATCH", f"orders/{order['id']}", status=422, json=change)
    [there] = desk.at_broker(order)
    assert (there.quantity, there.price) == (10, 1500)
