"""How good a symbol's data are: silences, and what the pipeline counted, by day."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

from app.core.market_calendar import IST
from app.core.market_days import load_calendar
from app.market_data.counters import Counters
from app.market_data.leading import Past
from app.market_data.quality import MOST_GAPS, DataQuality
from app.market_data.rows import from_ms, to_ms
from tests.market_data.candle_ticks import FRIDAY, NIFTY, SHARE, at, tick
from tests.market_data.feed.kit import MarketCalendar, clock_at
from tests.simulators.angel_one.calendar import write_calendar
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

MONDAY = date(2026, 11, 23)
DRILL = date(2024, 5, 18)
"""Open from 09:15 to 10:00 and from 11:30 to 12:30."""


class Judged:
    """Data quality, its counters and its rows."""

    def __init__(self, db: Db, wall: str = "15:00:00") -> None:
        self.db, self.clock, self.counters = db, clock_at(wall), Counters()
        self.calendar, self.wanted = MarketCalendar(self.clock), [SHARE, NIFTY]
        self.quality = self.again()

    def again(self) -> DataQuality:
        """Another process's."""
        return DataQuality(
            db=self.db,
            clock=self.clock,
            calendar=self.calendar,
            counters=self.counters,
            wanted=lambda: self.wanted,
        )

    async def restart(self, last: int, now: int, symbol: str = SHARE.symbol) -> None:
        """Another process goes on at `now`; the symbol's newest tick is stored, of `last`."""
        await self.quality.finish(owned=True)
        await self.db["market_latest"].replace_one({"_id": symbol}, {"received_at": from_ms(last)}, upsert=True)
        self.clock.moment = from_ms(now)
        self.quality = self.again()
        await self.quality.begin(Past())

    def every(self, seconds: float, start: int, end: int) -> None:
        """Ticks of the share."""
        while start < end:
            self.quality.saw([tick(start, 100_00)])
            start += round(seconds * 1000)

    async def gaps(self, day: date = FRIDAY, symbol: str = SHARE.symbol) -> list[tuple[int, int]]:
        """All of a day."""
        row = await self.row(symbol, day) or {"gaps": [], "gap_count": 0}
        assert row["gap_count"] == len(row["gaps"])
        return [(to_ms(gap["start"]), to_ms(gap["end"])) for gap in row["gaps"]]

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
    judged.clock.moment = from_ms(at("10:10"))
    assert (await judged.row() or {})["longest_silence_seconds"] == 601


async def test_a_silence_that_lasts_to_the_close_is_a_gap_once(db: Db):
    judged = Judged(db, "15:00:00")
    judged.every(1, at("09:15"), at("15:00"))
    judged.clock.moment = from_ms(at("15:30:30"))
    assert await judged.gaps() == []  # its last ticks may still be on their way
    judged.clock.moment = from_ms(at("15:31"))
    to_close = [(at("14:59:59"), at("15:30"))]
    assert await judged.gaps() == to_close
    await judged.restart(at("14:59:59"), at("20:00"))
    assert await judged.gaps() == to_close
    await judged.restart(at("14:59:59"), at("09:15:05", MONDAY))
    judged.every(1, at("09:15:05", MONDAY), at("09:16", MONDAY))
    assert (await judged.gaps(), await judged.gaps(MONDAY)) == (to_close, [])


async def test_an_outage_over_the_close_belongs_to_the_days_that_it_lay_in(db: Db):
    judged = Judged(db, "15:00:00")
    judged.every(1, at("09:15"), at("15:00"))
    judged.counters.repeat(SHARE.symbol)
    await judged.restart(at("14:59:59"), at("09:15:30", MONDAY))
    judged.every(1, at("09:16", MONDAY), at("09:17", MONDAY))
    judged.clock.moment = from_ms(at("09:17", MONDAY))

    assert await judged.gaps() == [(at("14:59:59"), at("15:30"))]
    assert (await judged.row() or {})["duplicates"] == 1  # what was known of the day is still
    assert await judged.gaps(MONDAY) == [(at("09:15", MONDAY), at("09:16", MONDAY))]


async def test_of_what_is_not_wanted_any_more_nothing_is_missing(db: Db):
    judged = Judged(db, "10:00:00")
    judged.every(1, at("09:15"), at("10:00"))
    judged.wanted = [NIFTY]
    judged.clock.moment = from_ms(at("20:00"))
    assert await judged.row() is None
    await judged.restart(at("09:59:59"), at("10:00", MONDAY))
    assert await judged.row(day=MONDAY) is None
    judged.wanted = [SHARE]
    judged.quality.saw([tick(at("10:01", MONDAY), 1)])
    assert (await judged.gaps(), await judged.gaps(MONDAY)) == ([], [(at("09:15", MONDAY), at("10:01", MONDAY))])


async def test_between_the_windows_of_a_session_nothing_is_missing(db: Db):
    judged = Judged(db)
    judged.clock.moment = from_ms(at("09:59:59", DRILL))
    judged.every(1, at("09:15", DRILL), at("10:00", DRILL))
    judged.every(1, at("11:30", DRILL), at("11:40", DRILL))
    assert await judged.gaps(DRILL) == []
    judged.clock.moment = from_ms(at("12:31", DRILL))
    assert await judged.gaps(DRILL) == [(at("11:39:59", DRILL), at("12:30", DRILL))]


async def test_a_silence_over_the_break_of_a_session_is_one_in_each_window(db: Db):
    judged = Judged(db)
    judged.clock.moment = from_ms(at("09:50", DRILL))
    judged.every(1, at("09:15", DRILL), at("09:50", DRILL))
    judged.every(1, at("11:35", DRILL), at("11:36", DRILL))
    gaps = [(at("09:49:59", DRILL), at("10:00", DRILL)), (at("11:30", DRILL), at("11:35", DRILL))]
    assert await judged.gaps(DRILL) == gaps


async def test_a_tick_of_an_earlier_day_leaves_its_row_alone(db: Db):
    judged = Judged(db)
    judged.every(1, at("09:15"), at("15:00"))
    before = await judged.row()
    judged.clock.moment = from_ms(at("09:15", MONDAY))
    judged.quality = judged.again()
    await judged.quality.begin(Past())
    judged.quality.saw([tick(at("15:29:58"), 1)])  # the last price, as the source begins with it
    assert await judged.row() == before


async def test_where_it_never_closes_a_day_is_kept_beyond_midnight(db: Db, tmp_path: Path):
    judged = Judged(db)
    today = StandingClock().moment.astimezone(IST).date()
    write_calendar(tmp_path / "always.json")
    judged.calendar = MarketCalendar(judged.clock, load_calendar(tmp_path / "always.json"))
    judged.quality, tomorrow = judged.again(), today + timedelta(days=1)
    judged.clock.moment = from_ms(at("23:59:00", today))
    judged.every(1, at("00:00", today), at("23:58", today))
    judged.counters.repeat(SHARE.symbol)
    for wall in ("00:00:15", "00:00:30", "00:01:15"):
        assert await judged.quality.save()
        judged.clock.moment = from_ms(at(wall, tomorrow))
    [(start, end)] = await judged.gaps(today)
    assert (start, end) == (at("23:57:59", today), at("23:59:59.999", today))
    assert (await judged.row(day=today) or {})["duplicates"] == 1


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


async def test_a_short_restart_is_no_gap_and_an_outage_is_one_of_its_length(db: Db):
    judged = Judged(db, "10:00:00")
    judged.every(1, at("09:15"), at("10:00"))
    judged.counters.repeat(SHARE.symbol)
    for wall, until in (("10:00:05", "10:05"), ("10:05:05", "10:10")):
        await judged.restart(at(wall) - 6_000, at(wall))
        judged.every(1, at(wall), at(until))
    row = await judged.row() or {}
    assert (row["gap_count"], row["longest_silence_seconds"]) == (0, 0)

    await judged.restart(at("10:09:59"), at("11:10"))
    assert (await judged.row() or {})["longest_silence_seconds"] == 3_601  # seen before it ends
    judged.quality.saw([tick(at("11:10"), 1)])
    assert await judged.gaps() == [(at("10:09:59"), at("11:10"))]


async def test_a_restart_knows_what_trades_seldom(db: Db):
    judged = Judged(db, "10:00:00")
    judged.every(45, at("09:15"), at("10:00"))
    before = await judged.gaps()
    await judged.restart(at("09:59:15"), at("09:59:40"))
    judged.every(45, at("10:00"), at("10:30"))
    assert await judged.gaps() == before


async def test_gaps_beyond_a_hundred_are_counted(db: Db):
    judged = Judged(db)
    for n in range(MOST_GAPS + 5):
        judged.every(0.2, at("09:15") + n * 120_000, at("09:15") + n * 120_000 + 60_000)

    row = await judged.row() or {}
    assert (len(row["gaps"]), row["gap_count"]) == (MOST_GAPS, MOST_GAPS + 4)
