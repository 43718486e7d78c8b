"""Where the candles after the newest one will be: by the calendar in India, by what was seen before elsewhere."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby, islice
from typing import Final, NamedTuple

from app.core.candles import CandleSeries, Timeframe
from app.core.market_calendar import IST, MarketCalendar

_SEEN_DAYS: Final = 10
"""Of which the usual hours of an exchange are taken."""
_DAY: Final = timedelta(days=1)
_LONGEST_SESSION: Final = timedelta(hours=9)
"""Of an exchange of shares: half an hour more than in London and Frankfurt. Currencies and futures go on all day."""
_SATURDAY: Final = 5


class Span(NamedTuple):
    """From when to when a candle is; aware UTC."""

    start: datetime
    end: datetime


class TradingHours:
    """Expects candles. Of exchanges outside India neither holidays nor hours are known: `end` is then the latest."""

    def __init__(self, calendar: MarketCalendar) -> None:
        self._calendar = calendar

    def following(self, series: CandleSeries, count: int, *, indian: bool) -> list[Span]:
        """The `count` candles after the last one of `series`, which has one at least."""
        timeframe, last = Timeframe(series.timeframe), series.start[-1]
        if indian:
            return list(islice(self._indian(last, timeframe), count))
        if _always(series.start):
            return [
                Span(last + step * timeframe.length, last + (step + 1) * timeframe.length)
                for step in range(1, count + 1)
            ]
        return list(islice(_weekdays(series, timeframe), count))

    def a_day(self, series: CandleSeries, *, indian: bool) -> int:
        """How many candles a trading day has; 1 for those of days and weeks."""
        timeframe = Timeframe(series.timeframe)
        if not timeframe.intraday:
            return 1
        if indian:
            session = self._calendar.next_session(series.start[-1].astimezone(IST).date())
            return len(self._calendar.bars_of(session, timeframe.length))
        return int(_DAY / timeframe.length) if _always(series.start) else len(_offsets(series.start))

    def end_of(self, series: CandleSeries, place: int, *, indian: bool) -> datetime:
        """When the candle of that place in `series` is over; elsewhere than in India at the latest."""
        start, timeframe = series.start[place], Timeframe(series.timeframe)
        if not indian:
            return start + (timeframe.length if _always(series.start) else _longest(series.symbol, timeframe))
        if timeframe is Timeframe.W1:
            monday = _monday(start.astimezone(IST).date())
            return self._week(monday)[-1].end
        window = self._calendar.bar_of(start, timeframe.length)
        return window.closes if window else start + timeframe.length

    def _indian(self, last: datetime, timeframe: Timeframe) -> Iterator[Span]:
        day = last.astimezone(IST).date()
        if timeframe is Timeframe.W1:
            monday = _monday(day)
            while True:
                monday += 7 * _DAY
                if week := self._week(monday):
                    yield Span(week[0].start, week[-1].end)
        session = self._calendar.session_of(day) or self._calendar.next_session(day)
        while True:
            for window in self._calendar.bars_of(session, timeframe.length):
                if window.opens > last:
                    yield Span(window.opens, window.closes)
            session = self._calendar.next_session(session.day)

    def _week(self, monday: date) -> list[Span]:
        return [Span(session.opens, session.closes) for session in self._calendar.sessions(monday, monday + 6 * _DAY)]


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _day_of(start: datetime) -> date:
    """The date at the exchange, of most of them: Sydney's morning is the evening before in UTC."""
    return (start + timedelta(hours=6)).date()


def _always(starts: Sequence[datetime]) -> bool:
    """Whether there is trade at weekends, as there is of coins."""
    days = {_day_of(start).weekday() for start in starts[-2000:]}
    return days >= {_SATURDAY, _SATURDAY + 1}


def _offsets(starts: Sequence[datetime]) -> list[timedelta]:
    """When after midnight UTC of its day candles of a usual day begin."""
    days = [[start - _midnight(day) for start in group] for day, group in groupby(starts[-5000:], _day_of)]
    days = days[-_SEEN_DAYS:]
    seen = Counter(offset for day in days for offset in day)
    usual = sorted(offset for offset, times in seen.items() if 2 * times >= len(days))
    return usual or sorted(seen)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _longest(symbol: str, timeframe: Timeframe) -> timedelta:
    """The longest that a candle lasts where there is no trade at weekends."""
    if timeframe.intraday:
        return timeframe.length
    session = _DAY if "=" in symbol else _LONGEST_SESSION
    return session if timeframe is Timeframe.D1 else 4 * _DAY + session


def _weekdays(series: CandleSeries, timeframe: Timeframe) -> Iterator[Span]:
    starts, longest = series.start, _longest(series.symbol, timeframe)
    last, day = starts[-1], _day_of(starts[-1])
    if timeframe is Timeframe.W1:
        # A week is told by its first day, whichever that was.
        first = last - (day - _monday(day))
        while True:
            first += 7 * _DAY
            yield Span(first, first + longest)
    offsets = _offsets(starts) if timeframe.intraday else [last - _midnight(day)]
    while True:
        for offset in offsets if day.weekday() < _SATURDAY else ():
            start = _midnight(day) + offset
            if start > last:
                yield Span(start, start + longest)
        day += _DAY
