"""Where bars begin and end, what is adjusted, what is refused: without any provider."""

import math
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from app.core.candles import Timeframe
from app.core.clock import SystemClock
from app.core.errors import InvalidInputError
from app.core.market_calendar import IST, MarketCalendar
from app.quotes.bars import DailyHours, IndianHours, Row, made_of, misaligned, weeks
from app.quotes.naming import resolve
from app.quotes.spans import check_days, days_for, most_days, span_of

INDIA = IndianHours(MarketCalendar(SystemClock()))
NEW_YORK = DailyHours(ZoneInfo("America/New_York"), time(9, 30), time(16))
LATER = datetime(2027, 1, 1, tzinfo=UTC)


def ist(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=IST).astimezone(UTC)


def row(start: datetime, close: float = 100.0, **more: float) -> Row:
    values = {"open": close, "high": close, "low": close, "close": close, "adjusted_close": close, "volume": 10.0}
    return Row(start, **(values | more))


def test_hours_of_india_begin_at_a_quarter_past_and_the_last_one_is_short():
    rows = [row(ist(19, 9, 15) + timedelta(hours=place)) for place in range(7)]
    made = made_of(rows, Timeframe.H1, INDIA, LATER)
    assert [bar.start for bar in made.bars] == [one.start for one in rows]
    assert made.bars[-1].end - made.bars[-1].start == timedelta(minutes=15)
    assert not misaligned(rows, Timeframe.H1.length, INDIA)


def test_hours_that_begin_as_the_clock_strikes_are_noticed():
    rows = [row(ist(19, hour)) for hour in range(9, 16)]
    assert misaligned(rows, Timeframe.H1.length, INDIA)
    # The newest row may be the last trade, wherever that was.
    assert not misaligned([row(ist(19, 9, 15)), row(ist(19, 10, 17))], Timeframe.H1.length, INDIA)


def test_quarters_join_to_the_hours_they_are_in():
    quarters = [
        row(ist(19, 9, 15) + timedelta(minutes=15 * place), 100.0 + place, high=110.0 + place, low=90.0 - place)
        for place in range(5)
    ]
    first, second = made_of(quarters, Timeframe.H1, INDIA, LATER).bars
    assert first.start == ist(19, 9, 15)
    assert first.raw.open == 100.0
    assert first.raw.high == 113.0
    assert first.raw.low == 87.0
    assert first.raw.close == 103.0
    assert first.raw.volume == 40.0
    assert second.raw.volume == 10.0


def test_what_lies_outside_trading_is_left_out_and_counted():
    rows = [row(ist(19, 9, 0)), row(ist(19, 9, 15)), row(ist(19, 15, 30)), row(ist(15, 11))]
    made = made_of(rows, Timeframe.M15, INDIA, LATER)
    assert len(made.bars) == 1
    assert made.dropped == 3


def test_the_muhurat_session_is_a_day_and_a_sunday_is_none():
    evening = datetime(2025, 10, 21, tzinfo=IST)
    (special,) = made_of([row(evening)], Timeframe.D1, INDIA, LATER).bars
    assert special.start == evening.replace(hour=13, minute=45)
    assert special.end == evening.replace(hour=14, minute=45)
    assert made_of([row(ist(15, 12))], Timeframe.D1, INDIA, LATER).bars == ()


@pytest.mark.parametrize(
    "fault",
    [
        {"close": math.nan},
        {"open": math.inf},
        {"low": -1.0},
        {"close": 0.0},
        {"high": 90.0},
        {"low": 200.0},
        {"volume": -5.0},
    ],
)
def test_a_row_that_cannot_be_right_is_left_out(fault: dict[str, float]):
    good = row(ist(18, 9, 15))
    made = made_of([good, row(ist(19, 9, 15), **fault)], Timeframe.D1, INDIA, LATER)
    assert len(made.bars) == 1


def test_the_last_digits_are_made_to_agree():
    bar = made_of([row(ist(19, 9, 15), 100.0, high=99.99999, low=100.00001)], Timeframe.D1, INDIA, LATER).bars[0]
    assert bar.raw.low <= bar.raw.open <= bar.raw.high


def test_raw_prices_are_those_of_the_day_whatever_was_split_since():
    # As Yahoo has it: 100 then 51 for one that was split into two on the third day, and into five on the fifth.
    rows = [
        row(ist(12, 9, 15), 10.0),
        row(ist(13, 9, 15), 11.0),
        row(ist(16, 9, 15), 12.0, split=2.0),
        row(ist(17, 9, 15), 13.0),
        row(ist(18, 9, 15), 14.0, split=5.0, dividend=1.0),
        row(ist(19, 9, 15), 15.0),
    ]
    bars = made_of(rows, Timeframe.D1, INDIA, LATER).bars
    assert [bar.raw.close for bar in bars] == [100.0, 110.0, 60.0, 65.0, 14.0, 15.0]
    assert [bar.raw.volume for bar in bars] == [1.0, 1.0, 2.0, 2.0, 10.0, 10.0]
    assert [bar.adjusted.close for bar in bars] == [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]
    assert [bar.split for bar in bars] == [0.0, 0.0, 2.0, 0.0, 5.0, 0.0]


def test_dividends_take_the_same_share_off_all_four_prices():
    one = row(ist(19, 9, 15), 100.0, high=110.0, low=90.0, open=95.0, adjusted_close=98.0)
    bar = made_of([one], Timeframe.D1, INDIA, LATER).bars[0]
    assert (bar.adjusted.open, bar.adjusted.high, bar.adjusted.low, bar.adjusted.close) == (93.1, 107.8, 88.2, 98.0)


def test_a_bar_is_closed_once_the_data_reach_its_end():
    rows = [row(ist(19, 9, 15)), row(ist(19, 9, 20))]
    made = made_of(rows, Timeframe.M5, INDIA, ist(19, 9, 24))
    assert [bar.closed for bar in made.bars] == [True, False]
    made = made_of(rows, Timeframe.M5, INDIA, ist(19, 9, 25))
    assert [bar.closed for bar in made.bars] == [True, True]


def test_american_days_follow_the_clocks_there():
    winter, summer = (
        NEW_YORK.day(date(2026, 11, 19)),
        NEW_YORK.day(date(2026, 7, 1)),
    )
    assert winter[0] == datetime(2026, 11, 19, 14, 30, tzinfo=UTC)
    assert summer[0] == datetime(2026, 7, 1, 13, 30, tzinfo=UTC)


def test_weeks_are_made_of_days_and_end_with_their_last_session():
    days = [date(2026, 11, 9) + timedelta(days=place) for place in range(11)]
    rows = [
        row(datetime.combine(day, time(9, 15), IST).astimezone(UTC), 100.0 + place, high=150.0 + place, low=50.0)
        for place, day in enumerate(days)
        if day.weekday() < 5
    ]
    now = ist(19, 16)
    made = weeks(made_of(rows, Timeframe.D1, INDIA, now).bars, INDIA, now)
    assert len(made) == 2
    whole, forming = made
    assert whole.start == ist(9, 9, 15)
    assert whole.end == ist(13, 15, 30)
    assert whole.closed
    assert whole.raw.open == 100.0
    assert whole.raw.close == 104.0
    assert whole.raw.high == 154.0
    assert not forming.closed
    assert forming.end == ist(20, 15, 30)


# Names and spans


@pytest.mark.parametrize(
    ("text", "name", "indian"),
    [
        ("RELIANCE", "RELIANCE.NS", True),
        ("reliance", "RELIANCE.NS", True),
        ("NIFTY50", "^NSEI", True),
        ("nifty 50", "^NSEI", True),
        ("SENSEX", "^BSESN", True),
        ("BANKNIFTY", "^NSEBANK", True),
        ("TCS.NS", "TCS.NS", True),
        ("500325.BO", "500325.BO", True),
        ("M&M", "M&M.NS", True),
        ("BAJAJ-AUTO", "BAJAJ-AUTO.NS", True),
        ("NIFTY_FIN_SERVICE.NS", "NIFTY_FIN_SERVICE.NS", True),
        ("^INDIAVIX", "^INDIAVIX", True),
        ("^GSPC", "^GSPC", False),
        ("BMW.DE", "BMW.DE", False),
        ("BTC-USD", "BTC-USD", False),
        ("INR=X", "INR=X", False),
    ],
)
def test_what_people_write(text: str, name: str, indian: bool):
    symbol = resolve(text)
    assert symbol.name == name
    assert symbol.indian is indian


@pytest.mark.parametrize("text", ["", "A" * 33, "A/B", "../etc", "A?b=1", "A B", "A#", "%00", "^", "é", "$gt"])
def test_what_is_no_symbol(text: str):
    with pytest.raises(InvalidInputError):
        resolve(text)


def test_only_what_looks_american_may_be_american():
    assert resolve("AAPL").otherwise == "AAPL"
    assert resolve("RELIANCE").otherwise is None
    assert resolve("M&M").otherwise is None


def test_spans_hold_what_is_asked_for():
    for timeframe in Timeframe:
        for days in (1, 20, most_days(timeframe)):
            wanted = min(days, most_days(timeframe))
            assert span_of(wanted, timeframe) >= wanted
    assert check_days(30, Timeframe.D1) == 30
    with pytest.raises(InvalidInputError, match="timeframe=5m goes as far"):
        check_days(30, Timeframe.M1)
    assert most_days(Timeframe.M1) < 8
    assert days_for(10_000, Timeframe.M1) == most_days(Timeframe.M1)


def test_days_for_holds_that_many_sessions():
    calendar = MarketCalendar(SystemClock())
    for bars in (1, 5, 20, 250):
        for back in range(0, 330, 7):
            end = date(2026, 11, 19) - timedelta(days=back)
            start = end - timedelta(days=days_for(bars, Timeframe.D1))
            assert sum(1 for _ in calendar.sessions(start, end - timedelta(days=1))) >= bars
