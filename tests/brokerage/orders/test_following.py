"""Open orders are followed to their end: polls, pushes, another day, another process; and differences are told."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from bson import ObjectId

from app.brokerage.errors import BrokerSessionError
from app.brokerage.orders.changing import booked_of
from app.brokerage.orders.ledger import WATCHED
from app.brokerage.orders.polling import LEAST, LONGEST, pace
from app.brokerage.orders.reconciliation import position_differences
from app.brokerage.orders.schemas import ReconciliationReport
from app.brokerage.ports import OrderNews
from app.brokerage.words import Exchange, OrderState, Product
from app.core.bus import Bus, NullTransport
from app.core.cancelling import end
from app.core.clock import to_micros
from tests.brokerage.orders.kit import NOON, Desk, Row, path_of, until
from tests.brokerage.orders.test_transitions import row
from tests.simulators.brokers.instruments import RELIANCE

AFTER_CLOSE = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
MONDAY = datetime(2026, 11, 23, 3, 50, tzinfo=UTC)
"""16:00 of a Friday and 09:20 of the next trading day, in India."""


async def pushed(desk: Desk, order: Row, *states: str) -> None:
    """As a webhook hears of it."""
    del states
    account = str(desk.people.ids["ann"])
    broker, opened, session = await desk.news.opened(account)
    await desk.news.observe(account, await broker.orders(opened, session), [])
    assert order


async def test_partly_then_whole_and_its_fills_once(desk: Desk):
    order = await desk.place()
    [booked] = desk.at_broker(order)
    desk.kite.book.fill(booked.order_id, 4, "1499.50")
    part = await desk.refreshed(order)
    desk.clock.move(seconds=5)
    desk.kite.book.fill(booked.order_id, 6, "1500")
    whole = await desk.refreshed(order)
    await desk.refresh()

    assert (part["status"], part["filled_quantity"], part["average_price"]) == (
        "PARTIALLY_FILLED",
        4,
        Decimal("1499.5"),
    )
    assert (whole["status"], whole["filled_quantity"], whole["average_price"]) == ("COMPLETE", 10, Decimal("1499.8"))
    assert path_of(whole) == ["INTENT", "SENDING", "PENDING", "PARTIALLY_FILLED", "COMPLETE"]
    assert whole["order_executed_at"]
    assert sum(trade.quantity for trade in desk.fills.trades.values()) == 10
    assert (len(desk.fills.trades), desk.fills.calls) == (2, 2)
    assert await desk.ledger.watched() == []


async def test_the_end_of_an_order_is_not_the_end_while_its_fills_are_missing(desk: Desk):
    order = await desk.place()
    [booked] = desk.at_broker(order)
    desk.kite.book.fill(booked.order_id)
    hidden = list(desk.kite.book.trades)
    desk.kite.book.trades.clear()
    assert (await desk.refreshed(order))["status"] == "COMPLETE"
    assert len(await desk.ledger.watched()) == 1
    assert not desk.fills.trades

    desk.kite.book.trades.extend(hidden)
    await desk.refresh()
    assert len(desk.fills.trades) == 1
    assert await desk.ledger.watched() == []


async def test_a_push_alone_is_enough_and_another_process_adds_nothing(desk: Desk):
    order = await desk.place()
    [booked] = desk.at_broker(order)
    desk.kite.book.fill(booked.order_id)
    await pushed(desk, order)
    assert (await desk.read(order))["status"] == "COMPLETE"

    other = desk.another_process()
    before = len(desk.events)
    port: OrderNews = other
    await other.refresh(str(desk.people.ids["ann"]))
    port.look("nothing happens while it does not run")
    after = await desk.read(order)
    assert [path_of(after).count(state) for state in ("COMPLETE", "OPEN")] == [1, 0]
    assert len(desk.events) == before + 1  # that its fills are there
    assert len(desk.fills.trades) == 1


def told_open(desk: Desk, order: Row) -> bool:
    """Whether it has been told that the order is open; what is told after that does not matter."""
    return any((event.order_id, event.state) == (order["id"], "OPEN") for event in desk.events)


async def test_looks_are_taken_at_once_and_together(desk: Desk):
    order = await desk.place()
    running = asyncio.create_task(desk.news.run())
    account = str(desk.people.ids["ann"])
    for _ in range(50):
        desk.news.look(account)
    await until(lambda: told_open(desk, order))
    await asyncio.sleep(0.1)
    assert desk.kite.calls["GET /orders"] == 1
    [booked] = desk.at_broker(order)
    desk.kite.book.fill(booked.order_id)
    desk.kite.fail("down", on="GET /orders")
    desk.news.look(account)
    await end([running])


async def test_polling_takes_everything_on_after_a_crash(desk: Desk):
    """What a killed process left: one that was being sent and arrived, two that did not, and an open one."""
    opened = await desk.place()
    desk.kite.fail("lost", on="/orders/regular")
    arrived = await desk.read(await desk.place(status=504, stock_ticker="INFY"))
    desk.kite.fail("down", on="/orders/regular")
    lost = await desk.read(await desk.place(status=504, price=1400))
    unsent = await desk.place(price=1450)
    rows = desk.db["orders"]
    for order, state in ((arrived, "SENDING"), (lost, "UNKNOWN"), (unsent, "SENDING")):
        await rows.update_one({"tag": order["tag"]}, {"$set": {"state": state, "broker_order_id": None}})
    desk.kite.book.orders = {id_: each for id_, each in desk.kite.book.orders.items() if each.tag != unsent["tag"]}
    desk.clock.move(minutes=2)

    polling = desk.polling(idle=0.05)
    running = asyncio.create_task(polling.run())
    await until(lambda: polling.health()["open"] == 4)

    async def states() -> list[str]:
        return [(await desk.read(order))["status"] for order in (opened, arrived, lost, unsent)]

    deadline = time.monotonic() + 30
    while (found := await states()) != ["OPEN", "OPEN", "NOT_SENT", "NOT_SENT"]:
        assert time.monotonic() < deadline, found
        desk.clock.move(seconds=1)
        await asyncio.sleep(0.05)
    assert desk.kite.calls["POST /orders/regular"] == 4
    await until(lambda: (polling.health()["open"], polling.health()["unknown"]) == (2, 0))
    await until(lambda: all("order.missing" in desk.trail.of(order) for order in (unsent, lost)))
    await end([running])
    assert desk.trail.of(unsent) == ["order.place", "order.left", "order.missing"]
    assert desk.trail.of(lost) == ["order.place", "order.unknown", "order.missing"]


async def test_polling_goes_slower_where_the_broker_fails_and_says_so(desk: Desk):
    await desk.place()
    desk.sessions.token = ""
    polling = desk.polling(idle=0.02)
    running = asyncio.create_task(polling.run())
    await until(lambda: polling.health()["accounts_failing"] == 1)
    await asyncio.sleep(0.2)
    assert desk.kite.calls["GET /orders"] == 0
    assert polling.health()["here"]
    await end([running])
    assert not polling.health()["here"]


async def test_a_session_that_the_broker_ended_is_told(desk: Desk):
    await desk.place()
    desk.kite.end_sessions()
    with pytest.raises(BrokerSessionError):
        await desk.refresh()
    assert desk.sessions.ended == [str(desk.people.ids["ann"])]


@pytest.mark.parametrize("state", list(OrderState))
def test_the_pace(state: OrderState):
    for minutes in (0, 1, 10, 60, 600):
        known = row(state, updated_at=NOON)
        assert LEAST <= pace(known, NOON + timedelta(minutes=minutes)) <= LONGEST
    young, old = (pace(row(state, updated_at=NOON), NOON + timedelta(minutes=n)) for n in (0, 60))
    assert young <= old


async def test_the_next_day_knows_nothing_of_yesterday(desk: Desk):
    opened = await desk.refreshed(await desk.place())
    desk.kite.fail("lost", on="/orders/regular")
    unknown = await desk.read(await desk.place(status=504, stock_ticker="INFY"))
    desk.kite.book.next_day()
    desk.clock.move(days=1)
    desk.sessions.token = desk.kite.issue()
    await desk.refresh()
    await desk.refresh()

    opened, unknown = await desk.read(opened), await desk.read(unknown)
    assert (opened["status"], opened["certain"]) == ("EXPIRED", False)
    assert (unknown["status"], unknown["certain"]) == ("UNKNOWN", False)
    assert "contract notes" in unknown["reason"]
    assert await desk.ledger.watched() == []
    assert path_of(unknown).count("UNKNOWN") == 2


async def test_what_agrees_and_what_differs(desk: Desk):
    order = await desk.place(product="MIS")
    [booked] = desk.at_broker(order)
    desk.kite.book.fill(booked.order_id, 4, "1500")
    assert (await desk.reconciliation.run())["agrees"] == 1
    [agrees] = await desk.ask("GET", "reconciliation")
    assert ReconciliationReport.model_validate(agrees).status == "agrees"
    assert (agrees["orders"], agrees["trades"], agrees["positions"]) == (1, 1, 1)
    assert agrees["compared"] == ["orders", "trades", "positions"]

    # Somebody trades in the broker's own app, a fill goes missing, and an order vanishes.
    foreign = desk.kite.book.place(
        "NSE", "INFY", "SELL", 3, product="MIS", price_type="LIMIT", price=Decimal(1620), tag=None
    )
    desk.kite.book.fill(foreign.order_id, 3, "1620")
    gone = await desk.refreshed(await desk.place(price=1400))
    del desk.kite.book.orders[gone["broker_order_id"]]
    desk.fills.trades.clear()
    assert (await desk.reconciliation.run())["differs"] == 1
    [differs] = await desk.ask("GET", "reconciliation")
    found = {(each["kind"], each["symbol"]) for each in differs["differences"]}
    assert {("foreign", "INFY"), ("missing", "RELIANCE"), ("position", "RELIANCE")} <= found
    assert await desk.ask("GET", "reconciliation", "bob") == []


async def test_an_account_that_cannot_be_asked_is_reported_as_such(desk: Desk):
    desk.kite.fail("lost", on="/orders/regular")
    order = await desk.read(await desk.place(status=504))
    desk.sessions.token = ""
    assert (await desk.reconciliation.run())["unavailable"] == 1
    [report] = await desk.ask("GET", "reconciliation")

    assert (report["status"], report["compared"]) == ("unavailable", [])
    assert "sign in" in report["detail"]
    assert [(each["kind"], each["order_id"]) for each in report["differences"]] == [("unresolved", order["id"])]


def test_positions_of_deliveries_are_not_compared():
    from app.brokerage.orders.ports import Holding
    from app.brokerage.words import BrokerPosition

    def theirs(product: Product, net: int, symbol: str = "RELIANCE") -> BrokerPosition:
        return BrokerPosition(Exchange.NSE, symbol, product, net, Decimal(1), None, None, None)

    ours = {Holding(Exchange.NSE, "RELIANCE", Product.MIS): 5, Holding(Exchange.NSE, "RELIANCE", Product.CNC): 5}
    assert position_differences(ours, [theirs(Product.MIS, 5, "RELIANCE-EQ"), theirs(Product.CNC, 9)]) == []
    [difference] = position_differences(ours, [theirs(Product.MIS, -5)])
    assert (difference["ours"], difference["theirs"]) == ("5", "-5")
    assert len(position_differences({}, [theirs(Product.NRML, 0)])) == 0
    assert RELIANCE.symbol


async def test_two_processes_that_hear_the_same_at_once_store_it_once(desk: Desk):
    order = await desk.place()
    [booked] = desk.at_broker(order)
    desk.kite.book.fill(booked.order_id)
    others = [desk.another_process() for _ in range(4)]
    account = str(desk.people.ids["ann"])
    await asyncio.gather(*(other.refresh(account) for other in others))

    after = await desk.read(order)
    assert path_of(after) == ["INTENT", "SENDING", "PENDING", "COMPLETE"]
    assert len(desk.fills.trades) == 1
    _ = Bus(NullTransport())


async def test_a_new_session_is_used_at_once(desk: Desk):
    order = await desk.place()
    token, desk.sessions.token = desk.sessions.token, ""
    polling = desk.polling()
    running = asyncio.create_task(polling.run())
    await until(lambda: polling.health()["accounts_failing"] == 1)
    desk.sessions.token = token
    polling.retry(order["account_id"])
    await until(lambda: told_open(desk, order))
    await end([running])


async def test_orders_of_an_account_that_is_gone_are_left_as_they_were(desk: Desk):
    order = await desk.refreshed(await desk.place())
    bobs = await desk.place("bob")
    assert await desk.reading.unsettled(order["account_id"]) == 1
    await desk.reconciliation.run()
    desk.sessions.removed.add(order["account_id"])
    polling = desk.polling(idle=0.05)
    running = asyncio.create_task(polling.run())
    await until(lambda: polling.health()["open"] == 1)
    await end([running])

    left = await desk.read(order)
    assert (left["status"], left["certain"]) == ("OPEN", False)
    assert "account was removed" in left["transitions"][-1]["note"]
    assert [row["tag"] for row in await desk.ledger.watched()] == [bobs["tag"]]
    assert len(await desk.ask("GET", "reconciliation")) == 1
    await desk.reconciliation.run()
    assert await desk.ask("GET", "reconciliation") == []
    assert len(await desk.ask("GET", "reconciliation", "bob")) == 1


async def test_orders_that_no_book_can_have_keep_no_account_from_being_removed(desk: Desk):
    order = await desk.place()
    desk.clock.move(days=1)
    assert await desk.reading.unsettled(order["account_id"]) == 1
    desk.clock.move(days=2)
    assert await desk.reading.unsettled(order["account_id"]) == 0


async def after_the_close(desk: Desk, **values: object) -> Row:
    """An order of Friday, 16:00 in India, for Monday."""
    desk.clock.moment = AFTER_CLOSE
    return await desk.place(**values)  # type: ignore[arg-type]


async def told(desk: Desk, orders: list[Row], state: OrderState) -> None:
    """As the broker tells of them."""
    rows = [await desk.ledger.find(ObjectId(order["id"])) for order in orders]
    now = desk.clock.now()
    booked = [msgspec.structs.replace(booked_of(each), state=state, updated_at=now) for each in rows]
    await desk.news.observe(orders[0]["account_id"], booked, [])


async def test_what_was_placed_before_a_weekend_is_replayed_when_it_changes(desk: Desk):
    ann = str(desk.people.ids["ann"])
    order = await after_the_close(desk)
    desk.clock.moment = MONDAY - timedelta(minutes=10)
    seen = to_micros(desk.clock.now())
    assert await desk.reading.since(ann, seen, 10) == []
    desk.clock.moment = MONDAY
    await told(desk, [order], OrderState.OPEN)

    [(seq, body)] = await desk.reading.since(ann, seen, 10)
    assert (seq, json.loads(body)["id"], json.loads(body)["status"]) == (desk.events[-1].seq, order["id"], "OPEN")


async def test_of_what_changed_the_oldest_are_replayed_first(desk: Desk):
    orders = [await after_the_close(desk, price=1500 + number) for number in range(3)]
    desk.clock.moment = MONDAY
    for order in reversed(orders):
        await told(desk, [order], OrderState.OPEN)
        desk.clock.move(seconds=1)
    replayed = await desk.reading.since(str(desk.people.ids["ann"]), 0, 2)
    assert [json.loads(body)["id"] for _, body in replayed] == [orders[2]["id"], orders[1]["id"]]


async def test_an_account_with_orders_from_before_a_weekend_is_not_settled(desk: Desk):
    order = await after_the_close(desk)
    desk.clock.moment = MONDAY
    assert await desk.reading.unsettled(order["account_id"]) == 1
    desk.clock.move(days=1)
    assert await desk.reading.unsettled(order["account_id"]) == 0


async def test_orders_that_the_book_has_again_after_a_weekend_are_known_however_many(desk: Desk):
    """Brokers' books of a Saturday may not have what is placed for Monday."""
    orders = [await after_the_close(desk, price=1500 + number) for number in range(6)]
    desk.kite.book.next_day()
    desk.clock.move(days=1)
    desk.sessions.token = desk.kite.issue()
    await desk.refresh()
    assert {(await desk.read(order))["status"] for order in orders} == {"EXPIRED"}
    desk.clock.moment = MONDAY
    await told(desk, orders, OrderState.OPEN)
    assert {(await desk.read(order))["status"] for order in orders} == {"OPEN"}


async def test_however_many_wait_for_somebody_to_sign_in_the_others_are_followed(desk: Desk):
    stuck = {"account_id": "0" * 24, "state": "OPEN", "watch": True, "act": None, "price_type": "LIMIT", "seq": 1}
    stuck |= {"validity": "DAY", "user_id": ObjectId(), "sent_at": NOON, "created_at": NOON, "updated_at": NOON}
    names = (f"T{number}" for number in range(WATCHED + 1))
    copies = [{**stuck, "_id": ObjectId(), "tag": name, "client_key": name} for name in names]
    await desk.db["orders"].insert_many(copies)
    order = await desk.place()
    desk.sessions.shut.add("0" * 24)
    polling = desk.polling(idle=0.05)
    running = asyncio.create_task(polling.run())
    await until(lambda: told_open(desk, order))
    await end([running])


async def test_the_report_of_a_removed_account_goes_at_once(desk: Desk):
    order = await desk.place()
    await desk.reconciliation.run()
    running = asyncio.create_task(desk.reconciliation.forget_removed())
    desk.reconciliation.removed(order["account_id"])
    async with asyncio.timeout(30):
        while await desk.ask("GET", "reconciliation"):
            await asyncio.sleep(0.01)
    await end([running])
    assert await desk.ask("GET", "reconciliation") == []
