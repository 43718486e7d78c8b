"""How far ahead in candles, and where these will be."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from app.core.candles import CandleSeries, Timeframe
from app.core.errors import InvalidInputError
from app.predictions.horizons import candles_of, horizon_of, horizon_text
from app.predictions.hours import TradingHours
from tests.predictions.service.kit import CALENDAR, NOON

HOURS = TradingHours(CALENDAR)
NSE_MINUTES = {Timeframe.M1: 375, Timeframe.M5: 75, Timeframe.M15: 25, Timeframe.H1: 7}


@pytest.mark.parametrize(
    ("text", "timeframe", "candles"),
    [
        ("5", "1D", 5), ("5", "15m", 5), (" 5 D ", "1D", 5), ("1w", "1D", 5), ("2 weeks", "1D", 10), ("1day", "1D", 1),
        ("3w", "1W", 3), ("10d", "1W", 2), ("4h", "1H", 4), ("120m", "1H", 2), ("1h", "15m", 4), ("30min", "15m", 2),
        ("1d", "15m", 25), ("1d", "1H", 7), ("1w", "1H", 35), ("60", "1D", 60), ("12 bars", "1W", 12),
    ],
)  # fmt: skip
def test_what_people_write(text: str, timeframe: str, candles: int):
    frame = Timeframe(timeframe)
    assert candles_of(horizon_of(text), frame, NSE_MINUTES.get(frame, 1)) == candles
    assert candles_of(horizon_of(horizon_text(candles, frame)), frame, 1) == candles


@pytest.mark.parametrize(
    ("text", "timeframe", "told"),
    [
        ("61", "1D", "1 to 60"), ("13w", "1D", "65 candles"), ("1d", "1m", "375 candles"),
        ("4h", "1D", "no whole number"),
        ("3d", "1W", "no whole number"), ("7m", "5m", "no whole number"), ("30m", "1H", "no whole number"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_told_with_what_is(text: str, timeframe: str, told: str):
    frame = Timeframe(timeframe)
    with pytest.raises(InvalidInputError, match=told) as caught:
        candles_of(horizon_of(text), frame, NSE_MINUTES.get(frame, 1))
    assert horizon_text(5, frame) in caught.value.detail
    assert caught.value.errors[0].loc == ("body", "time_horizon")


@pytest.mark.parametrize("text", ["", "d", "0", "0d", "-1", "1.5d", "5x", "5dd", "five", "1e3", "10000", "5 d d"])
def test_what_is_no_time(text: str):
    with pytest.raises(InvalidInputError, match="no time"):
        horizon_of(text)


def series(starts: Sequence[datetime], timeframe: str, symbol: str = "X") -> CandleSeries:
    prices = tuple(100.0 for _ in starts)
    return CandleSeries(
        symbol, timeframe, tuple(starts), prices, prices, prices, prices, prices, True, "yahoo", NOON, False, "INR"
    )  # fmt: skip


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def starts_of(timeframe: str, *starts: datetime, count: int, indian: bool = False) -> list[str]:
    spans = HOURS.following(series(starts, timeframe), count, indian=indian)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    assert all(span.start < span.end for span in spans)
    return [f"{span.start:%m-%d %H:%M}" for span in spans]


def test_indian_candles_are_by_the_calendar():
    """24 November 2026 is a holiday."""
    friday = utc("2026-11-20 03:45")
    assert starts_of("1D", friday, count=3, indian=True) == ["11-23 03:45", "11-25 03:45", "11-26 03:45"]
    quarter = utc("2026-11-20 09:30")
    assert starts_of("15m", quarter, count=4, indian=True) == [
        "11-20 09:45", "11-23 03:45", "11-23 04:00", "11-23 04:15"
    ]  # fmt: skip
    spans = HOURS.following(series([utc("2026-11-16 03:45")], "1W"), 2, indian=True)
    assert [(f"{span.start:%m-%d}", f"{span.end:%m-%d %H:%M}") for span in spans] == [
        ("11-23", "11-27 10:00"), ("11-30", "12-04 10:00")
    ]  # fmt: skip
    assert HOURS.a_day(series([friday], "1H"), indian=True) == 7
    assert HOURS.end_of(series([utc("2026-11-20 09:45")], "1H"), 0, indian=True) == utc("2026-11-20 10:00")
    assert HOURS.end_of(series([utc("2026-11-16 03:45")], "1W"), 0, indian=True) == utc("2026-11-20 10:00")


def american(days: int) -> list[datetime]:
    """Hours of some days that end with Thursday the 19th, seven a day."""
    found = []
    for day in range(days):
        at = utc("2026-11-19 14:30") - timedelta(days=day)
        if at.weekday() < 5:
            found += [at + timedelta(hours=hour) for hour in range(7)]
    return sorted(found)


def test_other_exchanges_trade_from_monday_to_friday_at_their_usual_hours():
    assert starts_of("1D", utc("2026-11-18 14:30"), utc("2026-11-19 14:30"), count=3) == [
        "11-20 14:30", "11-23 14:30", "11-24 14:30"
    ]  # fmt: skip
    hours = american(20)
    assert starts_of("1H", *hours[:-1], count=3) == ["11-19 20:30", "11-20 14:30", "11-20 15:30"]
    assert HOURS.a_day(series(hours, "1H"), indian=False) == 7
    assert starts_of("1W", utc("2026-11-09 14:30"), utc("2026-11-16 14:30"), count=2) == ["11-23 14:30", "11-30 14:30"]


@pytest.mark.parametrize(
    ("symbol", "timeframe", "end"),
    [
        ("AAPL", "1D", "11-19 23:30"),
        ("GC=F", "1D", "11-20 14:30"),
        ("AAPL", "1H", "11-19 15:30"),
        ("AAPL", "1W", "11-23 23:30"),
    ],
)
def test_a_session_elsewhere_is_over_at_the_latest_when_the_longest_is(symbol: str, timeframe: str, end: str):
    one = series([utc("2026-11-19 14:30")], timeframe, symbol)
    assert f"{HOURS.end_of(one, 0, indian=False):%m-%d %H:%M}" == end
    (after,) = HOURS.following(one, 1, indian=False)
    assert after.end - after.start == HOURS.end_of(one, 0, indian=False) - one.start[0]


def test_the_day_begins_in_the_evening_before_in_sydney():
    thursday = utc("2026-11-18 23:00")
    assert starts_of("1D", thursday, count=2) == ["11-19 23:00", "11-22 23:00"]


def test_coins_have_no_weekend():
    days = [utc("2026-11-01") + timedelta(days=day) for day in range(20)]
    assert starts_of("1D", *days, count=3) == ["11-21 00:00", "11-22 00:00", "11-23 00:00"]
    hours = [utc("2026-11-01") + timedelta(hours=hour) for hour in range(400)]
    assert starts_of("1H", *hours, count=2) == ["11-17 16:00", "11-17 17:00"]
    assert HOURS.a_day(series(hours, "1H"), indian=False) == 24
