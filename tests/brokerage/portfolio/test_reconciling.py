"""What the comparison with brokers' books does to ours, and whom it leaves alone: against the simulated Kite."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest_asyncio

from app.brokerage.orders.models import DOCUMENTS as ORDERS
from app.brokerage.orders.news import OrdersHeard
from app.brokerage.orders.reconciliation import Reconciliation
from app.brokerage.orders.schemas import ReconciliationReport
from app.brokerage.portfolio.book_rows import book_rows
from app.brokerage.portfolio.models import DOCUMENTS
from app.brokerage.portfolio.moved import MovedPositions
from app.brokerage.portfolio.own_positions import BookedPositions
from app.brokerage.words import BrokerName
from tests.brokerage.orders.kit import Desk as OrdersDesk
from tests.brokerage.orders.kit import desk_of
from tests.brokerage.portfolio.kit import OrdersHere, Process, Trail, process_of
from tests.simulators.brokers.records import Position
from tests.support.mongodb import Db, empty_database

Row = dict[str, Any]


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, [*DOCUMENTS, *ORDERS]) as made:
        yield made


@pytest_asyncio.fixture
async def desk(db: Db) -> AsyncIterator[OrdersDesk]:
    async with desk_of(db) as made:
        yield made


class Compared:
    """Orders and books as in the service; whatever an account's broker is called, it is the simulated one."""

    def __init__(self, desk: OrdersDesk) -> None:
        self.desk, self.audit = desk, Trail()
        self.here: Process = process_of(OrdersHere(), desk.clock)
        broker = desk.news._brokers[BrokerName.ZERODHA]
        self.news = OrdersHeard(
            ledger=desk.ledger,
            brokers=dict.fromkeys(BrokerName, broker),
            sessions=desk.sessions,
            fills=self.here.fills,
            audit=desk.trail,
            timing=desk.news.timing,
        )
        books = MovedPositions(ledger=self.here.ledger, clock=desk.clock, audit=self.audit)
        self.job = Reconciliation(
            ledger=desk.ledger, news=self.news, sessions=desk.sessions, positions=BookedPositions(), books=books
        )
        self.account = str(desk.people.ids["ann"])

    async def trade(self, side: str = "buy", quantity: int = 10, product: str = "MIS") -> None:
        """An order that is filled, and known to be."""
        self.desk.sessions.broker = BrokerName.ZERODHA
        order = await self.desk.place(side=side, quantity=quantity, product=product)
        [booked] = self.desk.at_broker(order)
        self.desk.kite.book.fill(booked.order_id, quantity, "1500")
        await self.news.refresh(self.account)

    async def report(self) -> Row:
        await self.job.run()
        [found] = await self.desk.ask("GET", "reconciliation")
        ReconciliationReport.model_validate(found)
        return {**found, "kinds": [each["kind"] for each in found["differences"]]}

    def convert(self, became: str) -> None:
        """As a client does in the broker's own app: trades stay what they were, positions do not."""
        book = self.desk.kite.book
        told = type(book).positions

        def positions() -> list[Position]:
            found = told(book)
            for position in found:
                position.product = became
            return found

        book.positions = positions  # type: ignore[method-assign]


async def test_a_conversion_at_the_broker_is_followed_once(desk: OrdersDesk) -> None:
    compared = Compared(desk)
    await compared.trade()
    assert (await compared.report())["status"] == "agrees"
    compared.convert("CNC")
    report = await compared.report()
    assert (report["status"], report["kinds"]) == ("agrees", ["converted"])
    assert (report["differences"][0]["ours"], report["differences"][0]["theirs"]) == ("10 MIS", "10 CNC")
    assert "the same was done here" in report["differences"][0]["detail"]
    assert [(row["product"], row["open"]) for row in await book_rows().find({"open": True}).to_list()] == [
        ("CNC", True)
    ]
    assert [act.action for act in compared.audit.acts] == ["position.convert"]
    again = await compared.report()
    assert (again["status"], again["kinds"], len(compared.audit.acts)) == ("agrees", [], 1)


async def test_of_what_was_closed_in_part_the_rest_is_converted(desk: OrdersDesk) -> None:
    compared = Compared(desk)
    await compared.trade()
    await compared.trade("sell", 4)
    compared.convert("CNC")
    report = await compared.report()
    assert (report["status"], report["kinds"]) == ("agrees", ["converted"])
    (book,) = await book_rows().find({"open": True}).to_list()
    assert (book["product"], sum(lot["quantity"] for lot in book["state"]["lots"])) == ("CNC", 6)


async def test_where_nobody_follows_it_a_conversion_is_reported(desk: OrdersDesk) -> None:
    compared = Compared(desk)
    await compared.trade()
    compared.convert("CNC")
    compared.job = Reconciliation(
        ledger=desk.ledger, news=compared.news, sessions=desk.sessions, positions=BookedPositions()
    )
    report = await compared.report()
    assert (report["status"], report["kinds"]) == ("differs", ["conversion"])
    assert report["differences"][0]["detail"].endswith("here it is still the old one.")
    (book,) = await book_rows().find({"open": True}).to_list()
    assert book["product"] == "MIS"


async def test_contracts_that_have_expired_are_no_difference(desk: OrdersDesk) -> None:
    """Brokers show them for a while yet, and here they are settled."""
    compared = Compared(desk)
    await compared.trade()
    for day, kinds in (("2026-11-20", []), ("2026-11-12", ["position"])):
        mark = {"day": day, "state": "unknown", "note": "Expired."}
        await book_rows().update_one({"open": True}, {"$set": {"expired": mark}})
        assert (await compared.report())["kinds"] == kinds, "after a week it is said"


async def test_idle_accounts_at_the_paper_broker_are_left_alone(desk: OrdersDesk) -> None:
    compared = Compared(desk)
    await desk.sessions.active(compared.account)

    async def run(broker: BrokerName = BrokerName.PAPER) -> tuple[int, int]:
        desk.sessions.broker = broker
        found = await compared.job.run()
        return found["accounts"], found.get("idle", 0)

    assert await run(BrokerName.ZERODHA) == (1, 0)
    assert await run(BrokerName.ZERODHA) == (1, 0), "at a real broker somebody else may trade"
    assert [await run(), await run(), await run()] == [(1, 0), (0, 1), (0, 1)]
    [kept] = await desk.ask("GET", "reconciliation")
    desk.clock.move(minutes=5)
    await compared.trade()
    assert [await run(), await run()] == [(1, 0), (1, 0)], "there is a position"
    desk.clock.move(minutes=5)
    assert await run() == (1, 0)
    await compared.trade("sell")
    assert [await run(), await run()] == [(1, 0), (1, 0)], "an order was given a moment ago"
    desk.clock.move(minutes=5)
    assert [await run(), await run()] == [(1, 0), (0, 1)]
    [newer] = await desk.ask("GET", "reconciliation")
    assert (newer["at"] > kept["at"], newer["status"], newer["trades"]) == (True, "agrees", 2)
    # Bought for delivery it is held, and nothing more becomes of it.
    await compared.trade(product="CNC")
    desk.clock.move(minutes=5)
    assert [await run(), await run()] == [(1, 0), (0, 1)]
    # One that waits can be filled at any time.
    desk.sessions.broker = BrokerName.ZERODHA
    await desk.place(price=1400)
    desk.clock.move(minutes=5)
    assert [await run(), await run()] == [(1, 0), (1, 0)]


async def test_even_an_idle_account_is_compared_once_a_day(desk: OrdersDesk) -> None:
    compared = Compared(desk)
    await desk.sessions.active(compared.account)
    desk.sessions.broker = BrokerName.PAPER
    assert "idle" not in await compared.job.run()
    desk.clock.move(hours=23)
    assert (await compared.job.run())["idle"] == 1
    desk.clock.moment += timedelta(hours=2)
    assert "idle" not in await compared.job.run()
