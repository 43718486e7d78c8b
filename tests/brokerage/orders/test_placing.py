"""Orders are placed once, whatever the broker, the database and the client do."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from bson import ObjectId
from hypothesis import given as drawn
from hypothesis import strategies as st

from app.brokerage.adapters.angel_one.words import CAPABILITIES as ANGEL_ONE
from app.brokerage.adapters.groww.words import CAPABILITIES as GROWW
from app.brokerage.adapters.upstox.words import CAPABILITIES as UPSTOX
from app.brokerage.adapters.zerodha.words import CAPABILITIES as ZERODHA
from app.brokerage.orders.budget import OrderBudget
from app.brokerage.orders.drafts import TAG_LENGTH, id_in, tag_of
from app.brokerage.orders.merging import Timing
from app.brokerage.orders.models import DOCUMENTS, OrderDocument
from app.brokerage.orders.placing import Placing
from app.brokerage.orders.schemas import Order, OrderInput, OrderRow
from app.brokerage.orders.wire import order_wire
from app.brokerage.words import BrokerName, Capabilities, Exchange, OrderState, Side
from app.core.errors import UnavailableError
from tests.brokerage.orders.kit import SEED, Desk, Row, answering, desk_of, path_of, until
from tests.brokerage.patience import TIMEOUTS
from tests.support.mongodb import Db, empty_database, server_port, through
from tests.support.tcp_proxy import TcpProxy


async def test_the_body_of_old_works_as_it_stands(desk: Desk):
    order = await desk.ask("POST", "order/buy", status=201, json=SEED)

    assert (order["status"], order["price_type"], order["product"]) == ("PENDING", "LIMIT", "CNC")
    assert (order["stock_symbol"], order["quantity"], order["price"], order["order_type"]) == (
        "RELIANCE",
        10,
        1500,
        "buy",
    )
    [booked] = desk.at_broker(order)
    assert (booked.order_id, booked.side, booked.quantity, booked.price_type) == (
        order["broker_order_id"],
        "BUY",
        10,
        "LIMIT",
    )
    assert path_of(order) == ["INTENT", "SENDING", "PENDING"]
    assert desk.trail.of(order) == ["order.place"]
    assert path_of(await desk.refreshed(order)) == ["INTENT", "SENDING", "PENDING", "OPEN"]
    assert [event.state for event in desk.events] == ["SENDING", "PENDING", "OPEN"]
    assert json.loads(desk.events[-1].body)["status"] == "OPEN"


async def test_without_a_price_it_is_a_market_order(desk: Desk):
    order = await desk.place(side="sell", price=None, product="mis")

    [booked] = desk.at_broker(order)
    assert (order["price_type"], order["price"], order["product"]) == ("MARKET", None, "MIS")
    assert (booked.side, booked.price_type, booked.product) == ("SELL", "MARKET", "MIS")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"order_type": "sell"}, "order_type: This path is for buy orders"),
        ({"stock_ticker": "RELIANCEE"}, "do you mean RELIANCE?"),
        ({"stock_ticker": "NIFTY26DEC24500CE"}, "it does on NFO: send that as exchange"),
        ({"stock_ticker": "NIFTY 50"}, "is an index, which cannot be traded"),
        ({"exchange": "MCX"}, "zerodha does not trade on MCX here; it takes BFO, BSE, NFO or NSE"),
        ({"product": "NRML"}, "zerodha does not take NRML on NSE; it takes CNC, MIS or MTF"),
        ({"price": 1500.07}, "multiples of 0.1: the nearest is 1500 or 1500.1"),
        ({"quantity": 100_000}, "99999 units at most"),
        ({"price_type": "MARKET"}, "A MARKET order has no price: leave it out, or send LIMIT"),
        ({"price_type": "LIMIT", "price": None}, "A LIMIT order needs a price"),
        ({"price_type": "SL"}, "An SL order needs a trigger price"),
        ({"trigger_price": 1490}, "A LIMIT order has no trigger price"),
        ({"price_type": "SL", "trigger_price": 1510}, "at or above its trigger price (1510)"),
        ({"mtf_enabled": True, "product": "CNC"}, "mtf_enabled means the product MTF"),
        ({"quantity": 0}, "greater than 0"),
        ({"quantity": 1.5}, "valid integer"),
        ({"quantity": True}, "whole number"),
        ({"price": -1}, "greater than 0"),
        ({"price": "NaN"}, "finite"),
        ({"client_order_id": "a b"}, "letters, digits"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name_and_never_changed(desk: Desk, body: Row, said: str):
    refused = await desk.place(status=422, **body)

    assert said in refused["detail"], refused["detail"]
    assert refused["errors"]
    assert not desk.kite.book.orders
    assert await desk.ask("GET", "orders") == []


async def test_lots_and_stops_of_options(desk: Desk):
    call = {"stock_ticker": "NIFTY26DEC24500CE", "exchange": "NFO", "price": 180}
    uneven = await desk.place(status=422, quantity=100, **call)
    many = await desk.place(status=422, quantity=1950, **call)
    stop = await desk.place(side="sell", quantity=65, price_type="SL", trigger_price=175, **call | {"price": 174.95})

    assert "lots of 65 units: the nearest quantity is 65 or 130" in uneven["detail"]
    assert "1755 units at most" in many["detail"]
    assert (stop["product"], stop["trigger_price"]) == ("NRML", 175)
    assert (await desk.refreshed(stop))["status"] == "TRIGGER_PENDING"


async def test_circuits_are_named(desk: Desk):
    key = (Exchange.NSE, "RELIANCE")
    limits = {"lower_circuit": Decimal("1359.03"), "upper_circuit": Decimal("1661.07")}
    desk.listings.rows[key] = msgspec.structs.replace(desk.listings.rows[key], **limits)

    low, high = [await desk.place(status=422, price=price) for price in (1300, 1700)]

    assert "1359.1 is the least" in low["detail"]
    assert "1661 is the most" in high["detail"]


async def test_a_repeat_is_the_same_order(desk: Desk):
    first = await desk.place(client_order_id="a-1")
    again = await desk.place(status=200, client_order_id="a-1")
    spelled = await desk.place(status=200, client_order_id="a-1", price="1500.00")
    other = await desk.place(status=409, client_order_id="a-1", quantity=11)
    bobs = await desk.place("bob", client_order_id="a-1")

    assert again == spelled == first
    assert "use a new one" in other["detail"]
    assert bobs["id"] != first["id"]
    assert len(desk.kite.book.orders) == 2


async def test_many_at_once_under_one_id_are_one(desk: Desk):
    body = {**SEED, "client_order_id": "once"}
    who = {"Authorization": "Bearer ann"}
    answers = await asyncio.gather(
        *(desk.client.post("/api/v1/dashboard/order/buy", json=body, headers=who) for _ in range(8))
    )

    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert {answer.json()["status"] for answer in answers} == {"PENDING"}
    assert len(desk.kite.book.orders) == 1


async def test_two_processes_at_once_under_one_id_are_one(desk: Desk):
    caller = await desk.people.authenticate("ann")
    given = OrderInput.model_validate(SEED | {"client_order_id": "once"})
    other = Placing(
        ledger=desk.ledger,
        brokers={BrokerName.ZERODHA: (await desk.news.opened(str(caller.user_id)))[0]},
        sessions=desk.sessions,
        listings=desk.listings,
        budget=OrderBudget(desk.clock),
        news=desk.news,
        audit=desk.trail,
    )
    placed = await asyncio.gather(*(each.place(caller, Side.BUY, given) for each in (desk.placing, other)))

    assert sorted(each.new for each in placed) == [False, True]
    assert len({json.loads(each.body)["id"] for each in placed}) == 1
    assert len(desk.kite.book.orders) == 1
    assert sorted(act.action for act in desk.trail.acts) == ["order.place", "order.place", "order.repeated"]
    [told] = [act for act in desk.trail.acts if act.action == "order.repeated"]
    assert told.details == {"same_as": json.loads(placed[0].body)["id"]}
    assert told.target != ("order", told.details["same_as"])


@drawn(st.binary(min_size=12, max_size=12))
def test_a_tag_holds_the_id(number: bytes):
    tag = tag_of(ObjectId(number))

    assert id_in(tag) == ObjectId(number)
    assert len(tag) == TAG_LENGTH
    assert tag.isalnum()
    assert tag.isascii()


def test_what_is_no_tag_of_ours():
    assert [id_in(tag) for tag in ("", "arrow", "Z" * TAG_LENGTH, "a" * TAG_LENGTH, "0" * 18 + "-")] == [None] * 5


@pytest.mark.parametrize("capabilities", [ANGEL_ONE, GROWW, UPSTOX, ZERODHA], ids=lambda each: each.broker)
def test_every_broker_keeps_a_whole_tag(capabilities: Capabilities):
    assert capabilities.tag_length >= TAG_LENGTH


async def test_who_may(desk: Desk):
    order = await desk.place()

    await desk.ask("GET", "orders", None, 401)
    await desk.ask("POST", "order/buy", None, 401, json=SEED)
    await desk.ask("POST", "order/buy", "reader", 403, json=SEED)
    await desk.ask("DELETE", f"orders/{order['id']}", "reader", 403)
    await desk.ask("GET", "orders", "alerts", 403)
    await desk.ask("GET", "reconciliation", "alerts", 403)
    assert (await desk.read(order, "reader"))["id"] == order["id"]
    for method, body in (("GET", None), ("PATCH", {"price": 1501}), ("DELETE", None)):
        await desk.ask(method, f"orders/{order['id']}", "bob", 404, **({"json": body} if body else {}))
        await desk.ask(method, "orders/nonsense", "bob", 404, **({"json": body} if body else {}))
    assert await desk.ask("GET", "orders", "bob") == []


# What the broker does


async def test_rejected_at_the_door(desk: Desk):
    desk.kite.fail("refused", on="/orders/regular")
    refused = await desk.place(status=422, client_order_id="r")
    order = await desk.read(refused)

    assert "Insufficient funds" in refused["detail"]
    assert refused["type"].endswith("order-rejected")
    assert (order["status"], order["client_order_id"]) == ("REJECTED", "r")
    assert "Insufficient funds" in order["reason"]
    again = await desk.place(status=422, client_order_id="r")
    assert (again["detail"], again["order_id"]) == (refused["detail"], order["id"])
    assert not desk.kite.book.orders
    assert desk.trail.of(order) == ["order.place", "order.rejected"]


async def test_rejected_by_the_exchange(desk: Desk):
    desk.kite.book.reject_next("17177: The price is out of the circuit limits")
    order = await desk.refreshed(await desk.place())

    assert (order["status"], path_of(order)[-1]) == ("REJECTED", "REJECTED")
    assert "circuit" in order["reason"]
    assert order["closed_at"]


@pytest.mark.parametrize(("fault", "status"), [("expired", 409), ("too_many", 429)])
async def test_what_was_certainly_not_done_is_not_sent(desk: Desk, fault: str, status: int):
    desk.kite.fail(fault, on="/orders/regular")
    refused = await desk.place(status=status)
    order = await desk.read(refused)

    assert order["status"] == "NOT_SENT"
    assert not desk.kite.book.orders
    assert bool(desk.sessions.ended) is (fault == "expired")
    assert desk.trail.of(order) == ["order.place", "order.not_sent"]
    # Nothing of it is asked of the broker again.
    assert await desk.ledger.watched() == []


async def test_after_a_429_the_account_pauses(desk: Desk):
    desk.kite.fail("too_many", on="/orders/regular")
    await desk.place(status=429)
    paused = await desk.client.post("/api/v1/dashboard/order/buy", json=SEED, headers={"Authorization": "Bearer ann"})

    assert (paused.status_code, "Retry-After" in paused.headers) == (429, True)
    assert "asked for a pause" in paused.json()["detail"]
    assert desk.kite.calls["POST /orders/regular"] == 1
    desk.clock.move(seconds=5)
    assert (await desk.place())["status"] == "PENDING"


async def test_a_broker_that_cannot_be_reached(desk: Desk):
    await desk.kite.__aexit__(None, None, None)
    refused = await desk.place(status=503)

    assert (await desk.read(refused))["status"] == "NOT_SENT"


@pytest.mark.parametrize(
    "fault", ["lost", "reset_after", "html_after", "garbage_after", "down_after", "oms_down_after", "no_order_id"]
)
async def test_an_answer_that_is_none_is_unknown_and_found_by_its_tag(desk: Desk, fault: str):
    desk.kite.fail(fault, on="/orders/regular")
    lost = await desk.place(status=504, client_order_id="u")
    order = await desk.read(lost)

    assert (order["status"], order["broker_order_id"]) == ("UNKNOWN", None)
    assert "Do not send it again" in lost["detail"]
    assert (await desk.place(status=200, client_order_id="u"))["status"] == "UNKNOWN"
    found = await desk.refreshed(order)
    [booked] = desk.at_broker(order)
    assert (found["status"], found["broker_order_id"]) == ("OPEN", booked.order_id)
    assert path_of(found) == ["INTENT", "SENDING", "UNKNOWN", "OPEN"]
    assert desk.trail.of(order) == ["order.place", "order.unknown", "order.found"]
    assert desk.kite.calls["POST /orders/regular"] == 1


@pytest.mark.parametrize("fault", ["down", "html", "half_open"])
async def test_what_never_arrived_is_not_sent_only_when_late_books_say_so(desk: Desk, fault: str):
    desk.kite.fail(fault, on="/orders/regular")
    desk.kite.book.place = _never  # type: ignore[method-assign]
    with TIMEOUTS.hurried(needed=fault == "half_open"):
        order = await desk.read(await desk.place(status=504))
    assert order["status"] == "UNKNOWN"

    await desk.refresh()  # too early to say anything
    desk.clock.move(seconds=44)
    await desk.refresh()
    assert (await desk.read(order))["status"] == "UNKNOWN"
    desk.clock.move(seconds=2)
    await desk.refresh()  # late enough, once
    assert (await desk.read(order))["status"] == "UNKNOWN"
    desk.clock.move(seconds=6)
    await desk.refresh()

    gone = await desk.read(order)
    assert (gone["status"], gone["certain"]) == ("NOT_SENT", True)
    assert "never arrived" in gone["reason"]
    assert desk.trail.of(order)[-1] == "order.missing"
    assert desk.kite.calls["POST /orders/regular"] == 1


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("it must not be placed")


async def test_books_that_cannot_be_read_conclude_nothing(desk: Desk):
    desk.kite.fail("down", on="/orders/regular")
    order = await desk.read(await desk.place(status=504))
    desk.clock.move(hours=1)
    for fault in ("down", "html", "garbage", "reset", "half_open"):
        desk.kite.fail(fault, on="GET /orders")
        with pytest.raises(Exception, match="Zerodha"), TIMEOUTS.hurried(needed=fault == "half_open"):
            await desk.refresh()
        desk.kite.heal()
        desk.clock.move(minutes=1)
    assert (await desk.read(order))["status"] == "UNKNOWN"
    assert (await desk.settled(order))["status"] == "NOT_SENT"


async def test_an_order_without_a_tag_that_could_be_it_keeps_the_doubt(desk: Desk):
    desk.kite.fail("lost", on="/orders/regular")
    order = await desk.read(await desk.place(status=504))
    [booked] = desk.at_broker(order)
    booked.tag = None

    doubted = await desk.settled(order)
    assert doubted["status"] == "UNKNOWN"
    [report] = await _compared(desk)
    assert {each["kind"] for each in report["differences"]} == {"unresolved", "foreign"}
    booked.quantity = 999  # somebody else's then
    assert (await desk.settled(order))["status"] == "NOT_SENT"


async def _compared(desk: Desk) -> list[Row]:
    await desk.reconciliation.run()
    found: list[Row] = await desk.ask("GET", "reconciliation")
    return found


async def test_it_is_never_forgotten_even_where_the_book_had_been_wrong(desk: Desk):
    """A process that slept while it was sending: the order arrives after it was given up."""
    desk.kite.fail("lost", on="/orders/regular")
    order = await desk.read(await desk.place(status=504))
    hidden = dict(desk.kite.book.orders)
    desk.kite.book.orders.clear()
    assert (await desk.settled(order))["status"] == "NOT_SENT"

    desk.kite.book.orders.update(hidden)
    desk.clock.move(minutes=2)
    found = await desk.refreshed(order)
    # Nobody polls for it any more; whoever reads the book for another reason finds it.
    assert (found["status"], found["closed_at"], found["certain"]) == ("OPEN", None, True)
    assert desk.trail.of(order)[-1] == "order.found"
    [row] = await desk.ledger.watched()
    assert str(row["_id"]) == order["id"]


async def test_a_second_order_with_the_tag_is_told_loudly(desk: Desk):
    order = await desk.refreshed(await desk.place())
    [booked] = desk.at_broker(order)
    twin = desk.kite.book.place(
        "NSE", "RELIANCE", "BUY", 10, product="CNC", price_type="LIMIT", price=booked.price, tag=booked.tag
    )

    [report] = await _compared(desk)

    assert [each["broker_order_id"] for each in report["differences"] if each["kind"] == "twin"] == [twin.order_id]
    assert "order.twin" in desk.trail.of(order)
    assert (await desk.read(order))["broker_order_id"] == booked.order_id


async def test_who_hangs_up_loses_nothing(desk: Desk):
    desk.kite.fail("slow", seconds=0.2, on="/orders/regular")
    request = asyncio.create_task(desk.place(client_order_id="gone"))
    await until(lambda: desk.kite.calls["POST /orders/regular"])
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await desk.placing.drain()

    again = await desk.place(status=200, client_order_id="gone")
    assert (again["status"], len(desk.at_broker(again))) == ("PENDING", 1)


async def test_without_its_audit_entry_nothing_is_sent(desk: Desk):
    desk.trail.away = True
    refused = await desk.place(status=503)
    order = await desk.read(refused)

    assert (order["status"], desk.kite.book.orders) == ("NOT_SENT", {})
    assert "audit trail" in order["reason"]


async def test_what_is_stored_too_slowly_is_not_sent(db: Db):
    async with desk_of(db, timing=Timing(send_within=-1)) as desk:
        order = await desk.read(await desk.place(status=503))
        assert (order["status"], desk.kite.book.orders) == ("NOT_SENT", {})


async def test_a_session_that_is_over_stores_nothing(desk: Desk):
    desk.sessions.token = ""
    refused = await desk.place(status=409, client_order_id="later")
    assert "sign in" in refused["detail"]
    assert await desk.ask("GET", "orders") == []

    desk.sessions.token = desk.kite.issue()
    assert (await desk.place(client_order_id="later"))["status"] == "PENDING"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_database_that_goes_away(url: str, when: str):
    """Cut before anything is stored, or once the broker has the order: then the book tells what became of it."""
    async with TcpProxy(server_port(url)) as proxy:
        options = {"serverSelectionTimeoutMS": 1000}
        async with (
            empty_database(through(url, proxy.port), DOCUMENTS, **options) as cut,
            desk_of(cut, timing=Timing(stored=(0, 0.05))) as desk,
        ):
            if when == "before":
                await desk.ask("GET", "orders")
                await proxy.cut()
                await desk.place(status=503, client_order_id="x")
                assert not desk.kite.book.orders
                await proxy.mend()
                await answering(cut)
                assert (await desk.place(client_order_id="x"))["status"] == "PENDING"
                return
            desk.kite.fail("slow", seconds=0.3, on="/orders/regular")
            placing = asyncio.create_task(desk.place(status=504, client_order_id="x"))
            await until(lambda: desk.kite.book.orders)
            await proxy.cut()
            lost = await placing
            await proxy.mend()
            await answering(cut)
            kept = await desk.read(lost)
            assert kept["status"] == "SENDING"
            found = await desk.refreshed(kept)
            assert (found["status"], len(desk.at_broker(found))) == ("OPEN", 1)
            assert (await desk.place(status=200, client_order_id="x"))["id"] == found["id"]
            assert OrderDocument.get_pymongo_collection().database.name == cut.name


async def test_the_wire_is_the_schema(desk: Desk):
    order = await desk.refreshed(await desk.place())
    assert order.keys() == Order.model_fields.keys()
    [listed] = await desk.ask("GET", "orders")
    assert listed.keys() == OrderRow.model_fields.keys()
    Order.model_validate(order)
    row = await desk.ledger.find((await desk.ledger.watched())[0]["_id"])
    assert order_wire(row).keys() == order.keys()
    assert OrderState(row["state"]) is OrderState.OPEN


async def test_the_list_and_its_filters(desk: Desk):
    first = await desk.place()
    desk.clock.move(minutes=5)
    second = await desk.place(stock_ticker="INFY", price=1600)
    desk.clock.move(minutes=5)
    third = await desk.place(side="sell", price=1650, stock_ticker="INFY")
    await desk.refresh()
    await desk.ask("DELETE", f"orders/{second['id']}")
    await desk.refresh()

    async def ids(**query: Any) -> list[str]:
        return [row["id"] for row in await desk.ask("GET", "orders", params=query)]

    all_ = [third["id"], second["id"], first["id"]]
    assert await ids() == all_
    assert await ids(symbol="infy") == all_[:2]
    assert await ids(status="cancelled") == [second["id"]]
    assert await ids(status="OPEN", symbol="INFY") == [third["id"]]
    assert await ids(broker="zerodha") == all_
    assert await ids(broker="paper") == []
    assert await ids(start="2026-11-20T06:34:00Z") == all_[:2]
    assert await ids(start="2026-11-20T06:34:00Z", end="2026-11-20T06:36:00Z") == [second["id"]]
    assert await ids(limit=2) == all_[:2]
    await desk.ask("GET", "orders", status=422, params={"start": "2026-11-21T00:00Z", "end": "2026-11-20T00:00Z"})
    await desk.ask("GET", "orders", status=422, params={"state": "OPEN"})
    await desk.ask("GET", "orders", status=422, params={"status": "WHATEVER"})


async def test_what_others_ask_of_orders(desk: Desk):
    order = await desk.refreshed(await desk.place())
    ann, bob = (str(desk.people.ids[name]) for name in ("ann", "bob"))
    number = order["broker_order_id"]

    assert await desk.reading.owns(ann, order["id"])
    assert not await desk.reading.owns(bob, order["id"])
    assert not await desk.reading.owns(ann, "17")
    assert await desk.reading.ids(ann, [number, "nobody's"]) == {number: order["id"]}
    assert [each["id"] for each in await desk.reading.open_orders(ann, ann, 5)] == [order["id"]]
    assert await desk.reading.open_orders(bob, ann, 5) == []
    newest = [each["id"] async for each in desk.reading.newest(ann, desk.clock.now().replace(hour=0), desk.clock.now())]
    assert newest == [order["id"]]
    assert await desk.reading.unsettled(ann) == 1
    [(seq, body)] = await desk.reading.since(ann, 0, 10)
    assert (json.loads(body)["id"], seq) == (order["id"], desk.events[-1].seq)
    assert await desk.reading.since(bob, 0, 10) == []


async def test_news_that_cannot_be_stored_are_to_be_sent_again(url: str):
    async with (
        TcpProxy(server_port(url)) as proxy,
        empty_database(through(url, proxy.port), DOCUMENTS, serverSelectionTimeoutMS=200) as cut,
        desk_of(cut) as desk,
    ):
        await desk.place()
        await proxy.cut()
        with pytest.raises(UnavailableError):
            await desk.news.observe(str(desk.people.ids["ann"]), [], [])
