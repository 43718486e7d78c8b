"""Gaps are filled from the provider's history: at its pace, and without harm to what we have ourselves."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime

import pytest

from app.core.clock import SystemClock
from app.market_data.backfill import LONGEST_WAIT, SETTLED_MS, SHORTEST_MS, TRIES, TRY_AGAIN, Backfill
from app.market_data.leading import Past
from app.market_data.ports import Bar, CandlesUnavailableError, Gap, Instrument, Timeframe
from app.market_data.rows import from_ms
from tests.market_data.candle_ticks import SHARE, at, tick
from tests.market_data.feed.kit import Candles, History, bar_of, clock_at, until
from tests.support.mongodb import Db

THURSDAY, FRIDAY, MONDAY = date(2026, 11, 19), date(2026, 11, 20), date(2026, 11, 23)


class Filling:
    """A backfill and what it works on."""

    def __init__(self, db: Db, wall: str, wanted: list[Instrument] | None = None, apart: float = 0.0) -> None:
        self.clock = clock_at(wall)
        self.history, self.candles = History(), Candles(db, self.clock)
        self.wanted = wanted or [SHARE]
        self.backfill = Backfill(
            source=self.history,
            builder=self.candles.builder,
            store=self.candles.store,
            clock=self.clock,
            calendar=self.candles.calendar,
            wanted=lambda: self.wanted,
            apart=apart,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.backfill.run())
        try:
            yield
        finally:
            task.cancel()
            [ended] = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError), ended

    async def written(self) -> dict[tuple[str, int], dict[str, object]]:
        await self.candles.task.finish(owned=True)
        return await self.candles.stored()


async def test_an_outage_is_filled_when_its_minutes_are_final(db: Db):
    filling = Filling(db, "10:05:20")
    for wall, price, volume in (("10:00:30", 600_50, 1_000), ("10:01:30", 601_50, 1_050), ("10:05:10", 610_00, 1_500)):
        filling.candles.builder.accept(tick(at(wall), price, volume))
    filling.backfill.outage(at("10:01:40"), at("10:05:05"))
    assert filling.backfill.unfilled_ms() == at("10:01:40")
    async with filling.running():
        await asyncio.sleep(0.1)
        assert filling.history.asked == []  # the minute is not over
        filling.clock.moment = from_ms(at("10:06") + SETTLED_MS)
        await until(lambda: filling.backfill.health()["filled"] == 5)
    assert filling.history.asked == [("SBIN-EQ", from_ms(at("10:01")), from_ms(at("10:05:05")))]
    assert filling.backfill.unfilled_ms() is None

    stored = await filling.written()
    minutes = {start: row for (timeframe, start), row in stored.items() if timeframe == "1m"}
    assert {start: row["source"] for start, row in minutes.items()} == {
        at("10:00"): "ticks",
        at("10:01"): "mixed",
        at("10:02"): "backfill",
        at("10:03"): "backfill",
        at("10:04"): "backfill",
        at("10:05"): "mixed",
    }
    ours, given = minutes[at("10:01")], bar_of(from_ms(at("10:01")))
    assert (ours["open"], ours["close"]) == (601.5, float(given.close))  # we saw its begin, and not its end
    assert minutes[at("10:02")]["volume"] == 100
    five = stored["5m", at("10:00")]
    assert (five["source"], five["open"], five["volume"]) == ("mixed", 600.5, sum(
        int(str(minutes[at(f"10:0{n}")]["volume"])) for n in range(5)
    ))  # fmt: skip


async def test_an_old_gap_is_filled_from_what_is_stored_and_longer_candles_follow(db: Db):
    before = Filling(db, "15:31:00")
    for minute in [n for n in range(15, 60) if n not in {30, 31}]:
        before.candles.builder.accept(tick(at(f"09:{minute}:30"), (5_000 + minute) * 100))
    await before.written()
    filling = Filling(db, "15:40:00")  # another process, with nothing in memory
    assert await filling.backfill.fill(Gap(SHARE, at("09:30"), at("09:32"))) == (2, None)
    stored = await filling.written()

    hour = stored["1h", at("09:15")]
    assert (hour["source"], hour["open"], hour["close"], hour["ticks"]) == ("mixed", 5_015, 5_059, 43)
    assert hour["low"] == float(bar_of(from_ms(at("09:30"))).low)
    assert hour["revision"] == 1
    assert stored["1h", at("09:15")]["closed"]
    assert stored["5m", at("09:45")]["revision"] == 0  # nothing changed there
    assert stored["1d", at("09:15")]["ticks"] == 43


async def test_nights_weekends_and_blinks_are_no_gaps(bare_db: Db):
    filling = Filling(bare_db, "12:00:00")
    filling.backfill.outage(at("15:00", THURSDAY), at("09:20", MONDAY))
    filling.backfill.outage(at("15:30"), at("09:15", MONDAY) + SHORTEST_MS - 1)
    filling.backfill.outage(at("12:00", date(2026, 11, 21)), at("12:00", date(2026, 11, 22)))

    filling.clock.moment = from_ms(at("15:00", MONDAY))
    async with filling.running():
        await until(lambda: len(filling.history.asked) == 3)
        await asyncio.sleep(0.05)
    # The newest first: that is what people look at.
    assert [(start, end) for _, start, end in filling.history.asked] == [
        (from_ms(at("09:15", MONDAY)), from_ms(at("09:20", MONDAY))),
        (from_ms(at("09:15")), from_ms(at("15:30"))),
        (from_ms(at("15:00", THURSDAY)), from_ms(at("15:30", THURSDAY))),
    ]


@pytest.mark.parametrize(
    ("past", "first"),
    [
        (Past(), at("09:15")),  # there never was a feed: today's session
        (Past(at=from_ms(at("10:30"))), at("10:30")),
        (Past(at=from_ms(at("10:30")), through=from_ms(at("10:10"))), at("10:10")),
        (Past(at=from_ms(at("10:30", date(2024, 1, 1)))), at("09:15", date(2026, 11, 13))),  # five sessions and today
    ],
)
async def test_it_begins_where_the_feed_ended(bare_db: Db, past: Past, first: int):
    filling = Filling(bare_db, "11:00:00")
    await filling.backfill.begin(past)

    assert filling.backfill.unfilled_ms() == first


async def test_a_gap_that_goes_on_is_one_gap(bare_db: Db):
    filling = Filling(bare_db, "11:00:00")
    await filling.backfill.begin(Past(at=from_ms(at("10:30:10"))))
    filling.backfill.outage(at("10:59:30"), at("11:00:06"))  # until the first tick
    filling.clock.moment = from_ms(at("11:02"))
    async with filling.running():
        await until(lambda: not filling.backfill.health()["waiting"])

    assert filling.history.asked == [("SBIN-EQ", from_ms(at("10:30")), from_ms(at("11:00:06")))]


async def test_requests_are_far_enough_apart(bare_db: Db):
    wanted = [Instrument(f"S{n}", str(n), "NSE", 1) for n in range(6)]
    filling = Filling(bare_db, "11:00:00", wanted)
    backfill = Backfill(
        source=filling.history,
        builder=filling.candles.builder,
        store=filling.candles.store,
        clock=SystemClock(),
        calendar=filling.candles.calendar,
        wanted=lambda: wanted,
        apart=0.1,
    )
    began = time.monotonic()
    for instrument in wanted:
        await backfill.fill(Gap(instrument, at("10:00"), at("10:01")))

    assert [symbol for symbol, _, _ in filling.history.asked] == [one.symbol for one in wanted]
    # By the beginning: one that a busy machine held up is nearer to the next.
    assert all(at - began > 0.1 * number - 0.005 for number, at in enumerate(filling.history.times))


async def test_a_refusal_is_waited_for_and_holds_for_all(bare_db: Db):
    wanted = [SHARE, Instrument("S2", "2", "NSE", 1)]
    filling = Filling(bare_db, "11:00:00", wanted)
    filling.history.errors = [CandlesUnavailableError("rate_limited", 30.0)]
    filling.backfill.outage(at("10:00"), at("10:02"))
    async with filling.running():
        await until(lambda: filling.backfill.health()["last_error"] == "rate_limited")
        await asyncio.sleep(0.05)
        assert len(filling.history.asked) == 1
        filling.clock.move(seconds=31)
        await until(lambda: filling.backfill.health()["filled"] == 4)

    assert filling.backfill.health()["last_error"] is None


async def test_what_is_refused_is_given_up_after_a_few_tries(bare_db: Db):
    filling = Filling(bare_db, "11:00:00")
    filling.history.errors = [CandlesUnavailableError("not_permitted") for _ in range(TRIES)]
    filling.backfill.add(Gap(SHARE, at("10:00"), at("10:02")))
    async with filling.running():
        for n in range(TRIES):
            await until(lambda n=n: len(filling.history.asked) == n + 1)
            filling.clock.move(seconds=TRY_AGAIN * 5)
        await until(lambda: filling.backfill.health()["failed"] == 1)

    assert filling.backfill.health()["waiting"] == 0
    assert filling.backfill.health()["last_error"] == "not_permitted"


async def test_a_history_that_is_away_is_waited_for_while_the_session_is_recent(bare_db: Db):
    filling = Filling(bare_db, "11:00:00")
    filling.history.errors = [CandlesUnavailableError("unreachable", 60.0) for _ in range(35)]
    filling.backfill.add(Gap(SHARE, at("10:00"), at("10:02")))
    async with filling.running():
        for n in range(36):
            await until(lambda n=n: len(filling.history.asked) == n + 1)
            assert n == 35 or filling.backfill.unfilled_ms() == at("10:00")
            filling.clock.move(seconds=LONGEST_WAIT)
        await until(lambda: filling.backfill.health()["filled"] == 2)
        assert filling.backfill.health()["failed"] == 0

        # Six sessions later nobody asks any more.
        filling.backfill.add(Gap(SHARE, at("10:00"), at("10:02")))
        await until(lambda: not filling.backfill.health()["waiting"])
        filling.clock.moment = from_ms(at("11:00", date(2026, 12, 1)))
        filling.history.errors = [CandlesUnavailableError("unreachable", 60.0)]
        filling.backfill.add(Gap(SHARE, at("10:00"), at("10:02")))
        await until(lambda: filling.backfill.health()["failed"] == 1)
    assert filling.backfill.unfilled_ms() is None


async def test_minutes_that_an_answer_lacks_are_asked_for_again(bare_db: Db):
    filling = Filling(bare_db, "11:00:00")
    filling.history.without = {from_ms(at(wall)) for wall in ("10:00", "10:02", "10:03")}
    filling.backfill.add(Gap(SHARE, at("10:01:30"), at("10:05")))
    async with filling.running():
        await until(lambda: filling.backfill.health()["filled"] == 2)
        assert filling.backfill.unfilled_ms() == at("10:02")
        filling.clock.move(seconds=TRY_AGAIN)
        filling.history.without = {from_ms(at("10:02"))}
        await until(lambda: filling.backfill.health()["filled"] == 3)
        # What nobody traded is not there, however often it is asked for.
        filling.clock.move(seconds=TRY_AGAIN * 5)
        await until(lambda: not filling.backfill.health()["waiting"])
    assert [(start, end) for _, start, end in filling.history.asked] == [
        (from_ms(at("10:01")), from_ms(at("10:05"))),
        (from_ms(at("10:02")), from_ms(at("10:04"))),
        (from_ms(at("10:02")), from_ms(at("10:03"))),
    ]
    assert filling.backfill.health()["failed"] == 0


async def test_an_empty_answer_does_not_fill_a_gap(bare_db: Db):
    filling = Filling(bare_db, "11:00:00")
    filling.history.without = {from_ms(at("10:00")), from_ms(at("10:01"))}
    filling.backfill.add(Gap(SHARE, at("10:00"), at("10:02")))
    async with filling.running():
        await until(lambda: filling.history.asked)
        assert filling.backfill.unfilled_ms() == at("10:00")
        filling.history.without = set()
        filling.clock.move(seconds=TRY_AGAIN)
        await until(lambda: filling.backfill.health()["filled"] == 2)
    assert filling.backfill.unfilled_ms() is None


async def test_a_gap_that_grows_while_its_history_fails_stays(bare_db: Db):
    filling = Filling(bare_db, "11:00:00")

    class Growing(History):
        async def bars(self, instrument: Instrument, timeframe: Timeframe, start: datetime, end: datetime) -> list[Bar]:
            if not self.asked:
                filling.backfill.add(Gap(SHARE, at("09:58"), at("10:01")))
            return await super().bars(instrument, timeframe, start, end)

    filling.history = filling.backfill._source = Growing()
    filling.history.errors = [CandlesUnavailableError("unreachable", 60.0)]
    filling.backfill.add(Gap(SHARE, at("10:00"), at("10:02")))
    async with filling.running():
        await until(lambda: filling.backfill.health()["last_error"] == "unreachable")
        filling.clock.move(seconds=61)
        await until(lambda: filling.backfill.health()["filled"] == 4)
    assert filling.backfill.unfilled_ms() is None


async def test_a_history_with_nothing_in_it_changes_nothing(bare_db: Db):
    filling = Filling(bare_db, "11:00:00")

    assert await filling.backfill.fill(Gap(SHARE, at("16:00"), at("17:00"))) == (0, None)
    assert filling.history.asked == []


async def test_who_is_followed_later_gets_the_session_until_then(db: Db):
    late = Instrument("INFY-EQ", "1594", "NSE", 1, "EQ")
    filling = Filling(db, "11:00:00")
    filling.backfill.look()
    assert filling.backfill.unfilled_ms() is None  # the feed does not run here

    await filling.backfill.begin(Past(at=from_ms(at("10:59:59")), through=from_ms(at("10:59:59"))))
    filling.wanted.append(late)
    filling.backfill.look()
    filling.backfill.look()
    assert filling.backfill.health()["waiting"] == 1
    assert filling.backfill.unfilled_ms() == at("09:15")

    filling.clock.moment = from_ms(at("11:05"))
    async with filling.running():
        await until(lambda: filling.history.asked)
    assert filling.history.asked == [("INFY-EQ", from_ms(at("09:15")), from_ms(at("11:00")))]

    await filling.backfill.finish(owned=True)
    filling.wanted.append(Instrument("TCS-EQ", "11536", "NSE", 1, "EQ"))
    filling.backfill.look()
    assert filling.backfill.health()["waiting"] <= 1
