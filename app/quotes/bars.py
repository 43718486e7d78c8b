"""From a provider's rows to bars: where they begin and end, what was adjusted, which one is still forming. Pure."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from itertools import groupby
from typing import Final, NamedTuple, Protocol

from app.core.candles import Timeframe
from app.core.market_calendar import DAY, IST, MarketCalendar
from app.quotes.ports import Bar, Prices, rounded

SETTLED: Final = timedelta(minutes=30)
"""How long after a bar's end it is taken to be whole, whatever the provider's newest trade is: its data may lag."""
_SLACK: Final = 0.005
_MISPLACED: Final = 0.1
_WEEK: Final = timedelta(days=7)
_OPENS, _CLOSES = time(9, 15), time(15, 30)


class Row(NamedTuple):
    """One row of a provider: prices adjusted for splits, as Yahoo has them; NaN where there is none."""

    start: datetime
    """Of an intraday row; of a day's any moment of its date in the exchange's zone."""
    open: float
    high: float
    low: float
    close: float
    adjusted_close: float
    """For dividends too."""
    volume: float
    dividend: float = 0.0
    split: float = 0.0


class Hours(Protocol):
    """When an exchange trades."""

    def day(self, day: date) -> tuple[datetime, datetime] | None:
        """The opening and the close of a day; None if nothing is traded."""

    def bar(self, moment: datetime, length: timedelta) -> tuple[datetime, datetime] | None:
        """The bar that `moment` falls into; None outside trading."""

    def date_of(self, moment: datetime) -> date:
        """The date at the exchange."""


class IndianHours:
    """NSE's and BSE's, by the calendar: bars are anchored at the session's opening."""

    def __init__(self, calendar: MarketCalendar) -> None:
        self._calendar = calendar

    def day(self, day: date) -> tuple[datetime, datetime] | None:
        """See `Hours`. Before the calendar begins nobody knows the special sessions of weekends: they count as held."""
        session = self._calendar.session_of(day)
        if session is not None:
            return session.opens, session.closes
        if day >= self._calendar.first:
            return None
        return datetime.combine(day, _OPENS, IST).astimezone(UTC), datetime.combine(day, _CLOSES, IST).astimezone(UTC)

    def bar(self, moment: datetime, length: timedelta) -> tuple[datetime, datetime] | None:
        """See `Hours`."""
        window = self._calendar.bar_of(moment, length)
        return (window.opens, window.closes) if window else None

    def date_of(self, moment: datetime) -> date:
        """See `Hours`."""
        return moment.astimezone(IST).date()


class DailyHours:
    """The same hours every day, in the exchange's zone, as a provider tells them."""

    def __init__(self, zone: tzinfo, opens: time = time(), closes: time = time()) -> None:
        """`closes` at or before `opens`: on the next day, as where there is no night."""
        self._zone, self._opens, self._closes = zone, opens, closes

    def day(self, day: date) -> tuple[datetime, datetime]:
        """See `Hours`; a day without trade has no row."""
        last = day if self._closes > self._opens else day + DAY
        opens = datetime.combine(day, self._opens, self._zone)
        return opens.astimezone(UTC), datetime.combine(last, self._closes, self._zone).astimezone(UTC)

    def bar(self, moment: datetime, length: timedelta) -> tuple[datetime, datetime] | None:
        """See `Hours`."""
        opens, closes = self.day(self.date_of(moment))
        if not opens <= moment < closes:
            return None
        start = moment - (moment - opens) % length
        return start, min(start + length, closes)

    def date_of(self, moment: datetime) -> date:
        """See `Hours`."""
        return moment.astimezone(self._zone).date()


class Made(NamedTuple):
    """Bars, oldest first, and how many rows were left out."""

    bars: tuple[Bar, ...]
    dropped: int


def misaligned(rows: Sequence[Row], length: timedelta, hours: Hours) -> bool:
    """Whether rows begin inside bars (at the hour, say, and not at 09:15). The newest may: it is the last trade.

    A few do where a provider does not know a special session's hours, once in two years: their bars are made of them.
    """
    within = sum((bar := hours.bar(row.start, length)) is not None and bar[0] != row.start for row in rows[:-1])
    return within > _MISPLACED * len(rows)


def made_of(rows: Iterable[Row], timeframe: Timeframe, hours: Hours, known_until: datetime) -> Made:
    """The bars that `rows` are, or are parts of; `known_until`: everything before it is in them."""
    dropped, placed, told = 0, [], Happened()
    for row in sorted(rows, key=lambda row: row.start):
        slot = hours.bar(row.start, timeframe.length) if timeframe.intraday else hours.day(hours.date_of(row.start))
        checked = _checked(row)
        told = told.and_of(row)
        if slot is None or checked is None:
            # Days on which nothing happened are no fault of anybody's.
            dropped += not math.isnan(row.close)
        else:
            placed.append((slot, checked._replace(split=told.split, dividend=told.dividend)))
            told = Happened()
    joined = [(slot, _joined([row for _, row in group])) for slot, group in groupby(placed, key=lambda item: item[0])]
    bars, factor = [], told.split or 1.0
    for (start, end), row in reversed(joined):
        bars.append(_bar(row, start, end, factor, closed=end <= known_until))
        factor *= row.split or 1.0
    return Made(tuple(reversed(bars)), dropped)


class Happened(NamedTuple):
    """What has happened to a share since the last bar: told on its date, whether or not there is a bar of that."""

    split: float = 0.0
    dividend: float = 0.0

    def and_of(self, row: Row) -> "Happened":
        """With what the row tells."""
        split = row.split if math.isfinite(row.split) and row.split > 0 else 0.0
        dividend = row.dividend if math.isfinite(row.dividend) and row.dividend > 0 else 0.0
        return Happened((self.split or 1.0) * split if split else self.split, self.dividend + dividend)


def _checked(row: Row) -> Row | None:
    """The row, with the last digits made to agree; None for one that cannot be right."""
    prices = (row.open, row.high, row.low, row.close, row.adjusted_close)
    if not all(math.isfinite(price) and price > 0 for price in prices):
        return None
    volume = 0.0 if math.isnan(row.volume) else row.volume
    high, low = max(row.high, row.open, row.close), min(row.low, row.open, row.close)
    if high > row.high * (1 + _SLACK) or low < row.low * (1 - _SLACK) or low > high or not 0 <= volume < 1e15:
        return None
    return row._replace(high=high, low=low, volume=volume)


def _joined(rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    return rows[-1]._replace(
        open=rows[0].open,
        high=max(row.high for row in rows),
        low=min(row.low for row in rows),
        volume=math.fsum(row.volume for row in rows),
        dividend=math.fsum(row.dividend for row in rows),
        split=math.prod(row.split or 1.0 for row in rows) if any(row.split for row in rows) else 0.0,
    )


def _bar(row: Row, start: datetime, end: datetime, splits: float, *, closed: bool) -> Bar:
    """`splits`: shares of today for one of then."""
    ratio = row.adjusted_close / row.close
    # Providers send single precision: further digits are noise that differs from answer to answer.
    raw = _prices(row, splits, 4, float(round(row.volume / splits)))
    adjusted = _prices(row, ratio, 6, row.volume)
    return Bar(start, end, raw, adjusted, closed, round(row.dividend * splits, 6), row.split)


def _prices(row: Row, factor: float, digits: int, volume: float) -> Prices:
    first, high, low, close = (rounded(price * factor, digits) for price in (row.open, row.high, row.low, row.close))
    return Prices(first, high, low, close, volume)


# Weeks


def weeks(bars: Sequence[Bar], hours: Hours, known_until: datetime) -> tuple[Bar, ...]:
    """Weeks, Monday to Sunday, of daily bars; the first may have begun before them, and is left out then."""
    made = []
    seven_days = any(_day_of(bar).weekday() >= 5 for bar in bars)
    for monday, group in groupby(bars, key=lambda bar: _monday(_day_of(bar))):
        days = list(group)
        end = _end_of_week(monday, hours, seven_days=seven_days) or days[-1].end
        end = max(end, days[-1].end)
        raw, adjusted = (_folded([getattr(day, kind) for day in days]) for kind in ("raw", "adjusted"))
        split = math.prod(day.split or 1.0 for day in days) if any(day.split for day in days) else 0.0
        dividend = round(math.fsum(day.dividend for day in days), 6)
        closed = days[-1].closed and end <= known_until
        made.append(Bar(days[0].start, end, raw, adjusted, closed, dividend, split))
    return tuple(made)


def _day_of(bar: Bar) -> date:
    """Midway, wherever on earth, it is the same date in UTC as at the exchange."""
    return (bar.start + (bar.end - bar.start) / 2).date()


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _end_of_week(monday: date, hours: Hours, *, seven_days: bool) -> datetime | None:
    """When its last session ends."""
    last = monday + _WEEK - DAY if seven_days or isinstance(hours, IndianHours) else monday + 4 * DAY
    for back in range(7):
        found = hours.day(last - back * DAY)
        if found is not None:
            return found[1]
    return None


def _folded(parts: Sequence[Prices]) -> Prices:
    return Prices(
        parts[0].open,
        max(part.high for part in parts),
        min(part.low for part in parts),
        parts[-1].close,
        math.fsum(part.volume for part in parts),
    )
