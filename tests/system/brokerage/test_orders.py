"""Orders in the running service: two workers beside a simulated Zerodha and a simulated Yahoo.

One story, in the order of the file, on one service: at the end everything is killed in the middle of an order, and
started again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient
from websockets.asyncio.client import ClientConnection, connect

from tests.simulators.brokers.kite import KiteSimulator
from tests.simulators.yahoo import YahooMarket, YahooSimulator
from tests.support.people import Person, somebody
from tests.support.service import ServiceProcess
from tests.support.workers import one_client_each

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

Row = dict[str, Any]
BASE = "/api/v1/dashboard"
RELIANCE = {"stock_ticker": "RELIANCE", "quantity": 10, "price": 1500.0, "order_type": "buy"}
PATIENCE = 75.0
"""Seconds: what a killed process led stands for 9 of them, and as many follow until its orders are settled."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kite() -> AsyncIterator[KiteSimulator]:
    async with KiteSimulator() as simulator:
        simulator.book.fills_itself = False
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def desk(kite: KiteSimulator, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    async with YahooSimulator(YahooMarket(years=1, american=False)) as yahoo:
        service = ServiceProcess(
            tmp_path_factory.mktemp("desk"),
            workers=2,
            **kite.environment(),
            **yahoo.environment(),
            BROKER_TIMEOUT_SECONDS="4",
            PAPER_ALWAYS_OPEN="true",
            PAPER_LATENCY_MS="0",
        )
        try:
            await asyncio.to_thread(service.start)
            yield service
        finally:
            await asyncio.to_thread(service.close)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def trader(desk: ServiceProcess, kite: KiteSimulator) -> AsyncIterator[Person]:
    """Somebody with an account at Zerodha."""
    async with somebody(desk.url) as person:
        answer = await person.client.post(
            f"{BASE}/activate-brokerage", json={"brokerage": "zerodha"} | kite.credentials()
        )
        assert answer.status_code == 201, answer.text
        # Kite's sessions end at six in the morning in India; in the hour before, it is about to.
        assert answer.json()["active"]
        assert answer.json()["session"]["state"] in {"valid", "expiring"}
        yield person


async def get(person: Person, path: str, **query: Any) -> Any:
    answer = await person.client.get(f"{BASE}/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def place(person: Person, status: int = 201, side: str = "buy", **values: Any) -> Row:
    answer = await person.client.post(f"{BASE}/order/{side}", json=RELIANCE | {"order_type": side} | values)
    assert answer.status_code == status, answer.text
    made: Row = answer.json()
    return made


async def until(read: Callable[[], Awaitable[Any]], holds: Callable[[Any], object]) -> Any:
    """What `read` gives once that `holds`."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not holds(found := await read()):
        assert asyncio.get_running_loop().time() < deadline, found
        await asyncio.sleep(0.1)
    return found


async def subscribed(socket: ClientConnection, person: Person, **options: Any) -> list[Row]:
    """Sign in and listen to orders; what was replayed."""
    await socket.send(json.dumps({"action": "auth", "token": person.token}))
    await socket.send(json.dumps({"action": "subscribe", "channel": "orders", **options}))
    replayed = []
    async with asyncio.timeout(PATIENCE):
        while (message := json.loads(await socket.recv()))["type"] != "subscribed":
            assert message["type"] in {"authenticated", "order"}, message
            if message["type"] == "order":
                replayed.append(message)
    return replayed


async def heard(socket: ClientConnection, order_id: str, status: str) -> list[Row]:
    """The news of an order until it has this status."""
    news: list[Row] = []
    async with asyncio.timeout(PATIENCE):
        while not news or news[-1]["data"]["status"] != status:
            message = json.loads(await socket.recv())
            if message["type"] == "order" and message["data"].get("id") == order_id:
                news.append(message)
    return news


async def compared(person: Person) -> list[Row]:
    """The report of their account at Zerodha."""
    return [report for report in await get(person, "reconciliation") if report["broker"] == "zerodha"]


async def test_from_the_broker_to_the_dashboard(desk: ServiceProcess, kite: KiteSimulator, trader: Person):
    async with connect(desk.ws_url) as socket:
        assert await subscribed(socket, trader) == []
        order = await place(trader, client_order_id="first")
        [booked] = kite.book.with_tag(order["tag"])
        assert (order["broker"], order["broker_order_id"]) == ("zerodha", booked.order_id)
        opened = await heard(socket, order["id"], "OPEN")
        assert opened[0]["data"]["status"] in {"INTENT", "SENDING"}
        kite.book.fill(booked.order_id, 4, "1500")
        partly = await heard(socket, order["id"], "PARTIALLY_FILLED")
        kite.book.fill(booked.order_id, 6, "1490")
        whole = await heard(socket, order["id"], "COMPLETE")
    assert (partly[-1]["data"]["filled_quantity"], whole[-1]["data"]["filled_quantity"]) == (4, 10)
    assert whole[-1]["data"]["average_price"] == 1494

    # A trade is stored before its book is brought to it.
    trades = await until(
        lambda: get(trader, "dashboard"),
        lambda seen: len(seen["latest_trades"]) == 2 and [one["quantity"] for one in seen["positions"]] == [10],
    )
    assert trades["account"]["broker"] == "zerodha"
    assert trades["open_orders"] == []
    [position] = trades["positions"]
    assert (position["symbol"], position["quantity"]) == ("RELIANCE", 10)
    listed = await trader.client.get("/api/v1/trade/trades")
    assert sorted((row["quantity"], row["order_id"]) for row in listed.json()) == [(4, order["id"]), (6, order["id"])]

    # Whoever was away has what was missed; once, as it is now.
    async with connect(desk.ws_url) as socket:
        replayed = await subscribed(socket, trader, since=opened[0]["seq"] - 1)
    assert [message["data"]["status"] for message in replayed if message["data"]["id"] == order["id"]] == ["COMPLETE"]
    assert replayed[-1]["data"] == whole[-1]["data"] | {"updated_at": replayed[-1]["data"]["updated_at"]}


async def test_a_time_out_after_the_broker_took_it(kite: KiteSimulator, trader: Person):
    kite.fail("slow", seconds=9, on="POST /orders/regular")
    answer = await trader.client.post(f"{BASE}/order/buy", json=RELIANCE | {"client_order_id": "late", "quantity": 11})
    told = answer.json()
    # Another look at the book may have found it before the time was out: then that is the answer.
    expected, order_id = (201, told["id"]) if "id" in told else (504, told["order_id"])
    assert (answer.status_code, told["client_order_id"]) == (expected, "late"), told
    found = await until(lambda: get(trader, f"orders/{order_id}"), lambda row: row["status"] == "OPEN")

    again = await place(trader, 200, client_order_id="late", quantity=11)
    assert (again["id"], again["broker_order_id"]) == (order_id, found["broker_order_id"])
    assert [order.order_id for order in kite.book.with_tag(found["tag"])] == [found["broker_order_id"]]
    path = [step["status"] for step in found["transitions"] if step["status"] != "UNKNOWN"]
    assert path == ["INTENT", "SENDING", "OPEN"]
    await place(trader, 409, client_order_id="late", quantity=12)


async def test_one_id_in_two_workers_at_once_is_one_order(desk: ServiceProcess, kite: KiteSimulator, trader: Person):
    body = RELIANCE | {"client_order_id": "twice", "quantity": 13}
    async with one_client_each(desk) as clients:
        headers = {"Authorization": f"Bearer {trader.token}"}
        answers = await asyncio.gather(
            *(client.post(f"{BASE}/order/buy", json=body, headers=headers) for client in clients.values())
        )
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum(order.quantity == 13 for order in kite.book.orders.values()) == 1


async def test_a_session_that_ends_while_an_order_is_open(kite: KiteSimulator, trader: Person):
    """At six in the morning, say. As soon as somebody signs in again, what happened meanwhile is known."""
    order = await place(trader, quantity=14)
    await until(lambda: get(trader, f"orders/{order['id']}"), lambda row: row["status"] == "OPEN")
    kite.end_sessions()
    kite.book.fill(order["broker_order_id"], 14, "1500")
    [account] = [row for row in await get(trader, "brokerages") if row["brokerage"] == "zerodha"]
    path = f"brokerages/{account['id']}"
    await until(lambda: get(trader, path), lambda row: row["session"]["state"] == "expired")
    refused = await place(trader, 409, quantity=15)
    assert "request_token" in refused["detail"]
    assert refused["login_url"].startswith(kite.base_url)
    await asyncio.sleep(1)  # whoever follows orders has seen it, too, and waits half a minute

    began = asyncio.get_running_loop().time()
    answer = await trader.client.post(f"{BASE}/{path}/session", json={"request_token": kite.request_token()})
    assert answer.status_code == 200, answer.text
    await until(lambda: get(trader, f"orders/{order['id']}"), lambda row: row["status"] == "COMPLETE")
    assert asyncio.get_running_loop().time() - began < 25
    assert [each.quantity for each in kite.book.orders.values()].count(15) == 0


async def test_on_paper_fills_are_heard_of(desk: ServiceProcess):
    async with somebody(desk.url) as newcomer, connect(desk.ws_url) as socket:
        await subscribed(socket, newcomer)
        order = await place(newcomer, price=None, quantity=2)
        assert order["broker"] == "paper"
        [*_, filled] = await heard(socket, order["id"], "COMPLETE")
        assert filled["data"]["average_price"] > 0
        seen = await until(lambda: get(newcomer, "dashboard"), lambda seen: seen["latest_trades"] and seen["positions"])
    assert [(row["symbol"], row["quantity"]) for row in seen["positions"]] == [("RELIANCE", 2)]


async def test_killed_while_an_order_is_sent(desk: ServiceProcess, kite: KiteSimulator, trader: Person):
    """Everything, with `kill -9`: after the restart there is one order, its state is true, and the books agree."""
    kite.fail("slow", seconds=20, on="POST /orders/regular")
    sent = asyncio.create_task(place(trader, client_order_id="killed", quantity=17))

    async def arrived() -> list[Any]:
        return [order for order in kite.book.orders.values() if order.quantity == 17]

    [booked] = await until(arrived, bool)
    await asyncio.to_thread(desk.kill_all)
    with suppress(httpx.TransportError, AssertionError):  # where the machine stood still, the time was out before
        await sent
    kite.book.fill(booked.order_id, 7, "1500")

    def is_filled(row: Row) -> bool:
        return bool(row["status"] == "PARTIALLY_FILLED" and row["certain"])

    desk.workers = 1
    await asyncio.to_thread(desk.launch().wait_ready, 90)

    async def listed() -> Any:
        return [row for row in await get(trader, "orders", symbol="RELIANCE-EQ") if row["quantity"] == 17]

    [order] = await until(listed, lambda rows: rows and is_filled(rows[0]))
    assert (order["client_order_id"], order["broker_order_id"]) == ("killed", booked.order_id)
    assert (order["filled_quantity"], order["tag"]) == (7, booked.tag)
    assert (await place(trader, 200, client_order_id="killed", quantity=17))["id"] == order["id"]
    assert len(await arrived()) == 1

    # The trade is in the book: what is compared while it is on its way there is another day's again.
    await until(lambda: get(trader, "dashboard"), lambda seen: sum(one["quantity"] for one in seen["positions"]) == 31)
    client: AsyncMongoClient[Row] = AsyncMongoClient(desk.mongodb_url)
    async with client:  # as if it were not made yet: it is made now
        await client[desk.database_name]["job_runs"].delete_many({"job": "orders.reconcile"})
    [report] = await until(lambda: compared(trader), lambda found: found and found[0]["at"] > order["updated_at"])
    assert report["status"] == "agrees", report
    assert set(report["compared"]) == {"orders", "trades", "positions"}

    # What is filled stays filled, whoever cancels the rest, and wherever the next orders go.
    answer = await trader.client.post(f"{BASE}/activate-brokerage", json={"brokerage": "paper"})
    assert answer.json()["active"] is True
    answer = await trader.client.delete(f"{BASE}/orders/{order['id']}")
    assert answer.status_code == 200, answer.text
    gone = await until(
        lambda: get(trader, f"orders/{order['id']}"),
        lambda row: (row["status"], row["pending"]) == ("CANCELLED", None),
    )
    assert (gone["broker"], gone["filled_quantity"]) == ("zerodha", 7)


async def test_an_account_with_open_orders_stays(kite: KiteSimulator, trader: Person):
    [account] = [row for row in await get(trader, "brokerages") if row["brokerage"] == "zerodha"]
    path = f"{BASE}/brokerages/{account['id']}"
    refused = await trader.client.delete(path)
    assert (refused.status_code, "not settled" in refused.json()["detail"]) == (409, True)
    for order in await get(trader, "orders", status="OPEN"):
        assert (await trader.client.delete(f"{BASE}/orders/{order['id']}")).status_code == 200
    assert len([order for order in kite.book.orders.values() if order.status == "cancelled"]) == 3

    async def removed() -> int:
        return (await trader.client.delete(path)).status_code

    await until(removed, lambda status: status == 204)
    # Its report is gone with it, what was done there is not.
    await until(lambda: compared(trader), lambda reports: reports == [])
    assert len(await get(trader, "orders", broker="zerodha")) == 5
