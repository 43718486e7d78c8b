"""Snapshots, and everything anew from the trades."""

from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from bson import Decimal128

from app.brokerage.portfolio import upkeep
from app.brokerage.portfolio.book_rows import book_rows, day_rows, trade_rows
from app.brokerage.words import Product
from app.core.market_calendar import IST
from tests.brokerage.portfolio.kit import DAY, MINUTE, MONDAY, NOON, PNL, D, Desk, SomeRun, fill, given
from tests.brokerage.portfolio.test_fills import a_week, outcome


async def test_everything_is_made_anew_from_the_trades(desk: Desk) -> None:
    await desk.take(*a_week(7, 16))
    await desk.enter(given("buy", 5, 10, NOON - 900 * DAY), given("sell", 2, 12, NOON - 300 * DAY))
    wanted = await outcome(desk)
    good = await desk.upkeep.rebuild(SomeRun())
    assert good is not None
    assert (good["trades"], good["books_corrected"], good["days_corrected"]) == (18, 0, 0)
    # One book is lost, one wrong, one open with nothing in it; a trade and a day say what is not so.
    first, second, *_ = await desk.all_of("portfolio_books")
    await book_rows().delete_one({"_id": first["_id"]})
    await book_rows().update_one({"_id": second["_id"]}, {"$set": {"state.realised": D(1_000_000)}})
    await book_rows().insert_one({**second, "_id": "stray", "open": True, "revision": 1})
    sale = await trade_rows().find_one({"order_type": "sell", "book": second["_id"]})
    assert sale is not None
    await trade_rows().update_one({"_id": sale["_id"]}, {"$set": {"realised": D(5)}, "$unset": {"charges": ""}})
    await day_rows().update_one({"_id": (await desk.all_of("portfolio_days"))[0]["_id"]}, {"$set": {"realised": D(9)}})
    again = await desk.upkeep.rebuild(SomeRun())
    assert again is not None
    assert (again["books"], again["books_corrected"]) == (good["books"] + 1, 3)
    assert again["days_corrected"] >= 1
    await book_rows().delete_one({"_id": "stray"})
    assert await outcome(desk) == wanted


async def test_a_rebuild_reads_piece_by_piece(desk: Desk, monkeypatch: object) -> None:
    monkeypatch.setattr(upkeep, "_PIECE", 4)  # type: ignore[attr-defined]
    fills = [fill("buy", 1, "10", MONDAY + n * MINUTE / 100) for n in range(11)]
    await desk.take(*fills, fill("sell", 3, "12", MONDAY + DAY))
    found = await desk.upkeep.rebuild(SomeRun())
    assert found == {"trades": 12, "books": 1, "books_corrected": 0, "days": 2, "days_corrected": 0}


async def test_a_snapshot_keeps_the_close(desk: Desk) -> None:
    desk.prices.put("RELIANCE", "2600")
    await desk.take(
        fill("buy", 10, "2500", NOON - DAY), fill("buy", 1, "7", NOON, "UNKNOWN"), fill("sell", 1, "9", NOON, "UNKNOWN")
    )
    await desk.take(fill("sell", 3, "5", NOON, "UNKNOWN", product=Product.MIS), who="bob")
    assert await desk.upkeep.snapshot() == {"accounts": 0, "note": "the session is not over"}
    desk.clock.moment = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)  # 15:45 in India
    assert await desk.upkeep.snapshot() == {"accounts": 2}
    desk.prices.put("RELIANCE", "9999")
    assert await desk.upkeep.snapshot() == {"accounts": 0}, "it was taken"
    rows = {row["account_id"]: row for row in await desk.all_of("portfolio_snapshots")}
    ann, bob = rows[await desk.account()], rows[await desk.account("bob")]
    assert (ann["unrealised"], ann["unpriced"], ann["funds"]) == (Decimal128("1000"), 0, Decimal128("1000000"))
    assert [(one["quantity"], one["price"]) for one in ann["books"]] == [(10, Decimal128("2600"))]
    assert (bob["unrealised"], bob["unpriced"], bob["books"]) == (Decimal128("0"), 1, [])
    desk.clock.moment = datetime(2026, 11, 21, 15, tzinfo=UTC)  # a Saturday
    assert await desk.upkeep.snapshot() == {"accounts": 0}
    assert len(await desk.all_of("portfolio_snapshots")) == 2


@pytest.mark.parametrize(
    ("day", "closes"),
    [
        (date(2025, 10, 21), "14:45"),  # Muhurat trading, 13:45-14:45
        (date(2024, 11, 1), "19:00"),  # the same, 18:00-19:00
        (date(2024, 3, 2), "12:30"),  # a drill, in two parts
        (date(2026, 11, 8), "20:00"),  # Muhurat trading of which only the day is known
    ],
)
async def test_a_special_session_is_kept_after_its_own_close(desk: Desk, day: date, closes: str) -> None:
    close = datetime.combine(day, time.fromisoformat(closes), IST).astimezone(UTC)
    desk.clock.moment = close
    desk.prices.put("RELIANCE", "2600")
    await desk.take(fill("buy", 10, "2500", close - 20 * MINUTE))
    for minutes in (0, 14):
        desk.clock.moment = close + minutes * MINUTE
        assert (await desk.upkeep.snapshot() or {})["accounts"] == 0
    assert await desk.all_of("portfolio_snapshots") == []
    desk.clock.moment = close + 15 * MINUTE
    assert await desk.upkeep.snapshot() == {"accounts": 1}
    (kept,) = await desk.all_of("portfolio_snapshots")
    assert (kept["day"], kept["at"], kept["unrealised"]) == (day.isoformat(), desk.clock.moment, Decimal128("1000"))
    desk.clock.moment += 30 * MINUTE
    assert await desk.upkeep.snapshot() == {"accounts": 0}


async def test_days_are_computed_when_somebody_asks_or_within_the_minute(desk: Desk) -> None:
    await desk.take(fill("buy", 10, "2500", NOON - DAY))
    assert [row["pending"] for row in await desk.all_of("portfolio_days")] == [True]
    assert await desk.upkeep.repair() == {"books": 0, "days": 1}
    (day,) = await desk.all_of("portfolio_days")
    assert (day["pending"], day["trades"]) == (False, 1)
    assert (await desk.get(PNL))["charges"]["total"] == Decimal(str(day["charges"]["total"]))
