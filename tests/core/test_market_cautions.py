"""What the calendar does not know: it says so in time, and who must miss nothing is told to listen."""

from datetime import UTC, date, datetime

import pytest

from app.core.market_calendar import MarketCalendar
from tests.support.clocks import StandingClock

CALENDAR = MarketCalendar(StandingClock(datetime(2026, 11, 20, 6, 0, tzinfo=UTC)))


def ist(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+05:30")


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-08 09:09:59", False),
        ("2026-11-08 09:10:00", True),
        ("2026-11-08 18:15:00", True),
        ("2026-11-08 20:00:00", False),
        ("2026-11-07 12:00:00", False),  # a Saturday
        ("2026-11-20 09:14:59", False),
        ("2026-11-20 09:15:00", True),
        ("2026-11-20 15:30:00", False),
    ],
)
def test_who_must_miss_nothing_takes_a_session_of_unknown_hours_for_open(moment: str, is_open: bool):
    generous = MarketCalendar(StandingClock(ist("2026-11-08 12:00")), generous=True)

    assert generous.is_open(ist(moment)) is is_open
    assert generous.session_of(date(2026, 11, 8)) is None
    assert generous.bar_at(round(ist("2026-11-08 18:15").timestamp() * 1000), 60_000) is None
    assert not CALENDAR.is_open(ist("2026-11-08 18:15"))


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-10-08 12:00", None),
        ("2026-10-09 12:00", "takes place on 08 Nov 2026; its hours are not"),
        ("2026-11-08 12:00", "takes place on this day; its hours are not"),
        ("2026-11-09 12:00", None),
        ("2026-11-30 12:00", None),
        ("2026-12-01 12:00", "ends on 31 Dec 2026"),
        ("2026-12-25 12:00", "ends on 31 Dec 2026"),  # a holiday that is known
        ("2027-01-04 12:00", "weekdays are taken for trading days"),
    ],
)
def test_it_warns_while_there_is_time(moment: str, words: str | None):
    said = CALENDAR.caution(ist(moment))

    assert said is None if words is None else words in (said or "")
