"""The exchanges' holidays and special sessions as data: the format of the file, and its checks."""

from collections.abc import Iterable, Sequence
from datetime import date, time
from enum import StrEnum
from importlib import resources
from itertools import pairwise
from pathlib import Path

import msgspec


class CalendarDataError(ValueError):
    """The file is not usable; the message is one line that says why."""


class SessionKind(StrEnum):
    """Why there is a session."""

    REGULAR = "regular"
    SPECIAL = "special"
    """On a day that has none usually, or at other hours: a budget, a drill."""
    MUHURAT = "muhurat"
    """The hour of trading at Diwali."""


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every row is checked for: no unknown fields."""


class Hours(Row, frozen=True, kw_only=True):
    """The hours of regular sessions from a day on, in Indian Standard Time."""

    since: date
    pre_open: time
    opens: time
    closes: time
    post_close: time


class Closure(Row, frozen=True, kw_only=True):
    """A weekday without a regular session."""

    day: date
    name: str


class SpecialSession(Row, frozen=True, kw_only=True):
    """A session with hours of its own; it goes before a closure of the same day."""

    day: date
    kind: SessionKind
    name: str
    windows: tuple[tuple[time, time], ...] | None
    """None: it is known to take place, and its hours are not known."""
    pre_open: time | None = None
    post_close: time | None = None


class CalendarData(Row, frozen=True, kw_only=True):
    """The whole file."""

    version: str
    about: str
    sources: tuple[str, ...]
    first: date
    """The first day that it knows."""
    last: date
    """The last day that it knows: whatever it does not name until then is an ordinary day."""
    hours: tuple[Hours, ...]
    """In order; each holds until the next."""
    closures: tuple[Closure, ...]
    sessions: tuple[SpecialSession, ...]
    expected_closures: tuple[Closure, ...] = ()
    """Days after `last` that are closed whatever the exchanges will announce."""

    def hours_of(self, day: date) -> Hours:
        """The regular hours that hold on `day`; before the first ones, these."""
        return next((hours for hours in reversed(self.hours) if hours.since <= day), self.hours[0])


def load_calendar(path: Path | None = None) -> CalendarData:
    """The data in the file at `path`, or in the one that comes with the service; raises `CalendarDataError`."""
    try:
        if path is None:
            raw = (resources.files("app.core") / "assets" / "market_calendar.json").read_bytes()
        else:
            raw = path.read_bytes()
        data = msgspec.json.decode(raw, type=CalendarData)
    except OSError as error:
        raise CalendarDataError(f"The market calendar cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CalendarDataError(f"The market calendar's data is wrong: {error}") from None
    _check(data)
    return data


def _check(data: CalendarData) -> None:
    if data.first > data.last:
        raise CalendarDataError("The market calendar's data ends before it begins.")
    if not data.hours or not _in_order([hours.since for hours in data.hours]):
        raise CalendarDataError("The market calendar's hours must be there and in order.")
    for hours in data.hours:
        if not _in_order([hours.pre_open, hours.opens, hours.closes, hours.post_close]):
            raise CalendarDataError(f"The market calendar's hours since {hours.since} are not in order.")
    for session in data.sessions:
        marks = [mark for window in session.windows or () for mark in window]
        if not _in_order([*_given(session.pre_open), *marks, *_given(session.post_close)]):
            raise CalendarDataError(f"The market calendar's session on {session.day} has its hours in no order.")
    _check_days("closures", data.closures, data.first, data.last)
    _check_days("sessions", data.sessions, data.first, data.last)
    _check_days("expected closures", data.expected_closures, date.fromordinal(data.last.toordinal() + 1), date.max)


def _check_days(what: str, rows: Sequence[Closure | SpecialSession], first: date, last: date) -> None:
    days = [row.day for row in rows]
    if not _in_order(days):
        raise CalendarDataError(f"The market calendar's {what} must be in order, each day once.")
    if days and not first <= days[0] <= days[-1] <= last:
        raise CalendarDataError(f"The market calendar's {what} must lie between {first} and {last}.")


def _given(mark: time | None) -> tuple[time, ...]:
    return () if mark is None else (mark,)


def _in_order(marks: Iterable[date] | Iterable[time]) -> bool:
    """Whether each is later than the one before."""
    return all(one < other for one, other in pairwise(marks))  # type: ignore[operator]  # dates, or times, not mixed
