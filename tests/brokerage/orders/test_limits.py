"""Orders that nobody can have meant are stopped, and exits are not."""

from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest

from app.brokerage.orders.checks import OrderLimits
from app.brokerage.orders.guarding import RECENT, OrderGuard
from app.brokerage.orders.ports import Holding
from app.brokerage.ports import LastPrice
from app.brokerage.words import BookedTrade, BrokerPosition, Exchange, Product, Side
from app.core.errors import UnavailableError
from app.lifespan.brokerage import PositionsThere
from tests.brokerage.orders.kit import Desk, Row

LIMITS = OrderLimits(Decimal(10_000_000), Decimal(20))
NSE_MIS = Holding(Exchange.NSE, "RELIANCE", Product.MIS)
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
        ({**OPTION, "price": 361}, "180", "101 % above the newest price, 180, and this server takes 100 % at most"),
        (
            {**OPTION, "side": "sell", "price": 18},
            "180",
            "is 90 % below the newest price, 180, and this server takes 50",
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
        # Premiums double within a minute, or halve, and cheap ones are a few ticks away from anything.
        ({**OPTION, "price": 360}, "180"),
        ({**OPTION, "side": "sell", "price": 90}, "180"),
        ({**OPTION, "price": 4}, "0.5"),
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


async def test_an_old_price_holds_no_option_and_no_exit(desk: Desk):
    """A premium of yesterday says nothing at 09:15, and shares are worth half on the morning after a bonus."""
    price(desk, "10", symbol=CALL, exchange=Exchange.NFO, old=0.05)
    assert desk.at_broker(await desk.place(**OPTION | {"price": 180}))
    price(desk, "3000", old=18)
    assert desk.at_broker(await desk.place(side="sell", price=1500))
    await desk.place(side="sell", product="MIS", price=1500, status=422)
    await filled(desk, Side.BUY, 10)
    assert desk.at_broker(await desk.place(side="sell", product="MIS", price=1500))


async def test_a_stop_that_ends_a_position_may_have_any_limit(desk: Desk):
    stop = {"side": "sell", "product": "MIS", "price_type": "SL", "trigger_price": 1400, "price": 700}
    await desk.place(status=422, **stop)
    await filled(desk, Side.BUY, 10)
    assert desk.at_broker(await desk.place(**stop))


async def test_a_position_that_only_the_broker_knows_can_be_ended(desk: Desk):
    large = {"quantity": 10_000, "product": "MIS", "side": "sell"}
    asked: list[str] = []

    async def theirs(account_id: str) -> list[BrokerPosition]:
        asked.append(account_id)
        if len(asked) == 1:
            raise UnavailableError("The broker is away.")
        nothing = Decimal(0)
        return [BrokerPosition(Exchange.NSE, "RELIANCE", Product.MIS, 10_000, nothing, None, None, None)]

    desk.placing._guard = OrderGuard(LIMITS, prices=desk.prices, positions=desk.fills, clock=desk.clock, theirs=theirs)
    await desk.place(status=422, **large)
    assert desk.at_broker(await desk.place(**large))
    assert desk.at_broker(await desk.place(**large | {"quantity": 6_000}))
    assert asked == [str(desk.people.ids["ann"])] * 2, "only before an order is refused"


async def test_the_broker_is_asked_through_the_accounts_session(desk: Desk):
    order = await desk.place(product="MIS", quantity=6_000)
    [there] = desk.at_broker(order)
    desk.kite.book.fill(there.order_id, 6_000, "1500")
    large = {"quantity": 6_000, "product": "MIS", "side": "sell", "price": 1700}
    await desk.place(status=422, **large)
    theirs = PositionsThere(desk.sessions, desk.news._brokers)
    desk.placing._guard = OrderGuard(LIMITS, prices=desk.prices, positions=desk.fills, clock=desk.clock, theirs=theirs)
    assert desk.at_broker(await desk.place(**large))


async def test_the_rest_of_an_exit_that_is_filled_in_part_can_be_changed(desk: Desk):
    await filled(desk, Side.BUY, 10_000)
    order = await desk.place(side="sell", product="MIS", quantity=10_000)
    [there] = desk.at_broker(order)
    desk.kite.book.fill(there.order_id, 4_000, "1500")
    await desk.refresh()
    assert (await desk.fills.net(str(desk.people.ids["ann"])))[NSE_MIS] == 6_000
    await desk.ask("PATCH", f"orders/{order['id']}", json={"price": 1490})


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
    desk.placing._guard = OrderGuard(LIMITS, prices=desk.prices, positions=desk.fills, clock=desk.clock, patience=0.01)
    assert desk.at_broker(await desk.place(price=15_000))
    await desk.placing._guard.close()


async def test_what_is_in_memory_is_asked_no_further(desk: Desk):
    price(desk, "1500", old=1)
    known = dict(desk.prices.known)
    desk.placing._guard = guard = OrderGuard(
        LIMITS, prices=desk.prices, positions=desk.fills, clock=desk.clock, glance=lambda *key: known.get(key)
    )
    desk.prices.silent = True
    assert desk.at_broker(await desk.place(price=1600))
    assert desk.at_broker(await desk.place(price=None))
    assert not guard._asked, "nobody was asked"
    desk.prices.silent = False
    price(desk, "15000")
    assert desk.at_broker(await desk.place(price=15_000)), "the newest one decides"


async def test_prices_that_cannot_be_had_stop_nothing(desk: Desk):
    desk.prices.broken = True
    assert desk.at_broker(await desk.place(price=15_000))


async def test_ends_of_positions_wait_for_no_price(desk: Desk):
    desk.prices.silent = True
    await filled(desk, Side.BUY, 10)
    assert desk.at_broker(await desk.place(side="sell", product="MIS", price=None))
    assert desk.at_broker(await desk.place(side="sell", price=None))
    assert not desk.placing._guard._asked


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
