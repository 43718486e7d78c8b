"""Candles while the feed runs, and after a process that was killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from app.market_data.leading import Past
from app.market_data.ports import Timeframe
from app.market_data.rows import from_ms
from tests.market_data.candle_ticks import SHARE, at, figures, finished, naive, tick
from tests.market_data.feed.kit import CandleBuilder, Candles, clock_at, tick_rows, until
from tests.support.mongodb import Db

OPEN = at("09:15")


@asynccontextmanager
async def running(candles: Candles, past: Past | None = None) -> AsyncIterator[Candles]:
    await candles.task.begin(past or Past())
    async with under_way(candles):
        yield candles


@asynccontextmanager
async def under_way(candles: Candles) -> AsyncIterator[None]:
    task = asyncio.create_task(candles.task.run())
    try:
        yield
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def said(candles: Candles) -> dict[tuple[str, int], tuple[object, ...]]:
    """What the stored candles say of the market."""
    names = ("open", "high", "low", "close", "volume", "ticks")
    return {key: tuple(row[name] for name in names) for key, row in (await candles.stored()).items()}


async def test_candles_are_shown_at_once_and_stored_soon(db: Db):
    clock = clock_at("10:00:02")
    async with running(Candles(db, clock)) as candles:
        candles.builder.accept(tick(at("10:00:01"), 100_00))
        await until(lambda: candles.shown.rows)
        assert await candles.stored() == {}
        clock.move(seconds=1)
        await until(lambda: candles.builder.health()["unsaved"] == 0)
        await until(lambda: candles.store.health()["waiting"] == 0)
        assert not (await candles.stored())["1m", at("10:00")]["closed"]
        clock.move(seconds=60)
        await until(lambda: candles.shown.rows[f"SBIN-EQ|1m|{at('10:00')}"]["closed"])
    assert {row["timeframe"] for row in candles.shown.rows.values()} == set(Timeframe) - {Timeframe.D1}  # not watched


async def test_the_end_stores_what_is_left_if_it_is_ours(db: Db):
    candles = Candles(db, clock_at("10:00:02"))
    await candles.task.begin(Past())
    candles.builder.accept(tick(at("10:00:01"), 100_00))
    await candles.task.finish(owned=False)
    assert await candles.stored() == {}
    await candles.task.finish(owned=True)
    assert len(await candles.stored()) == 8


async def test_another_process_goes_on_with_what_is_stored(db: Db):
    ticks = [tick(at(f"10:0{n}:{s:02}"), 100_00 + n * 7 - s, 1_000 + n * 60 + s) for n in range(6) for s in (5, 35)]
    clock = clock_at("10:03:10")
    first = Candles(db, clock)
    await first.task.begin(Past())
    for one in ticks[:7]:  # into the middle of a minute
        first.builder.accept(one)
    await first.task.finish(owned=True)
    clock.move(seconds=600)
    second = Candles(db, clock)
    await second.task.begin(Past())
    for one in ticks[7:]:
        second.builder.accept(one)
    # A price from the day's beginning, as a subscription brings it: what is stored of that minute must outlive it.
    second.builder.accept(tick(at("10:00:20"), 500_00))
    await second.task.finish(owned=True)

    expected = naive([*ticks, tick(at("10:00:20"), 500_00)], second.calendar)
    assert await said(second) == {(key[0].value, key[1]): row for key, row in expected.items()}


async def test_what_a_killed_process_left_out_is_completed_from_the_ticks(db: Db):
    clock = clock_at("10:02:31")
    ticks = [tick(at("10:00:01") + n * 1_000, 100_00 + n * n % 97, 5_000 + n) for n in range(151)]
    first = Candles(db, clock)
    await first.task.begin(Past())
    for one in ticks[:140]:
        first.builder.accept(one)
    await first.task.finish(owned=True)  # written at 10:02:20; then eleven more ticks, and the kill
    await db["market_data"].insert_many(tick_rows(ticks))
    clock.move(seconds=30)
    later = [tick(at("10:03:02") + n * 300, 90_00 + n, 6_000 + n) for n in range(4)]

    async with running(Candles(db, clock), Past(at=from_ms(at("10:02:31")))) as second:
        second.builder.accept(later[0])
        await until(lambda: second.task.recovered)
        for one in later[1:]:
            second.builder.accept(one)
    await second.task.finish(owned=True)

    whole = CandleBuilder(second.calendar)
    for one in [*ticks, *later]:
        whole.accept(one)
    assert second.task.recovered == 1
    assert await said(second) == {(key[0].value, key[1]): figures(row) for key, row in finished(whole).items()}


async def test_a_symbol_that_is_to_be_completed_waits_for_it(db: Db):
    """Joined with the stored minute before, its ticks would count twice."""
    candles = Candles(db, clock_at("10:00:30"))
    await candles.task.begin(Past(at=candles.clock.now() - timedelta(seconds=5)))
    candles.builder.accept(tick(at("10:00:29"), 100_00))
    await candles.task.settle()
    assert candles.builder.due(at("10:00:31")) == []
    async with under_way(candles):
        await until(lambda: candles.shown.rows)
    assert candles.shown.rows[f"{SHARE.symbol}|1m|{at('10:00')}"]["ticks"] == 1


async def test_what_a_stopped_leader_still_has_does_not_replace_what_the_next_one_wrote(db: Db):
    """Stopped in the middle of a minute, and woken up when another process had finished it."""
    clock = clock_at("10:00:30")
    stopped, leader = Candles(db, clock), Candles(db, clock)
    await stopped.task.begin(Past())
    stopped.builder.accept(tick(at("10:00:10"), 100_00))
    await stopped.task.settle()
    await leader.task.begin(Past())
    for one in (tick(at("10:00:10"), 100_00), tick(at("10:00:50"), 300_00)):
        leader.builder.accept(one)
    await leader.task.finish(owned=True)
    async with under_way(stopped):
        await until(lambda: stopped.shown.rows)
        clock.move(seconds=60)
        await until(lambda: stopped.builder.health()["unsaved"] == 0)
        await until(lambda: stopped.store.outdated)
    assert {row["ticks"] for row in (await leader.stored()).values()} == {2}


async def test_a_leader_whose_term_was_overtaken_gets_another(db: Db):
    """By a process that was stopped between the lease and its term."""
    clock = clock_at("10:00:30")
    candles, late = Candles(db, clock), Candles(db, clock)
    candles.task = candles.make_task(outdated_seconds=0.3)
    async with running(candles):
        await late.task.begin(Past())
        late.builder.accept(tick(at("10:00:29"), 90_00))
        await late.task.finish(owned=True)
        candles.builder.accept(tick(at("10:00:29"), 100_00))
        clock.move(seconds=1)
        await until(lambda: candles.store._term == 3)
        clock.move(seconds=1)
        await until(lambda: candles.store.health()["waiting"] == 0)
    assert {row["term"] for row in (await candles.stored()).values()} == {3}
