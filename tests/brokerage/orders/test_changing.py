"""Changing and cancelling: once, and what the broker's book shows is what happened."""

import asyncio
from decimal import Decimal

import msgspec
import pytest
from beanie import PydanticObjectId

from app.brokerage.orders.changing import booked_of
from app.brokerage.words import OrderState
from tests.brokerage.orders.kit import Desk, Row, until


async def opened(desk: Desk, **values: object) -> Row:
    return await desk.refreshed(await desk.place(**values))  # type: ignore[arg-type]


async def change(desk: Desk, order: Row, status: int = 200, **values: object) -> Row:
    made: Row = await desk.ask("PATCH", f"orders/{order['id']}", status=status, json=values)
    return made


async def cancel(desk: Desk, order: Row, status: int = 200) -> Row:
    made: Row = await desk.ask("DELETE", f"orders/{order['id']}", status=status)
    return made


async def test_a_change_is_pending_until_the_book_shows_it(desk: Desk):
    order = await opened(desk)
    asked = await change(desk, order, price=1490.5, quantity=12)
    [booked] = desk.at_broker(order)
    assert (str(booked.price), booked.quantity) == ("1490.5", 12)
    assert (asked["pending"]["kind"], asked["pending"]["state"]) == ("modify", "ACCEPTED")
    assert asked["pending"]["wanted"]["quantity"] == 12

    shown = await desk.refreshed(order)
    assert (shown["pending"], shown["quantity"], str(shown["price"])) == (None, 12, "1490.5")
    notes = [step["note"] for step in shown["transitions"] if step["note"]]
    assert notes == [
        "Change asked for: quantity 10 → 12, price 1500 → 1490.5.",
        "Changed: quantity 10 → 12, price 1500 → 1490.5.",
    ]
    assert desk.trail.of(order) == ["order.place", "order.modify"]
    same = await change(desk, shown, price=1490.5)
    assert (same["pending"], desk.kite.calls[f"PUT /orders/regular/{booked.order_id}"]) == (None, 1)


async def test_a_limit_becomes_a_stop_and_a_market_order(desk: Desk):
    order = await opened(desk, side="sell")
    await change(desk, order, price_type="SL", trigger_price=1505)
    stop = await desk.refreshed(order)
    assert (stop["price_type"], stop["trigger_price"], stop["price"]) == ("SL", 1505, 1500)
    await change(desk, stop, price_type="MARKET")
    market = await desk.refreshed(order)
    assert (market["price_type"], market["price"], market["trigger_price"]) == ("MARKET", None, None)
    assert [each.price_type for each in desk.at_broker(order)] == ["MARKET"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "Name at least one thing"),
        ({"price": None}, "cannot be null"),
        ({"price": 1500.07}, "nearest is 1500 or 1500.1"),
        ({"quantity": 4}, "4 units are filled already"),
        ({"trigger_price": 1490}, "A LIMIT order has no trigger price"),
        ({"price_type": "SL"}, "needs a trigger price"),
        ({"stock_ticker": "INFY"}, "Extra inputs"),
    ],
)
async def test_changes_that_do_not_fit(desk: Desk, values: Row, said: str):
    order = await opened(desk)
    desk.kite.book.fill(order["broker_order_id"], 4)
    await desk.refresh()
    refused = await change(desk, order, 422, **values)
    assert said in refused["detail"]
    assert (await desk.read(order))["pending"] is None


async def test_what_is_not_open_cannot_be_changed(desk: Desk):
    desk.kite.fail("lost", on="/orders/regular")
    unknown = await desk.read(await desk.place(status=504))
    assert "not known yet" in (await change(desk, unknown, 409, price=1490))["detail"]
    assert "not known yet" in (await cancel(desk, unknown, 409))["detail"]
    await desk.refresh()
    desk.kite.book.fill(desk.at_broker(unknown)[0].order_id)
    await desk.refresh()
    assert "COMPLETE, which is final" in (await change(desk, unknown, 409, price=1490))["detail"]
    assert "COMPLETE, which is final" in (await cancel(desk, unknown, 409))["detail"]


async def test_cancelled_when_the_book_says_so(desk: Desk):
    order = await opened(desk)
    desk.kite.book.fill(order["broker_order_id"], 4)
    asked = await cancel(desk, order)
    assert (asked["status"], asked["pending"]["kind"]) == ("OPEN", "cancel")
    again = await cancel(desk, order)
    assert again["pending"] == asked["pending"]
    done = await desk.refreshed(order)

    assert (done["status"], done["filled_quantity"], done["pending"]) == ("CANCELLED", 4, None)
    assert await cancel(desk, order) == done
    assert desk.kite.calls[f"DELETE /orders/regular/{order['broker_order_id']}"] == 1
    assert desk.trail.of(order) == ["order.place", "order.cancel"]


@pytest.mark.parametrize("kind", ["modify", "cancel"])
async def test_without_an_answer_the_book_tells(desk: Desk, kind: str):
    order = await opened(desk)
    desk.kite.fail("lost", on=f"/orders/regular/{order['broker_order_id']}")
    act = change(desk, order, 504, price=1490) if kind == "modify" else cancel(desk, order, 504)
    told = await act
    pending = (await desk.read(order))["pending"]

    assert told["order_id"] == order["id"]
    assert (pending["kind"], pending["state"]) == (kind, "UNKNOWN")
    assert "at this moment" in (await change(desk, order, 409, price=1480))["detail"]
    done = await desk.refreshed(order)
    assert done["pending"] is None
    assert (done["status"], str(done["price"])) == (("OPEN", "1490") if kind == "modify" else ("CANCELLED", "1500"))


@pytest.mark.parametrize("kind", ["modify", "cancel"])
async def test_what_did_not_arrive_is_noticed(desk: Desk, kind: str):
    order = await opened(desk)
    desk.kite.fail("down", on=f"/orders/regular/{order['broker_order_id']}")
    await (change(desk, order, 504, price=1490) if kind == "modify" else cancel(desk, order, 504))
    assert (await desk.refreshed(order))["pending"]["state"] == "UNKNOWN"
    desk.clock.move(seconds=31)
    left = await desk.refreshed(order)

    assert (left["status"], left["pending"], str(left["price"])) == ("OPEN", None, "1500")
    assert "did not take effect" in left["transitions"][-1]["note"]
    assert (await cancel(desk, order))["pending"]["state"] == "ACCEPTED"


async def test_a_cancellation_need_not_wait_for_a_change_in_doubt(desk: Desk):
    order = await opened(desk)
    for method in ("PUT", "DELETE"):
        desk.kite.fail("down", on=f"{method} /orders/regular/{order['broker_order_id']}")
    await change(desk, order, 504, price=1490)
    await cancel(desk, order, 504)
    assert (await cancel(desk, order))["pending"]["state"] == "ACCEPTED"
    assert (await desk.refreshed(order))["status"] == "CANCELLED"


@pytest.mark.parametrize(("fault", "status"), [("refused", 422), ("too_many", 429), ("expired", 409)])
async def test_what_the_broker_refuses_is_over(desk: Desk, fault: str, status: int):
    order = await opened(desk)
    desk.kite.fail(fault, on=f"/orders/regular/{order['broker_order_id']}")
    await change(desk, order, status, price=1490)
    after = await desk.read(order)
    assert (after["status"], after["pending"], str(after["price"])) == ("OPEN", None, "1500")
    assert "It was not done" in after["transitions"][-1]["note"]


async def test_two_changes_at_once_are_one(desk: Desk):
    order = await opened(desk)
    path = f"/api/v1/dashboard/orders/{order['id']}"
    answers = await asyncio.gather(
        *(desk.client.patch(path, json={"price": 1490 + n}, headers={"Authorization": "Bearer ann"}) for n in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    assert desk.kite.calls[f"PUT /orders/regular/{order['broker_order_id']}"] == 1


async def test_two_cancellations_at_once_are_one(desk: Desk):
    """A double click: both have seen the order without an act; one asks the broker, the other says that it is done."""
    order = await opened(desk)
    desk.sessions.gate, written = asyncio.Event(), desk.trail.gates.setdefault("order.cancel", asyncio.Event())
    clicks = [asyncio.create_task(cancel(desk, order)) for _ in range(2)]
    await until(lambda: desk.sessions.waiting == 2)
    desk.sessions.gate.set()
    # While one of them is at it, the other is answered.
    await until(lambda: len(desk.trail.waiting) == 2 or any(click.done() for click in clicks))
    written.set()
    first, second = await asyncio.gather(*clicks)

    assert [first["pending"]["kind"], second["pending"]["kind"]] == ["cancel", "cancel"]
    assert desk.kite.calls[f"DELETE /orders/regular/{order['broker_order_id']}"] == 1
    assert desk.trail.of(order) == ["order.place", "order.cancel"]
    done = await desk.refreshed(order)
    assert (done["status"], done["pending"]) == ("CANCELLED", None)
    assert [step["note"] for step in done["transitions"] if step["note"]] == ["Cancellation asked for."]


async def test_what_was_cancelled_meanwhile_is_given_as_it_is(desk: Desk):
    order = await opened(desk)
    known = await desk.ledger.find(PydanticObjectId(order["id"]))
    desk.sessions.gate = asyncio.Event()
    asked = asyncio.create_task(cancel(desk, order))
    await until(lambda: desk.sessions.waiting)
    gone = msgspec.structs.replace(booked_of(known), state=OrderState.CANCELLED, updated_at=desk.clock.now())
    await desk.news.observe(order["account_id"], [gone], [])
    desk.sessions.gate.set()

    assert (await asked)["status"] == "CANCELLED"
    assert not desk.kite.calls[f"DELETE /orders/regular/{order['broker_order_id']}"]
    assert desk.trail.of(order) == ["order.place"]


async def test_a_change_that_comes_too_late_leaves_the_cancellation_alone(desk: Desk):
    order = await opened(desk)
    written = desk.trail.gates.setdefault("order.modify", asyncio.Event())
    late = asyncio.create_task(change(desk, order, 422, price=1490))
    await until(lambda: desk.trail.waiting)
    assert (await cancel(desk, order))["pending"]["state"] == "ACCEPTED"
    written.set()
    await late

    pending = (await desk.read(order))["pending"]
    assert (pending["kind"], pending["state"]) == ("cancel", "ACCEPTED")
    done = await desk.refreshed(order)
    assert (done["status"], str(done["price"])) == ("CANCELLED", "1500")


async def test_without_its_audit_entry_nothing_is_changed(desk: Desk):
    order = await opened(desk)
    desk.trail.away = True
    await cancel(desk, order, 503)
    assert (await desk.read(order))["pending"] is None
    assert not desk.kite.calls[f"DELETE /orders/regular/{order['broker_order_id']}"]


async def test_who_hangs_up_has_cancelled(desk: Desk):
    order = await opened(desk)
    on = f"/orders/regular/{order['broker_order_id']}"
    desk.kite.fail("slow", seconds=0.2, on=on)
    request = asyncio.create_task(cancel(desk, order))
    await until(lambda: desk.kite.calls[f"DELETE {on}"])
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await desk.changing.drain()
    assert (await desk.read(order))["pending"]["state"] == "ACCEPTED"


async def test_what_changed_meanwhile_is_not_changed_back(desk: Desk):
    """A change names some of an order's terms and is sent with all: the others are to be those of that moment."""
    order = await opened(desk)
    known = await desk.ledger.find(PydanticObjectId(order["id"]))
    desk.sessions.gate = asyncio.Event()
    asked = asyncio.create_task(change(desk, order, 409, price=1490))
    await until(lambda: desk.sessions.waiting)
    elsewhere = msgspec.structs.replace(booked_of(known), quantity=25, updated_at=desk.clock.now())
    await desk.news.observe(order["account_id"], [elsewhere], [])
    desk.sessions.gate.set()

    assert "has just changed at the broker" in (await asked)["detail"]
    assert not desk.kite.calls[f"PUT /orders/regular/{order['broker_order_id']}"]
    assert ((await desk.read(order))["quantity"], (await desk.read(order))["pending"]) == (25, None)


async def test_what_nobody_knows_any_more_cannot_be_cancelled_and_says_so(desk: Desk):
    desk.kite.fail("lost", on="/orders/regular")
    order = await desk.read(await desk.place(status=504))
    assert "Try again shortly" in (await cancel(desk, order, 409))["detail"]
    desk.kite.book.next_day()
    desk.clock.move(days=1)
    desk.sessions.token = desk.kite.issue()
    await desk.refresh()
    await desk.refresh()
    assert "contract notes" in (await cancel(desk, order, 409))["detail"]


async def test_partly_filled_then_cancelled_keeps_its_fills(desk: Desk):
    order = await opened(desk)
    desk.kite.book.fill(order["broker_order_id"], 4, "1500")
    await cancel(desk, order)
    gone = await desk.refreshed(order)
    assert (gone["status"], gone["filled_quantity"], gone["quantity"], gone["pending"]) == ("CANCELLED", 4, 10, None)
    assert [trade.quantity for trade in desk.fills.trades.values()] == [4]
    assert await desk.ledger.watched() == []


async def test_changed_and_cancelled_in_the_brokers_own_app(desk: Desk):
    order = await opened(desk)
    desk.clock.move(seconds=5)
    desk.kite.book.modify(order["broker_order_id"], quantity=25, price=Decimal(1480))
    there = await desk.refreshed(order)
    assert (there["status"], there["quantity"], str(there["price"]), there["pending"]) == ("OPEN", 25, "1480", None)
    desk.clock.move(seconds=5)
    desk.kite.book.cancel(order["broker_order_id"])
    assert (await desk.refreshed(order))["status"] == "CANCELLED"
    assert "final" in (await change(desk, order, 409, price=1490))["detail"]
