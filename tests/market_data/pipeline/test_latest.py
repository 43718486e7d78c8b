"""The newest ticks, what is said of them in the database, and who may say it."""

import asyncio
from datetime import timedelta

from app.core.cancelling import end
from app.core.clock import SystemClock
from app.market_data.latest import LatestPrices
from app.market_data.models import LatestDocument
from app.market_data.ports import Quality, Tick
from app.market_data.rows import EncodedRow, encode, from_ms
from tests.market_data.pipeline.kit import (
    BANK,
    NIFTY,
    OPEN_MS,
    SAVED_WITHIN,
    Database,
    counts_of,
    rows_of,
    saved,
    tick,
    warm,
)
from tests.support.tcp_proxy import TcpProxy


def prices(db: Database) -> LatestPrices:
    return LatestPrices(db, SystemClock(), patience=SAVED_WITHIN)


def encoded(*ticks: Tick) -> list[EncodedRow]:
    return [encode(row) for row in rows_of(ticks)]


def at(*milliseconds: int) -> list[EncodedRow]:
    return encoded(*(tick(ms=OPEN_MS + ms) for ms in milliseconds))


async def store(db: Database, *ticks: Tick) -> None:
    await db["market_data"].insert_many(rows_of(ticks))


def test_the_newest_is_by_the_exchange_s_clock(db: Database) -> None:
    latest = prices(db)
    old, new, same = tick(ms=OPEN_MS), tick(ms=OPEN_MS + 1000), tick(ms=OPEN_MS + 1000)
    assert [latest.seen(one) for one in (new, old, same, tick(BANK))] == [True, False, True, True]
    assert latest.snapshot()[NIFTY.symbol] is same


async def test_a_row_says_what_is_stored(db: Database) -> None:
    latest = prices(db)
    rows = encoded(
        tick(ms=OPEN_MS + 5), tick(ms=OPEN_MS + 9, quality=Quality.SUSPECT, price=2_401_000), tick(ms=OPEN_MS + 7)
    )
    latest.note_stored(rows)
    latest.note_stored(encoded(tick(BANK, price=5_000_000)))
    assert await latest.save()
    row = await LatestDocument.find_one({"_id": NIFTY.symbol})
    assert row is not None
    assert (row.token, row.exchange, row.exchange_type) == ("99926000", "NSE", 1)
    assert (row.received_at, row.first_at) == (from_ms(OPEN_MS + 9), from_ms(OPEN_MS + 5))
    assert (row.stored, row.by_quality, row.by_source) == (3, {"good": 2, "suspect": 1}, {"angel_one": 3})
    assert row.tick["ltpc"] == 24010.0
    assert row.tick["_id"] == rows[1].id
    assert await counts_of(db) == {NIFTY.symbol: 3, BANK.symbol: 1}


async def test_it_goes_on_after_a_restart(db: Database) -> None:
    first = prices(db)
    first.note_stored(at(0, 10))
    await first.save()
    second = prices(db)
    await second.load()
    assert not second.seen(tick(ms=OPEN_MS + 3)), "what is stored is newer"
    second.note_stored(at(20))
    second.note_stored(at(5))
    assert await second.save()
    row = await LatestDocument.find_one({"_id": NIFTY.symbol})
    assert row is not None
    assert (row.stored, row.received_at, row.first_at) == (4, from_ms(OPEN_MS + 20), from_ms(OPEN_MS))


async def test_ticks_stored_before_a_kill_are_counted_at_the_next_start(db: Database) -> None:
    ticks = [tick(ms=OPEN_MS + 100 * n) for n in range(10)]
    await store(db, *ticks, tick(BANK, OPEN_MS + 850))
    first = prices(db)
    first.note_stored(encoded(*ticks[:7]))
    await first.save()
    # Killed here. Its last three ticks, and the first one of another symbol, are stored and not counted.
    second = prices(db)
    await second.load()
    assert await second.save()
    assert await counts_of(db) == {NIFTY.symbol: 10, BANK.symbol: 1}
    assert (await db["market_latest"].find_one({"_id": NIFTY.symbol}) or {})["received_at"] == from_ms(OPEN_MS + 900)
    again = prices(db)
    await again.load()
    assert again.stored() == {NIFTY.symbol: 10, BANK.symbol: 1}, "once"


async def test_a_kill_before_the_first_save(db: Database) -> None:
    now = SystemClock().now() - timedelta(seconds=1)
    await store(db, tick(ms=int(now.timestamp() * 1000)))
    latest = prices(db)
    await latest.load()
    assert latest.stored() == {NIFTY.symbol: 1}


async def test_an_older_tick_never_takes_the_place_of_a_newer(db: Database) -> None:
    old_leader, new_leader = prices(db), prices(db)
    new_leader.note_stored(at(5000))
    await new_leader.save()
    old_leader.note_stored(at(100, 200))
    assert not await old_leader.save(), "it learns what is there"
    assert await old_leader.save()
    row = await LatestDocument.find_one({"_id": NIFTY.symbol})
    assert row is not None
    assert (row.received_at, row.first_at, row.stored) == (from_ms(OPEN_MS + 5000), from_ms(OPEN_MS + 100), 3)


async def test_two_that_write_in_turn_lose_no_count(db: Database) -> None:
    leaders = [prices(db), prices(db)]
    for number in range(0, 40, 2):
        for index, leader in enumerate(leaders):
            leader.note_stored(at(number + index))
            await leader.save()
    while not all([await leader.save() for leader in leaders]):
        pass
    assert await counts_of(db) == {NIFTY.symbol: 40}


async def test_a_lost_answer_counts_nothing_twice(db: Database, far_db: Database, proxy: TcpProxy) -> None:
    latest = LatestPrices(far_db, SystemClock())  # which gives up after a while
    latest.note_stored(at(0))
    await saved(latest)
    await warm(far_db)
    proxy.swallow_answers()
    latest.note_stored(at(1, 2))
    saving = asyncio.create_task(latest.save())
    async with asyncio.timeout(30):
        while await counts_of(db) != {NIFTY.symbol: 3}:
            await asyncio.sleep(0.01)
    latest.note_stored(at(30))  # while nobody knows
    await proxy.cut()
    await saving
    await proxy.mend()
    await saved(latest)
    assert await counts_of(db) == {NIFTY.symbol: 4}
    assert latest.stored() == {NIFTY.symbol: 4}


async def test_a_repeat_shows_a_tick_that_nobody_told_of_and_counts_nothing(db: Database) -> None:
    latest = prices(db)
    latest.note_stored(at(0))
    latest.note_stored(at(900), counted=False)
    latest.note_stored(at(100), counted=False)
    assert await latest.save()
    row = await LatestDocument.find_one({"_id": NIFTY.symbol})
    assert row is not None
    assert (row.stored, row.received_at) == (1, from_ms(OPEN_MS + 900))


async def test_saved_in_the_background_and_not_at_every_tick(db: Database) -> None:
    latest = prices(db)
    task = asyncio.create_task(latest.run())
    for number in range(10):
        latest.note_stored(at(number))
        await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        while await counts_of(db) != {NIFTY.symbol: 10}:
            await asyncio.sleep(0.02)
    await end([task])
