"""One spelling of trading symbols, whoever writes them: shares without their series, contracts as the exchanges do."""

import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

_SERIES = re.compile(r"-(?:EQ|BE|BZ|SM|ST)$")
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKLY_MONTHS: Final = "123456789OND"


def share_symbol(written: str) -> str:
    """`RELIANCE` for `RELIANCE-EQ`: of one share only one series trades at a time."""
    return _SERIES.sub("", written.strip().upper())


def series_of(written: str) -> str:
    """`EQ` for `RELIANCE-EQ`; empty where none is written."""
    found = _SERIES.search(written.strip().upper())
    return found[0][1:] if found else ""


def contract_symbol(
    name: str, expiry: date, kind: str, strike: Decimal | None = None, *, weekly: bool | None = None
) -> str:
    """`NIFTY26DECFUT`, `NIFTY26DEC24500CE`, and for options of a week `NIFTY26D0324500CE`.

    An option is the month's when it expires in the month's last seven days. (Where a holiday moves the last expiry of
    a month of 30 days or less forward, it is spelled as if it were a week's: by every broker alike.) `weekly`: where a
    broker's list says which it is.
    """
    month = _MONTHS[expiry.month - 1]
    if kind == "FUT":
        return f"{name}{expiry:%y}{month}FUT"
    if weekly is None:
        weekly = (expiry + timedelta(days=7)).month == expiry.month
    when = f"{_WEEKLY_MONTHS[expiry.month - 1]}{expiry:%d}" if weekly else month
    return f"{name}{expiry:%y}{when}{'' if strike is None else f'{strike.normalize():f}'}{kind}"
