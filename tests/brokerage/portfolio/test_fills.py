"""Fills that brokers tell: once, in any order, from several processes, and whatever dies in between."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from pymongo import monitoring

from app.brokerage.portfolio.book_rows import book_rows
from app.brokerage.portfolio.models import DOCUMENTS
from app.brokerage.words import BookedTrade, Exchange, Product
from tests.brokerage.portfolio.kit import (
    DAY,
    MINUTE,
    MONDAY,
    NOON,
    PNL,
    TRADES,
    Desk,
    SomeRun,
    desk_of,
    fill,
    process_of,
)
from tests.support.mongodb import empty_database


def a_week(seed: int, count: int) -> list[BookedTrade]:
    """Fills of three instruments over five days."""
    random = Random(seed)  # noqa: S311 (prices, no secrets)
    return [
        fill(
            random.choice(["buy", "sell"]),
            random.randint(1, 20),
            f"{random.randint(9000, 11000) / 100}",
            MONDAY + random.randint(0, 4) * DAY + random.randint(0, 200) * MINUTE,
            random.choice(["TCS", "INFY", "SBIN"]),
            product=random.choice([Product.CNC, Product.MIS]),
            order=f"O{random.randint(0, count // 3)}",
        )
        for _ in range(count)
    ]


def told(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one account without what differs from one database to another."""
    names = {"_id", "id", "user_id", "account_id", "book", "key", "created_at", "updated_at"}
    plain = [{name: str(value) for name, value in row.items() if name not in names} for row in rows]
    return sorted(plain, key=lambda row: sorted(row.items()))


async def outcome(desk: Desk, who: str = "ann") -> tuple[Any, ...]:
    """All that follows from somebody's trades."""
    positions = (await desk.get("/api/v1/dashboard/positions", who=who))["positions"]
    return *await in_short(desk, who), told(await desk.get(TRADES, who=who, limit=1000)), positions


async def in_short(desk: Desk, who: str = "ann") -> tuple[Any, ...]:
    """The same in few queries."""
    whole = await desk.get(PNL, who=who)
    stored = await desk.db["trades"].find({"user_id": desk.people.ids[who]}).to_list()
    books = await desk.db["portfolio_books"].find({"account_id": await desk.account(who)}).to_list()
    states = [
        {**book["state"], "lots": [{**lot, "trade": ""} for lot in book["state"]["lots"]], "symbol": book["symbol"]}
        for book in books
    ]
    return {**whole, "account_id": ""}, told(stored), told(states)


async def test_a_trade_is_told_often_and_stored_once(desk: Desk) -> None:
    desk.orders.mine = {"O1": "6b02893a002b26997921d778"}
    one = fill("buy", 10, "100", order="O1", trade="77")
    assert await desk.take(one) == 1
    assert await desk.take(one, one) == 0
    elsewhere = process_of(desk.orders, desk.clock)
    assert await desk.take(one, process=elsewhere) == 0, "another process has nothing in its memory"
    # The same number on another day, exchange or order is another trade.
    again = [
        fill("buy", 10, "100", MONDAY + DAY, order="O1", trade="77"),
        fill("buy", 10, "100", order="O1", trade="77", exchange=Exchange.BSE),
        fill("sell", 10, "100", order="O2", trade="77"),
    ]
    assert await desk.take(one, *again, process=elsewhere) == 3
    assert await desk.take(one, who="bob") == 1
    rows = await desk.get(TRADES)
    assert len(rows) == 4
    assert {row["broker_order_id"]: row["order_id"] for row in rows} == {"O1": "6b02893a002b26997921d778", "O2": None}
    assert {row["source"] for row in rows} == {"broker"}


async def test_what_is_no_trade_is_left_out(desk: Desk) -> None:
    assert await desk.take(fill("buy", 0, "100"), fill("buy", 1, "0"), fill("buy", 1, "NaN"), fill("buy", 1, "5")) == 1


async def test_fills_of_an_order_are_charged_together(desk: Desk) -> None:
    sale = {"product": Product.MIS, "order": "O1"}
    await desk.take(*(fill("sell", 1000, "100", MONDAY + n * MINUTE, **sale) for n in range(5)))
    rows = await desk.get(TRADES)
    assert [row["brokerage_charge"] for row in rows] == [4] * 5, "20 rupees at most for the order"
    found = await desk.get(PNL)
    assert found["charges"]["brokerage"] == 20
    assert sum(row["charges"] for row in rows) == found["charges"]["total"]


async def test_the_order_of_arrival_does_not_matter(desk: Desk) -> None:
    fills = a_week(1, 24)
    await desk.take(*fills)
    wanted = await outcome(desk)
    await desk.upkeep.rebuild(SomeRun())
    assert await outcome(desk) == wanted
    Random(2).shuffle(fills)  # noqa: S311
    for start in range(0, len(fills), 4):
        assert await desk.take(*fills[start : start + 4], who="bob") == 4
    assert await outcome(desk, "bob") == wanted


async def test_several_processes_at_once(desk: Desk) -> None:
    fills = a_week(5, 28)
    processes = [process_of(desk.orders, desk.clock) for _ in range(4)]

    async def tell(number: int) -> int:
        random, count = Random(number), 0  # noqa: S311
        own = [one for place, one in enumerate(fills) if place % 4 == number or random.random() < 0.3]
        for start in range(0, len(own), 5):
            count += await desk.take(*own[start : start + 5], process=processes[number])
        return count

    assert sum(await asyncio.gather(*map(tell, range(4)))) == len(fills)
    assert not [row for row in await desk.all_of("portfolio_books") if row["dirty"] or row["pending"]]
    await desk.take(*fills, who="bob")
    assert await outcome(desk) == await outcome(desk, "bob")


class DiedError(BaseException):
    """Nobody catches it: what was to follow does not happen."""


class Killer(monitoring.CommandListener):
    """Ends whoever has sent the database n commands, before they hear the answer to the last."""

    def __init__(self) -> None:
        self.armed, self.left = False, 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """It is carried out in any case."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:  # noqa: ARG002
        self.left -= self.armed
        if self.armed and self.left <= 0:
            raise DiedError

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing fails here."""


async def test_whatever_dies_at_whatever_step(mongodb_url: str) -> None:
    """Cut off after every command in turn (or before the next, which is the same to the database): once the next
    process has looked, all is as if nothing had happened."""
    before = [fill("buy", 10, "100", MONDAY), fill("buy", 5, "50", MONDAY, "TCS")]
    news = [
        fill("buy", 2, "80", MONDAY - DAY),  # late: what came after it has to be computed again
        fill("sell", 5, "45", MONDAY + DAY, "TCS"),
    ]
    killer, steps = Killer(), 0
    ended: Any = DiedError()
    async with empty_database(mongodb_url, DOCUMENTS, event_listeners=[killer]) as db, desk_of(db) as desk:
        await desk.take(*before, *news, who="bob")
        wanted = await in_short(desk, "bob")
        while isinstance(ended, DiedError):
            steps += 1
            desk.sessions.accounts[str(desk.people.ids["ann"])] = account = f"{steps:024x}"
            await db["trades"].delete_many({"user_id": desk.people.ids["ann"]})
            await desk.take(*before)
            task = asyncio.ensure_future(desk.take(*news, process=process_of(desk.orders, desk.clock)))
            killer.left, killer.armed = steps, True
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            killer.armed = False
            # What a broker has told it tells again; and the job looks after a while.
            desk.clock.move(minutes=6)
            again = process_of(desk.orders, desk.clock)
            if steps % 2:
                await desk.upkeep.repair()
                await desk.take(*before, *news, process=again)
            else:
                await desk.take(*before, *news, process=again)
                await desk.upkeep.repair()
            assert not await db["portfolio_books"].find({"account_id": account, "dirty": True}).to_list()
            desk.clock.moment = NOON
            assert await in_short(desk) == wanted
    assert ended == len(news)
    assert steps > 15, "all of them were tried"


async def test_a_mark_of_the_living_is_left_alone(desk: Desk) -> None:
    await desk.take(fill("buy", 10, "100"))
    (book,) = await desk.all_of("portfolio_books")
    mark = {"id": "somebody", "at": desk.clock.now()}
    await book_rows().update_one({"_id": book["_id"]}, {"$set": {"dirty": True, "pending": [mark]}})
    await desk.here.ledger.repair()
    assert (await desk.all_of("portfolio_books"))[0]["dirty"], "its process may be about to write"
    desk.clock.move(minutes=6)
    assert (await desk.here.ledger.repair())["books"] == 1
    assert not (await desk.all_of("portfolio_books"))[0]["dirty"]
