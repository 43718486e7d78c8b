"""Calendars for services under test or on show: an exchange that never closes, and one that does not open for days."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from app.core.market_calendar import IST

DAYS = 400
"""Before and after today that the calendar knows."""
_HOURS = {"pre_open": "09:00:00", "opens": "09:15:00", "closes": "15:30:00", "post_close": "16:00:00"}


def write_calendar(path: Path, *, always: bool = True) -> None:
    """A calendar in the format of `app/core/assets/market_calendar.json`: a session all day long every day.

    `always=False`: the regular hours, and holidays from a week ago until in a week.
    """
    today = datetime.now(IST).date()
    days = [today + timedelta(days=number) for number in range(-DAYS, DAYS + 1)]
    calendar = {
        "version": f"simulated {today}",
        "about": "An exchange that never closes." if always else "An exchange on holiday.",
        "sources": [],
        "first": str(days[0]),
        "last": str(days[-1]),
        "hours": [{"since": str(days[0]), **(_HOURS | ({"pre_open": "00:00:00"} if always else {}))}],
        "closures": [] if always else [{"day": str(day), "name": "Holiday"} for day in days if _near(day, today)],
        "sessions": [_all_day(day) for day in days] if always else [],
    }
    path.write_text(json.dumps(calendar))


def _near(day: date, today: date) -> bool:
    return abs(day - today) <= timedelta(days=7)


def _all_day(day: date) -> dict[str, Any]:
    windows = [["00:00:00", "23:59:59.999999"]]
    return {"day": str(day), "kind": "special", "name": "Around the clock", "windows": windows}
