"""Snapshots follow from the trades of their day, whenever those are heard of."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from beanie import PydanticObjectId

from app.brokerage.portfolio.book_rows import Row, snapshot_rows, trade_rows
from app.brokerage.portfolio.marks import correct
from app.brokerage.words import Product
from tests.brokerage.portfolio.kit import DASHBOARD, DAY, MINUTE, NOON, TRADE, D, Desk, by_symbol, fill, given

CLOSED = datetime(2026, 11, 20, 10, 30, tzinfo=UTC)
"""16:00 in India of NOON's day."""
TCS, INFY = {"stock_ticker": "TCS"}, {"stock_ticker": "INFY"}


async def kept() -> list[Row]:
    return sorted(await snapshot_rows().find({}).to_list(), key=lambda row: str(row["day"]))


async def unrealised() -> list[Decimal]:
    return [row["unrealised"] for row in await kept()]


async def two_evenings(desk: Desk) -> list[Row]:
    """10 TCS and 10 INFY, bought two days ago, and the snapshots of the evenings since but today's."""
    start = NOON - 2 * DAY
    made = await desk.enter(given("buy", 10, 3500, start, **TCS), given("buy", 10, 1700, start, **INFY))
    for days, tcs, infy in ((2, "3550", "1750"), (1, "3599.385", "1765.14")):
        desk.clock.moment = CLOSED - days * DAY
        desk.prices.put("TCS", tcs)
        desk.prices.put("INFY", infy)
        assert await desk.upkeep.snapshot() == {"accounts": 1}
    desk.clock.moment = NOON
    assert await unrealised() == [1000, D("993.85") + D("651.40")]
    return made


async def test_a_sale_that_is_entered_the_day_after_is_not_in_its_evening_twice(desk: Desk) -> None:
    await two_evenings(desk)
    (sale,) = await desk.enter(given("sell", 10, "1765.1", NOON - DAY + 90 * MINUTE, **INFY))
    assert await unrealised() == [1000, D("993.85")], "the evening before it stays"
    await desk.ask("DELETE", f"{TRADE}/{sale['id']}", 204)
    assert await unrealised() == [1000, D("993.85") + D("651.40")], "its price is kept"
    await desk.take(fill("sell", 5, "1", NOON - DAY, "INFY"))
    assert await unrealised() == [1000, D("993.85") + D("651.40")], "a delivery from elsewhere leaves nothing open"
    await desk.take(fill("buy", 6, "1600", NOON - DAY + MINUTE, "INFY"))
    assert await unrealised() == [1000, D("993.85") + D("651.40") + D("165.14")], "what a broker tells late, too"


async def test_a_purchase_at_another_price_changes_all_evenings(desk: Desk) -> None:
    tcs, _ = await two_evenings(desk)
    before = (await desk.get(DASHBOARD))["totals"]
    assert before["day_pnl"] == 0
    body = given("buy", 10, 3000, NOON - 2 * DAY, **TCS)
    await desk.ask("PUT", f"{TRADE}/{tcs['id']}", json=body)
    assert await unrealised() == [6000, D("5993.85") + D("651.40")]
    after = (await desk.get(DASHBOARD))["totals"]
    assert (after["day_pnl"], after["day_unknown"]) == (0, 0)
    await desk.enter(given("sell", 4, 3700, NOON, **TCS))
    await desk.ask("PUT", f"{TRADE}/{tcs['id']}", json=body | {"price": 3100})
    found = by_symbol((await desk.get(DASHBOARD))["positions"])["TCS"]
    assert found["day_pnl"] == 4 * (3700 - D("3599.385"))


async def test_a_mark_from_before_a_correction_is_reckoned_at_todays_cost(desk: Desk) -> None:
    """Those that an older version kept were never corrected."""
    await two_evenings(desk)
    await snapshot_rows().update_many({}, {"$set": {"books.0.unrealised": D(-1), "books.1.unrealised": D(-1)}})
    assert (await desk.get(DASHBOARD))["totals"]["day_pnl"] == 0


async def test_what_has_no_price_is_counted(desk: Desk) -> None:
    await two_evenings(desk)
    (made,) = await desk.enter(given("buy", 3, 90, NOON - DAY, stock_ticker="SBIN"))
    assert [row["unpriced"] for row in await kept()] == [0, 1]
    assert (await unrealised())[1] == D("993.85") + D("651.40")
    await desk.ask("DELETE", f"{TRADE}/{made['id']}", 204)
    assert [row["unpriced"] for row in await kept()] == [0, 0]
    await snapshot_rows().update_many({}, {"$unset": {"unpriced_books": ""}, "$set": {"unpriced": 7}})
    await desk.enter(given("buy", 3, 90, NOON - DAY, stock_ticker="SBIN"))
    assert [row["unpriced"] for row in await kept()] == [7, 7], "of older ones nobody knows which they are"


async def test_the_price_is_that_of_the_same_instrument_in_another_product(desk: Desk) -> None:
    await two_evenings(desk)
    await desk.enter(given("buy", 10, 3500, NOON - DAY, **TCS, type="intraday"))
    assert (await unrealised())[1] == 2 * D("993.85") + D("651.40")


async def test_what_a_process_that_died_left_is_corrected(desk: Desk) -> None:
    await two_evenings(desk)
    bought = await trade_rows().find_one({"stock_ticker": "INFY"})
    assert bought is not None
    sold = {**bought, "_id": PydanticObjectId(), "key": "1", "ref": "1", "order_type": "sell", "day": "2026-11-19"}
    sold["seq"] += 86_400_000_000

    async def dies() -> Sequence[Row]:
        await trade_rows().insert_one(sold)
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        await desk.here.ledger.change([sold], dies)
    assert await unrealised() == [1000, D("993.85") + D("651.40")]
    desk.clock.move(minutes=6)
    await desk.upkeep.repair()
    assert await unrealised() == [1000, D("993.85")]
    rows = await kept()
    await correct({"_id": bought["book"], "account_id": bought["account_id"], "product": "CNC"}, "2026-11-01")
    assert await kept() == rows, "done again it changes nothing"


async def test_a_trade_that_comes_while_the_snapshot_is_taken_is_in_it(desk: Desk) -> None:
    await desk.enter(given("buy", 10, 3500, NOON, **TCS))
    desk.prices.put("TCS", "3600")
    desk.clock.moment = CLOSED
    ask, asked = desk.prices.last, list[str]()

    async def last(exchange: Any, symbol: str) -> Any:
        if not asked:
            asked.append(symbol)
            await desk.enter(given("sell", 4, 3600, NOON + MINUTE, **TCS))
        return await ask(exchange, symbol)

    desk.prices.last = last  # type: ignore[method-assign]
    assert await desk.upkeep.snapshot() == {"accounts": 1}
    assert (asked, await unrealised()) == (["TCS"], [600])


# Deliveries


async def test_shares_that_were_held_before_are_sold_and_leave_nothing_open(desk: Desk) -> None:
    """Unknown here is what they cost, and nothing is short when their day is over."""
    desk.clock.moment = NOON - DAY
    desk.prices.put("INFY", "1600")
    await desk.take(fill("sell", 10, "1600", NOON - DAY, "INFY"))
    (today,) = (await desk.get(DASHBOARD))["positions"]
    assert (today["quantity"], today["average_price"]) == (-10, 1600), "a purchase may follow"
    desk.clock.moment = CLOSED - DAY
    desk.prices.put("INFY", "1650")
    await desk.upkeep.snapshot()
    assert await unrealised() == [0], "it is not bought back any more"
    desk.clock.moment = NOON
    desk.prices.put("INFY", "1700")
    found = await desk.get(DASHBOARD)
    assert (found["positions"], found["holdings"]) == ([], [])
    totals = found["totals"]
    assert (totals["realised_pnl"], totals["unrealised_pnl"], totals["day_pnl"]) == (0, 0, 0)
    assert (totals["unpriced"], totals["day_unknown"]) == (0, 0)
    (sale,) = found["latest_trades"]
    assert (sale["status"], sale["open_quantity"], sale["buy_price"], sale["realised_pnl"]) == ("CLOSED", 0, None, 0)
    assert "10 of these shares were bought elsewhere" in sale["note"]
    await desk.take(fill("buy", 10, "1650", NOON, "INFY"))
    (held,) = (await desk.get(DASHBOARD))["holdings"]
    assert (held["quantity"], held["average_price"]) == (10, 1650), "it covers nothing"
    # The broker tells late that some of them were bought on the day of their sale.
    await desk.take(fill("buy", 4, "1590", NOON - DAY + MINUTE, "INFY"))
    assert (await desk.get(DASHBOARD))["totals"]["realised_pnl"] == 40
    assert (await desk.get(f"{TRADE}/{sale['id']}"))["note"].startswith("6 of these")


async def test_a_late_fill_of_a_day_that_is_over_covers_what_was_sold_on_it(desk: Desk) -> None:
    """It is newer than all others, and the book was closed already."""
    await desk.take(fill("sell", 10, "1600", NOON - DAY, "INFY"))
    await desk.take(fill("buy", 10, "1590", NOON - DAY + MINUTE, "INFY"))
    totals = (await desk.get(DASHBOARD))["totals"]
    assert (totals["realised_pnl"], totals["unpriced"]) == (100, 0)


async def test_more_is_sold_than_was_entered(desk: Desk) -> None:
    desk.prices.put("RELIANCE", "130")
    _, sale = await desk.enter(given("buy", 3000, 90, NOON - 3 * DAY), given("sell", 9000, 120, NOON - DAY))
    found = await desk.get(DASHBOARD)
    assert (found["positions"], found["holdings"]) == ([], [])
    assert (found["totals"]["realised_pnl"], found["totals"]["unrealised_pnl"]) == (90_000, 0)
    assert (sale["status"], sale["closed_quantity"], sale["buy_price"]) == ("CLOSED", 3000, 90)
    assert sale["note"].startswith("6,000 of these shares were bought elsewhere")


@pytest.mark.parametrize("product", [Product.MIS, Product.NRML])
async def test_what_is_not_delivered_stays_short(desk: Desk, product: Product) -> None:
    await desk.take(fill("sell", 10, "1600", NOON - DAY, "INFY", product=product))
    (left,) = (await desk.get(DASHBOARD))["positions"]
    assert (left["quantity"], left["product"]) == (-10, product)
