"""How good a symbol's data are: silences, and what the pipeline counted, by day."""

from datetime import date
from typing import Any

from app.market_data.counters import Counters
from app.market_data.leading import Past
from app.market_data.quality import MOST_GAPS, DataQuality
from app.market_data.rows import from_ms
from tests.market_data.candle_ticks import FRIDAY, NIFTY, SHARE, at, tick
from tests.market_data.feed.kit import MarketCalendar, clock_at
from tests.support.mongodb import Db

MONDAY = date(2026, 11, 23)


class Judged:
    """Data quality, its counters and its rows."""

    def __init__(self, db: Db, wall: str = "15:00:00") -> None:
        self.db, self.clock, self.counters = db, clock_at(wall), Counters()
        self.quality = self.again()

    def again(self) -> DataQuality:
        """Another process's."""
        return DataQuality(db=self.db, clock=self.clock, calendar=MarketCalendar(self.clock), counters=self.counters)

    def every(self, seconds: float, start: int, end: int) -> None:
        """Ticks of the share."""
        while start < end:
            self.quality.saw([tick(start, 100_00)])
            start += round(seconds * 1000)

    async def row(self, symbol: str = SHARE.symbol, day: date = FRIDAY) -> dict[str, Any] | None:
        assert await self.quality.save()
        return await self.db["market_quality"].find_one({"_id": f"{symbol}|{day}"})


async def test_a_gap_is_a_silence_that_is_unusual(db: Db):
    judged = Judged(db, "10:05:00")
    judged.every(1, at("09:15"), at("10:00"))
    judged.every(1, at("10:02:30"), at("10:05"))

    row = await judged.row()
    assert row is not None
    assert row["gaps"] == [{"start": from_ms(at("09:59:59")), "end": from_ms(at("10:02:30"))}]
    assert (row["gap_count"], row["longest_silence_seconds"]) == (1, 151)


async def test_what_trades_seldom_has_no_gaps(db: Db):
    judged = Judged(db, "10:00:00")
    judged.every(45, at("09:15"), at("10:00"))
    assert (await judged.row() or {})["gap_count"] <= 2  # until its rhythm is known
    before = (await judged.row() or {})["gap_count"]
    judged.every(50, at("10:00"), at("15:30"))
    judged.clock.moment = from_ms(at("15:29:59"))

    row = await judged.row() or {}
    assert row["gap_count"] == before
    assert row["longest_silence_seconds"] == 50


async def test_what_is_missing_at_the_begin_of_a_session_is_a_gap_and_the_night_is_none(db: Db):
    judged = Judged(db, "15:29:59")
    judged.every(1, at("15:00"), at("15:30"))
    judged.clock.moment = from_ms(at("09:16:10", MONDAY))
    judged.every(1, at("09:16", MONDAY), at("09:16:10", MONDAY))

    friday, monday = await judged.row(), await judged.row(day=MONDAY)
    assert friday is not None
    assert monday is not None
    assert [(gap["start"], gap["end"]) for gap in friday["gaps"]] == [(from_ms(at("09:15")), from_ms(at("15:00")))]
    assert [(gap["start"], gap["end"]) for gap in monday["gaps"]] == [
        (from_ms(at("09:15", MONDAY)), from_ms(at("09:16", MONDAY)))
    ]


async def test_a_silence_that_lasts_is_seen_before_it_ends(db: Db):
    judged = Judged(db, "10:00:00")
    judged.every(1, at("09:15"), at("10:00"))
    judged.clock.move(minutes=3)
    row = await judged.row() or {}
    assert (row["gap_count"], row["longest_silence_seconds"]) == (0, 181)
    judged.clock.moment = from_ms(at("20:00"))  # nobody expects anything now
    assert (await judged.row() or {})["longest_silence_seconds"] == 181


async def test_refused_ticks_and_those_of_the_evening_break_no_silence(db: Db):
    judged = Judged(db)
    judged.every(1, at("09:15"), at("10:00"))
    refused, evening, late = tick(at("10:10"), 1), tick(at("10:11"), 1, after_hours=True), tick(at("09:30"), 1)
    refused.received_ms = 0
    judged.quality.saw([refused, evening, late, tick(at("10:20"), 1)])

    assert [gap["end"] for gap in (await judged.row() or {})["gaps"]] == [from_ms(at("10:20"))]


async def test_what_the_pipeline_counted_is_added_by_day(db: Db):
    judged = Judged(db)
    for _ in range(3):
        judged.counters.repeat(SHARE.symbol)
        judged.counters.reject("price", SHARE.symbol)
    judged.counters.of(SHARE.symbol).good = 7
    await judged.row()
    judged.counters.reject("future", SHARE.symbol)
    judged.counters.of(SHARE.symbol).late = 2
    judged.counters.of(NIFTY.symbol).stale = 1

    row = await judged.row() or {}
    assert (row["duplicates"], row["late"], row["rejected"]) == (3, 2, {"price": 3, "future": 1})
    assert row["by_quality"] == {"good": 7}
    assert (await judged.row(NIFTY.symbol) or {})["by_quality"] == {"stale": 1}
    assert judged.counters.duplicate == 3  # the totals are not touched


async def test_another_process_goes_on(db: Db):
    judged = Judged(db, "10:05:00")
    judged.every(1, at("09:15"), at("09:50"))
    judged.every(1, at("10:00"), at("10:05"))
    judged.counters.repeat(SHARE.symbol)
    await judged.quality.finish(owned=True)
    judged.quality = judged.again()
    await judged.quality.begin(Past())
    judged.counters.repeat(SHARE.symbol)

    row = await judged.row() or {}
    assert (row["duplicates"], row["gap_count"]) == (2, 1)
    judged.counters.repeat(SHARE.symbol)
    await judged.quality.finish(owned=False)  # it is another's now
    assert (await db["market_quality"].find_one({"_id": row["_id"]}) or {})["duplicates"] == 2


async def test_gaps_beyond_a_hundred_are_counted(db: Db):
    judged = Judged(db)
    for n in range(MOST_GAPS + 5):
        judged.every(0.2, at("09:15") + n * 120_000, at("09:15") + n * 120_000 + 60_000)

    row = await judged.row() or {}
    assert (len(row["gaps"]), row["gap_count"]) == (MOST_GAPS, MOST_GAPS + 4)
