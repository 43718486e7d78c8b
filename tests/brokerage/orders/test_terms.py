"""Quantity and prices of an order are the broker's, whatever became of a change."""

from decimal import Decimal

from tests.brokerage.orders.kit import Desk
from tests.brokerage.orders.test_changing import change, opened


async def test_a_change_that_the_exchange_refuses_leaves_what_was(desk: Desk):
    order = await opened(desk)
    [there] = desk.at_broker(order)
    await change(desk, order, price_type="MARKET")  # the broker takes the request
    there.price_type, there.price = "LIMIT", Decimal(1500)
    desk.clock.move(seconds=31)
    left = await desk.refreshed(order)
    assert (left["price_type"], str(left["price"]), left["pending"]) == ("LIMIT", "1500", None)
    assert "did not take effect" in left["transitions"][-1]["note"]


async def test_a_change_in_doubt_that_is_filled_at_once_happened(desk: Desk):
    order = await opened(desk)
    desk.kite.fail("lost", on=f"/orders/regular/{order['broker_order_id']}")
    await change(desk, order, 504, quantity=20, price=1490)
    desk.kite.book.fill(order["broker_order_id"], 20, "1490")
    done = await desk.refreshed(order)
    assert (done["status"], done["quantity"], done["filled_quantity"]) == ("COMPLETE", 20, 20)
    assert (str(done["price"]), done["pending"]) == ("1490", None)


async def test_a_change_in_doubt_that_did_not_happen_before_the_end(desk: Desk):
    order = await opened(desk)
    desk.kite.fail("down", on=f"/orders/regular/{order['broker_order_id']}")
    await change(desk, order, 504, quantity=20, price=1490)
    desk.kite.book.fill(order["broker_order_id"], 10, "1500")
    done = await desk.refreshed(order)
    assert (done["status"], done["quantity"], str(done["price"])) == ("COMPLETE", 10, "1500")


async def test_a_limit_that_somebody_takes_away_in_the_brokers_app(desk: Desk):
    order = await opened(desk)
    desk.clock.move(seconds=5)
    [there] = desk.at_broker(order)
    there.price_type, there.price, there.updated_at = "MARKET", None, desk.clock.now()
    seen = await desk.refreshed(order)
    assert (seen["price_type"], seen["price"]) == ("MARKET", None)
