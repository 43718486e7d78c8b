"""When the Indian stock exchanges trade: sessions, holidays, special sessions, and the bars of candles within them.

NSE and BSE share their trading days and hours. The days come from `assets/market_calendar.json`, which says for which
years it knows them. Beyond these years a weekday is taken for a trading day, and everything that rests on such an
assumption says so (`Session.published`, `MarketState.certain`).

Sessions are half-open: 09:15:00.000 is inside, 15:30:00.000 is not. India has one zone without daylight saving time, so
days and bars are plain arithmetic on milliseconds since the epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import StrEnum
from typing import Final

from app.core.clock import Clock
from app.core.market_days import CalendarData, SessionKind, load_calendar

__all__ = ["DAY", "IST", "MarketCalendar", "MarketState", "Opening", "Phase", "Session", "SessionKind", "Window"]

IST: Final = timezone(timedelta(hours=5, minutes=30), "IST")
"""Indian Standard Time."""
DAY: Final = timedelta(days=1)
"""The length of a day's bar, which is as long as the day's session."""

EARLIEST: Final = time(9, 10)
LATEST: Final = time(20, 0)
"""Between which there is trading (IST) on a day whose hours are not known, for who must miss nothing."""
NOTICE: Final = timedelta(days=30)
"""How early the calendar says that it needs newer data."""

_OFFSET_MS: Final = 19_800_000
_DAY_MS: Final = 86_400_000
_EPOCH: Final = date(1970, 1, 1)
_UTC_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_DAYS: Final = range(7_305, 84_006)
"""Days since the epoch that are asked about in earnest, 1990–2199; a garbled frame can name any other."""
_REMEMBERED_DAYS: Final = 1_024

_Stretch = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of continuous trading, or a bar of it: `opens <= moment < closes`, both aware UTC."""

    opens: datetime
    closes: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.opens <= moment < self.closes


@dataclass(frozen=True, slots=True)
class Session:
    """One trading day."""

    day: date
    """In India."""
    kind: SessionKind
    name: str | None
    """What a special session is held for."""
    windows: tuple[Window, ...]
    """In order; more than one only in drills."""
    pre_open: datetime | None
    """When orders are first taken; None where the data does not say."""
    post_close: datetime | None
    """When the closing session ends; None where there is none, or the data does not say."""
    published: bool
    """Whether the exchanges have announced it; False: a weekday beyond the data's range."""

    @property
    def opens(self) -> datetime:
        """The first moment of continuous trading."""
        return self.windows[0].opens

    @property
    def closes(self) -> datetime:
        """The end of continuous trading."""
        return self.windows[-1].closes


class Phase(StrEnum):
    """What the exchanges do at a moment."""

    PRE_OPEN = "pre_open"
    OPEN = "open"
    POST_CLOSE = "post_close"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Opening:
    """The start of continuous trading, and the session that it belongs to."""

    at: datetime
    session: Session


@dataclass(frozen=True, slots=True)
class MarketState:
    """The phase at a moment and its bounds: it lasts `since <= moment < until`."""

    phase: Phase
    since: datetime
    until: datetime
    session: Session | None
    """The session of the moment's day, over or not; None on a day without."""
    next_open: Opening
    certain: bool
    """Whether the phase is as the exchanges have announced it."""
    note: str | None
    """For a person: the holiday, the special session, or what is not known."""


class MarketCalendar:
    """Answers for the exchanges' days; without I/O, once made."""

    def __init__(self, clock: Clock, data: CalendarData | None = None, *, generous: bool = False) -> None:
        """`data`: another file's (`market_days.load_calendar`) than the one that comes with the service.

        `generous`: `is_open` holds from `EARLIEST` to `LATEST` on a day that has a session whose hours are not known,
        for who must miss nothing. Sessions and bars are the same: there are none on such a day.
        """
        self._clock = clock
        self._generous = generous
        self._data = load_calendar() if data is None else data
        self._closures = {row.day: row.name for row in self._data.closures + self._data.expected_closures}
        self._special = {row.day: row for row in self._data.sessions}
        self._known: dict[int, tuple[_Stretch, ...]] = {}
        # The stretch of time around the last question in which the answer stays the same.
        self._from, self._until, self._answer = 0, 0, False

    @property
    def first(self) -> date:
        """The first day that the data knows."""
        return self._data.first

    @property
    def last(self) -> date:
        """The last day that the data knows."""
        return self._data.last

    @property
    def version(self) -> str:
        """The data's version."""
        return self._data.version

    def covers(self, day: date) -> bool:
        """Whether the exchanges' announcements for `day` are in the data."""
        return self._data.first <= day <= self._data.last

    # Is it open?

    def is_open(self, moment: datetime | None = None) -> bool:
        """Whether there is continuous trading at `moment` (aware; now if None)."""
        return self.is_open_at(_to_ms(self._clock.now() if moment is None else moment))

    def is_open_at(self, ms: int) -> bool:
        """The same for milliseconds since the epoch, for every tick: False for any number that is no time."""
        if self._from <= ms < self._until:
            return self._answer
        self._from, self._until, self._answer = self._stretch(ms)
        return self._answer

    def _stretch(self, ms: int) -> tuple[int, int, bool]:
        day = (ms + _OFFSET_MS) // _DAY_MS
        low = day * _DAY_MS - _OFFSET_MS
        if day not in _DAYS:
            return low, low + _DAY_MS, False
        for opens, closes in self._windows_at(day) or self._guessed_at(day):
            if ms < opens:
                return low, opens, False
            if ms < closes:
                return opens, closes, True
            low = closes
        return low, (day + 1) * _DAY_MS - _OFFSET_MS, False

    def _windows_at(self, day: int) -> tuple[_Stretch, ...]:
        windows = self._known.get(day)
        if windows is None:
            session = self.session_of(_EPOCH + timedelta(days=day))
            windows = tuple((_to_ms(w.opens), _to_ms(w.closes)) for w in session.windows) if session else ()
            if len(self._known) >= _REMEMBERED_DAYS:
                self._known.clear()
            self._known[day] = windows
        return windows

    def _guessed_at(self, day: int) -> tuple[_Stretch, ...]:
        date_ = _EPOCH + timedelta(days=day)
        special = self._special.get(date_) if self._generous else None
        if special is None or special.windows:
            return ()
        return ((_to_ms(_at(date_, EARLIEST)), _to_ms(_at(date_, LATEST))),)

    # Sessions

    def session_of(self, day: date) -> Session | None:
        """The session of `day` (in India); None when there is none, or its hours are not known."""
        known = self.covers(day)
        special = self._special.get(day)
        if special is not None:
            if not special.windows:
                return None
            windows = tuple(Window(_at(day, opens), _at(day, closes)) for opens, closes in special.windows)
            pre_open = _at(day, special.pre_open) if special.pre_open else None
            post_close = _at(day, special.post_close) if special.post_close else None
            return Session(day, special.kind, special.name, windows, pre_open, post_close, published=True)
        if day.weekday() >= 5 or day in self._closures:
            return None
        hours = self._data.hours_of(day)
        return Session(
            day,
            SessionKind.REGULAR,
            None,
            (Window(_at(day, hours.opens), _at(day, hours.closes)),),
            _at(day, hours.pre_open),
            _at(day, hours.post_close),
            published=known,
        )

    def sessions(self, first: date, last: date) -> Iterator[Session]:
        """The sessions from `first` to `last`, both included."""
        for ordinal in range(first.toordinal(), last.toordinal() + 1):
            session = self.session_of(date.fromordinal(ordinal))
            if session is not None:
                yield session

    def next_session(self, day: date) -> Session:
        """The first session after `day`."""
        return self._look(day, 1)

    def previous_session(self, day: date) -> Session:
        """The last session before `day`."""
        return self._look(day, -1)

    def _look(self, day: date, step: int) -> Session:
        # It ends: beyond the data's range every week has sessions.
        while True:
            day += timedelta(days=step)
            session = self.session_of(day)
            if session is not None:
                return session

    def next_open(self, moment: datetime | None = None) -> Opening:
        """The next start of continuous trading, later than `moment` (now if None)."""
        moment = self._clock.now() if moment is None else moment
        day = moment.astimezone(IST).date()
        session = self.session_of(day)
        for window in session.windows if session else ():
            if window.opens > moment:
                assert session is not None  # noqa: S101 (it has the window)
                return Opening(window.opens, session)
        session = self.next_session(day)
        return Opening(session.opens, session)

    # What a person is told

    def state(self, moment: datetime | None = None) -> MarketState:
        """The phase at `moment` (now if None), and what is known of it."""
        moment = self._clock.now() if moment is None else moment
        day = moment.astimezone(IST).date()
        session, following = self.session_of(day), self.next_session(day)
        before = self.previous_session(day)
        marks = [(before.post_close or before.closes, Phase.CLOSED), *_marks(session)]
        phase, since = Phase.CLOSED, marks[0][0]
        until = following.pre_open or following.opens
        for mark, next_phase in marks:
            if mark > moment:
                until = mark
                break
            phase, since = next_phase, mark
        certain, note = self._knowledge(day)
        return MarketState(phase, since, until, session, self.next_open(moment), certain, note)

    def _knowledge(self, day: date) -> tuple[bool, str | None]:
        special = self._special.get(day)
        if special is not None:
            if special.windows:
                return True, special.name
            return False, f"{special.name} takes place on this day; its hours are not in the calendar's data."
        name = self._closures.get(day)
        if self.covers(day):
            return True, name
        known = f"The calendar's data covers {self.first:%d %b %Y} to {self.last:%d %b %Y}"
        if name:
            return False, f"{known}; {name} is expected to be a holiday."
        return False, f"{known}; beyond it weekdays are taken for trading days, and weekends for holidays."

    def caution(self, moment: datetime | None = None) -> str | None:
        """What the operator should see to: hours that are not known, today or soon, and data that ends, or has ended.

        None when nothing is amiss in the next 30 days.
        """
        day = (self._clock.now() if moment is None else moment).astimezone(IST).date()
        known, note = self._knowledge(day)
        if not known:
            return note
        horizon = day + NOTICE
        unknown = next((row for row in self._data.sessions if day < row.day <= horizon and not row.windows), None)
        if unknown is not None:
            return f"{unknown.name} takes place on {unknown.day:%d %b %Y}; its hours are not in the calendar's data."
        if self._data.last <= horizon:
            return f"The calendar's data ends on {self._data.last:%d %b %Y}: newer data is needed."
        return None

    # Bars of candles

    def bar_at(self, ms: int, length_ms: int) -> tuple[int, int] | None:
        """Start and end of the bar that `ms` falls into, all in milliseconds since the epoch; None outside trading.

        Bars are anchored at the opening of their window (09:15, so an hour's bars begin at 09:15, 10:15, …) and end
        with it at the latest. The bar of a day, `length_ms` 86,400,000, is the whole session. Raises `ValueError` for
        a length that is not positive or longer than a day.
        """
        _check_length(length_ms)
        day = (ms + _OFFSET_MS) // _DAY_MS
        windows = self._windows_at(day) if day in _DAYS else ()
        for opens, closes in windows:
            if opens <= ms < closes:
                if length_ms == _DAY_MS:
                    return windows[0][0], windows[-1][1]
                start = ms - (ms - opens) % length_ms
                return start, min(start + length_ms, closes)
        return None

    def bar_of(self, moment: datetime, length: timedelta) -> Window | None:
        """The same for moments; a bar as a window."""
        bar = self.bar_at(_to_ms(moment), length // _MILLISECOND)
        return None if bar is None else Window(_from_ms(bar[0]), _from_ms(bar[1]))

    def bars_of(self, session: Session, length: timedelta) -> list[Window]:
        """All bars of a session, in order. Raises `ValueError` as `bar_at` does."""
        _check_length(length // _MILLISECOND)
        if length == DAY:
            return [Window(session.opens, session.closes)]
        bars = []
        for window in session.windows:
            start = window.opens
            while start < window.closes:
                bars.append(Window(start, min(start + length, window.closes)))
                start += length
        return bars


def _marks(session: Session | None) -> list[tuple[datetime, Phase]]:
    """When which phase begins on the day of `session`."""
    if session is None:
        return []
    marks = [(session.pre_open, Phase.PRE_OPEN)] if session.pre_open else []
    for window in session.windows:
        marks += [(window.opens, Phase.OPEN), (window.closes, Phase.CLOSED)]
    if session.post_close:
        marks[-1] = (session.closes, Phase.POST_CLOSE)
        marks.append((session.post_close, Phase.CLOSED))
    return marks


def _check_length(length_ms: int) -> None:
    if not 0 < length_ms <= _DAY_MS:
        raise ValueError("a bar is longer than nothing and at most a day long")


def _at(day: date, wall: time) -> datetime:
    return datetime.combine(day, wall, IST).astimezone(UTC)


def _to_ms(moment: datetime) -> int:
    return (moment - _UTC_EPOCH) // _MILLISECOND


def _from_ms(ms: int) -> datetime:
    return _UTC_EPOCH + ms * _MILLISECOND
