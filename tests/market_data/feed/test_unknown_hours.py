"""A day with a session whose hours the calendar does not know: nothing of it is lost, and the operator is told."""

import asyncio
from datetime import date
from typing import Any
from unittest.mock import MagicMock

from app.core.market_calendar import MarketCalendar
from app.market_data.candles import CandleBuilder
from app.market_data.counters import Counters
from app.market_data.feed_health import feed_line
from app.market_data.pipeline import Pipeline
from app.market_data.rows import from_ms
from tests.market_data.candle_ticks import at, tick
from tests.market_data.feed.kit import until
from tests.market_data.feed.test_feed_task import Process
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db

SUNDAY = date(2026, 11, 8)


async def test_a_session_of_unknown_hours_is_listened_to_all_day(bare_db: Db):
    """Muhurat trading: the evening of a Sunday, whose hour is told late."""
    process = Process(bare_db, StandingClock(from_ms(at("09:04", SUNDAY))), generous=True)
    async with process.running():
        await until(lambda: "paused" in process.states)
        assert process.source.runs == 0
        process.clock.moment = from_ms(at("09:10", SUNDAY))
        await until(lambda: process.runs)
        process.clock.moment = from_ms(at("19:59", SUNDAY))
        await asyncio.sleep(0.1)
        assert process.runs
        process.clock.moment = from_ms(at("20:01", SUNDAY))
        await until(lambda: not process.runs)


def test_what_comes_on_such_a_day_is_stored():
    clock = StandingClock(from_ms(at("18:15", SUNDAY)))
    calendar, counters, sink = MarketCalendar(clock, generous=True), Counters(), MagicMock()
    pipeline = Pipeline(
        calendar=calendar,
        clock=clock,
        latest=MagicMock(),
        candles=CandleBuilder(calendar),
        outlet=MagicMock(),
        sink=sink,
        store_after_hours=False,
        counters=counters,
    )
    pipeline.accept([tick(at("18:15", SUNDAY), 100_00)])
    clock.moment = from_ms(at("20:30", SUNDAY))
    late = tick(at("20:30", SUNDAY), 100_00)
    late.digest = 1  # else it is a repeat
    pipeline.accept([late])

    [call] = sink.offer.call_args_list
    assert [row["received_at"] for row in call.args[0]] == [from_ms(at("18:15", SUNDAY))]
    assert counters.after_hours == 1


def test_health_says_what_the_calendar_does_not_know():
    fine: dict[str, Any] = {"status": "ok"}
    assert feed_line(fine, fine, fine, caution="its hours are not known")["calendar"] == "its hours are not known"
    assert "calendar" not in feed_line(fine, fine, fine)
