"""How far back candles are asked for. Pure.

Spans are rounded up to a few, so that questions for 29 and for 30 days share one answer.
"""

from datetime import timedelta
from typing import Final

from app.core.candles import Timeframe
from app.core.errors import FieldError, InvalidInputError

_STEPS: Final = {
    Timeframe.M1: (7,),
    Timeframe.M5: (7, 58),
    Timeframe.M15: (7, 58),
    Timeframe.H1: (30, 180, 728),
    Timeframe.D1: (40, 100, 375, 750, 1850, 3660, 7320),
    Timeframe.W1: (375, 1850, 3660, 7320),
}
"""Days, by timeframe; the last of each is as far as Yahoo goes (of days: as this service goes)."""
_USUAL: Final = {
    Timeframe.M1: 1,
    Timeframe.M5: 5,
    Timeframe.M15: 15,
    Timeframe.H1: 30,
    Timeframe.D1: 30,
    Timeframe.W1: 365,
}
_BARS_A_DAY: Final = {Timeframe.M1: 375, Timeframe.M5: 75, Timeframe.M15: 25, Timeframe.H1: 6}
"""Of a session of six hours and a half, no more."""


def most_days(timeframe: Timeframe) -> int:
    """How far back there are candles."""
    return _STEPS[timeframe][-1]


def usual_days(timeframe: Timeframe) -> int:
    """How far back somebody wants who does not say."""
    return _USUAL[timeframe]


def check_days(days: int, timeframe: Timeframe) -> int:
    """`days`, if there are candles so far back; else `InvalidInputError` with what to ask instead."""
    most = most_days(timeframe)
    if days <= most:
        return days
    better = next((other for other in Timeframe if most_days(other) >= days), None)
    hint = f"; timeframe={better} goes as far" if better else ""
    message = f"There are candles of {timeframe} for {most:,} days back at most{hint}"
    raise InvalidInputError(f"query.days: {message}.", [FieldError(("query", "days"), message, "too_many_days")])


def span_of(days: int, timeframe: Timeframe) -> int:
    """The days to ask for when `days` are wanted."""
    return next((step for step in _STEPS[timeframe] if step >= days), most_days(timeframe))


def days_for(bars: int, timeframe: Timeframe) -> int:
    """The days that surely hold so many bars, holidays and weekends included; as far as there are candles."""
    if timeframe is Timeframe.W1:
        days = bars * 7 + 7
    else:
        sessions = -(-bars // _BARS_A_DAY.get(timeframe, 1)) + 1
        # Five sessions a week less holidays, about 245 of 365 days, and the longest stretch without any.
        days = int(timedelta(days=sessions * 365 / 245).days) + 6
    return min(days, most_days(timeframe))
