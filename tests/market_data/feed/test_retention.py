"""Old ticks go, a few at a time; nothing else does."""

import asyncio
from datetime import date, datetime
from typing import Any

from bson import ObjectId
from pymongo import AsyncMongoClient, monitoring

from app.core.market_calendar import IST
from app.market_data.latest import LatestPrices
from app.market_data.models import LatestDocument, QualityDocument, TickDocument
from app.market_data.retention import STEP_ROWS, TickRetention
from app.market_data.rows import encode, from_ms
from tests.market_data.candle_ticks import SHARE, at, tick
from tests.market_data.feed.kit import MarketCalendar, clock_at, tick_rows
from tests.support.mongodb import OPTIONS, Db

WEDNESDAY, THURSDAY, FRIDAY = date(2026, 11, 18), date(2026, 11, 19), date(2026, 11, 20)


class Deletes(monitoring.CommandListener):
    """How many rows each request deleted."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Of no interest."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.command_name == "delete":
            self.counts.append(event.reply["n"])

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Of no interest."""


async def fill(db: Db, *starts: int, count: int, every: int = 100) -> None:
    rows = tick_rows(
        tick(start + n * every, 100_00 + n) for start in starts for n in range(count if start == min(starts) else 3)
    )
    for number, row in enumerate(rows):
        row["_id"] = number
    await db[TickDocument.Settings.name].insert_many(rows)
    newest = max(row["received_at"] for row in rows)
    counts = {"stored": len(rows), "by_quality": {"good": len(rows)}, "by_source": {"angel_one": len(rows)}}
    await db[LatestDocument.Settings.name].insert_one(
        {"_id": SHARE.symbol, "first_at": from_ms(min(starts)), "received_at": newest, "tick": rows[-1], **counts}
    )


def retention(db: Db, days: int | None, *, after_hours: bool = False) -> TickRetention:
    clock = clock_at("20:00:00")
    return TickRetention(
        db=db, clock=clock, calendar=MarketCalendar(clock), days=days, after_hours=after_hours, pause=0
    )


async def left(db: Db) -> list[Any]:
    return sorted({row["received_at"] for row in await db["market_data"].find({}).to_list()})


async def test_whole_days_go_in_small_steps_and_are_not_searched_again(mongodb_url: str, db: Db):
    deletes = Deletes()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_url, **OPTIONS, event_listeners=[deletes])
    days = (WEDNESDAY, THURSDAY, FRIDAY)
    # 50 ticks a second, many times what is guessed at first.
    await fill(db, *(at("15:10", day) for day in days), at("15:29:59.990", THURSDAY), count=1_200, every=20)
    await retention(client[db.name], 1).expire()
    first = list(deletes.counts)
    deletes.counts.clear()
    await retention(client[db.name], 1).expire()
    await client.close()

    assert {moment.date() for moment in await left(db)} == {THURSDAY, FRIDAY}
    assert sum(first) == 1_200
    assert max(first) <= 2 * STEP_ROWS
    assert deletes.counts == []


async def test_it_goes_on_where_it_was_a_day_later(db: Db):
    await fill(db, *(at("15:20", day) for day in (WEDNESDAY, THURSDAY, FRIDAY)), count=3)
    await retention(db, 2).expire()
    assert len(await left(db)) == 9
    await retention(db, 1).expire()
    assert len(await left(db)) == 6
    await retention(db, 1).expire()
    assert len(await left(db)) == 6


async def test_what_lies_outside_of_sessions_goes_too(db: Db):
    await fill(db, at("15:25", WEDNESDAY), at("15:30", WEDNESDAY), at("22:00", WEDNESDAY), count=3)
    await retention(db, 1).expire()
    assert await left(db) == []


async def test_evenings_are_gone_through_in_steps_where_they_are_stored(mongodb_url: str, db: Db):
    deletes = Deletes()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_url, **OPTIONS, event_listeners=[deletes])
    await fill(db, at("23:50", WEDNESDAY), count=700, every=300)
    await retention(client[db.name], 1, after_hours=True).expire()
    await client.close()

    assert await left(db) == []
    assert max(deletes.counts) <= STEP_ROWS


async def test_without_a_number_of_days_or_without_ticks_nothing_happens(db: Db):
    await retention(db, 1).expire()
    await fill(db, at("10:00", date(2020, 1, 1)), count=3)
    await retention(db, None).expire()
    assert len(await left(db)) == 3


async def test_what_is_deleted_is_not_counted_any_more_whoever_writes_the_counts(db: Db):
    """The process with the feed replaces the same rows, before and after."""
    clock = clock_at("20:00:00")
    old = tick_rows(tick(at("15:10", WEDNESDAY) + n * 100, 100_00 + n) for n in range(40))
    new = tick_rows(tick(at("15:10", FRIDAY) + n * 100, 100_00 + n) for n in range(5))
    for row in [*old, *new]:
        row["_id"] = ObjectId()
    for row in old[:10]:
        row |= {"data_quality": "suspect", "source": "import"}
    feed = LatestPrices(db, clock, patience=30)
    await db["market_data"].insert_many([*old, *new[:4]])
    feed.note_stored([encode(row) for row in [*old, *new[:3]]])
    assert await feed.save()
    feed.note_stored([encode(new[3])])  # not saved yet, while the others are deleted
    await retention(db, 1).expire()

    [row] = await db["market_latest"].find({}).to_list()
    assert (row["stored"], row["by_quality"], row["by_source"]) == (3, {"good": 3}, {"angel_one": 3})
    first = datetime(2026, 11, 19, tzinfo=IST)
    assert row["first_at"] == first
    for _ in range(2):
        await feed.save()
    feed.note_stored([encode(new[4])])
    for _ in range(2):
        await feed.save()
    [row] = await db["market_latest"].find({}).to_list()
    assert (row["stored"], row["by_quality"], row["by_source"]) == (5, {"good": 5}, {"angel_one": 5})
    assert row["first_at"] == first


async def test_who_saves_between_two_deletions_loses_nothing(db: Db):
    feed = LatestPrices(db, clock_at("20:00:00"), patience=30)
    day = [tick(at("15:10", FRIDAY) + n * 100, 100_00 + n) for n in range(60)]
    await fill(db, at("15:10", WEDNESDAY), count=1_000)
    await feed.load()

    async def save() -> None:
        for row in tick_rows(day):
            feed.note_stored([encode(row)])
            await feed.save()

    await asyncio.gather(retention(db, 1).expire(), save())
    while not await feed.save():
        pass
    [row] = await db["market_latest"].find({}).to_list()
    assert (row["stored"], row["by_quality"]) == (60, {"good": 60})


async def test_of_a_symbol_without_ticks_nothing_is_counted_whatever_was_killed(db: Db):
    """Its next tick is counted rightly by a process that still has the old counts in its memory."""
    feed = LatestPrices(db, clock_at("20:00:00"), patience=30)
    old = tick_rows(tick(at("15:10", WEDNESDAY) + n * 100, 100_00 + n) for n in range(6))
    for row in old:
        row["_id"] = ObjectId()
    feed.note_stored([encode(row) for row in old])
    assert await feed.save()
    await db["market_data"].insert_many(old[4:])  # of the others a killed run has not said that they are deleted
    await retention(db, 1).expire()
    [row] = await db["market_latest"].find({}).to_list()
    assert (row["stored"], row["by_quality"], row["by_source"]) == (0, {}, {})

    [new] = tick_rows([tick(at("15:10", FRIDAY), 100_00)])
    feed.note_stored([encode(new | {"_id": ObjectId()})])
    for _ in range(2):
        await feed.save()
    [row] = await db["market_latest"].find({}).to_list()
    assert (row["stored"], row["by_quality"], row["by_source"]) == (1, {"good": 1}, {"angel_one": 1})


async def test_the_quality_of_days_without_ticks_goes_in_small_steps(mongodb_url: str, db: Db):
    deletes = Deletes()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongodb_url, **OPTIONS, event_listeners=[deletes])
    days = {WEDNESDAY: STEP_ROWS + 3, THURSDAY: 2, FRIDAY: 2}
    rows = [{"_id": f"{n}|{day}", "symbol": str(n), "day": str(day)} for day, most in days.items() for n in range(most)]
    await db[QualityDocument.Settings.name].insert_many(rows)
    await retention(client[db.name], None).expire()
    assert deletes.counts == []
    await retention(client[db.name], 1).expire()
    await client.close()

    assert deletes.counts == [STEP_ROWS, 3]
    left = await db[QualityDocument.Settings.name].find({}).to_list()
    assert sorted(row["day"] for row in left) == [str(day) for day in (THURSDAY, THURSDAY, FRIDAY, FRIDAY)]
