"""The paper broker's trading days: the exchanges', or around the clock."""

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from app.brokerage.adapters.paper.rules import SQUARE_OFF
from app.core.market_calendar import IST, MarketCalendar, Session, Window


class TradingDay(NamedTuple):
    """One day of trading; moments are aware UTC."""

    day: date
    """In India."""
    windows: tuple[Window, ...]

    @property
    def opens(self) -> datetime:
        """The first moment."""
        return self.windows[0].opens

    @property
    def closes(self) -> datetime:
        """The end."""
        return self.windows[-1].closes

    @property
    def square_off(self) -> datetime:
        """When intraday positions are closed."""
        return self.closes - SQUARE_OFF


class Hours:
    """When orders are filled."""

    def __init__(self, calendar: MarketCalendar, *, always_open: bool = False) -> None:
        self._calendar, self.always_open = calendar, always_open

    def of(self, day: date) -> TradingDay:
        """The trading day `day`; the one before it if it is none (any more)."""
        if self.always_open:
            return _whole(day)
        return _trading(self._calendar.session_of(day) or self._calendar.previous_session(day))

    def today(self, now: datetime) -> TradingDay:
        """The newest trading day that has begun, at midnight in India: what books show."""
        return self.of(now.astimezone(IST).date())

    def for_order(self, now: datetime) -> TradingDay:
        """The one in which an order that is placed now can be filled: today's until its end, then the next."""
        day = now.astimezone(IST).date()
        if self.always_open:
            return _whole(day)
        session = self._calendar.session_of(day)
        if session is None or now >= session.closes:
            session = self._calendar.next_session(day)
        return _trading(session)

    def after(self, day: date) -> TradingDay:
        """The next trading day."""
        if self.always_open:
            return _whole(day + timedelta(days=1))
        return _trading(self._calendar.next_session(day))

    def is_open(self, now: datetime) -> bool:
        """Whether orders are filled now."""
        return self.always_open or self._calendar.is_open(now)


def _trading(session: Session) -> TradingDay:
    return TradingDay(session.day, session.windows)


def _whole(day: date) -> TradingDay:
    begins = datetime.combine(day, time(), IST).astimezone(UTC)
    return TradingDay(day, (Window(begins, begins + timedelta(days=1)),))
