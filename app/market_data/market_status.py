"""Whether the market is open, as clients are told."""

from typing import Final, Literal

from app.core.clock import Clock
from app.core.market_calendar import MarketCalendar, Phase, Session
from app.market_data.schemas import CalendarInfo, MarketStatus, SessionHours

Status = Literal["open", "closed", "pre-open"]

_STATUS: Final[dict[Phase, Status]] = {
    Phase.OPEN: "open",
    Phase.PRE_OPEN: "pre-open",
    Phase.POST_CLOSE: "closed",
    Phase.CLOSED: "closed",
}


class MarketHours:
    """Asks the calendar."""

    def __init__(self, *, clock: Clock, calendar: MarketCalendar) -> None:
        self._clock, self._calendar = clock, calendar

    def status(self) -> MarketStatus:
        """What the exchanges do now."""
        now, calendar = self._clock.now(), self._calendar
        state = calendar.state(now)
        return MarketStatus(
            status=_STATUS[state.phase],
            phase=state.phase,
            is_open=state.phase is Phase.OPEN,
            at=now,
            since=state.since,
            until=state.until,
            session=_hours(state.session) if state.session else None,
            next_open=state.next_open.at,
            next_session=_hours(state.next_open.session),
            certain=state.certain,
            note=state.note,
            calendar=CalendarInfo(version=calendar.version, first=calendar.first, last=calendar.last),
        )


def _hours(session: Session) -> SessionHours:
    return SessionHours(
        day=session.day,
        kind=session.kind,
        name=session.name,
        opens=session.opens,
        closes=session.closes,
        pre_open=session.pre_open,
        post_close=session.post_close,
    )
