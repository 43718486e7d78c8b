"""Candles as Angel One's REST interface speaks of them: what to ask for, and what an answer says. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from app.integrations.angel_one.errors import NonsenseError

IST: Final = timezone(timedelta(hours=5, minutes=30))
LONGEST: Final = {
    "ONE_MINUTE": 30,
    "THREE_MINUTE": 60,
    "FIVE_MINUTE": 100,
    "TEN_MINUTE": 100,
    "FIFTEEN_MINUTE": 200,
    "THIRTY_MINUTE": 200,
    "ONE_HOUR": 400,
    "ONE_DAY": 2000,
}
"""The most days that one request may ask for, by interval (the vendor's documentation of historical data)."""
_COLUMNS: Final = 6
_ABSURD: Final = 10**9


class RawBar(NamedTuple):
    """One candle as the vendor has it, prices in rupees. A day's begins at midnight IST."""

    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int


def pieces(interval: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The range in stretches that one request may ask for; both ends belong to each. Nothing for an empty range."""
    longest = timedelta(days=LONGEST[interval]) - timedelta(minutes=1)
    while start <= end:
        last = min(start + longest, end)
        yield start, last
        start = last + timedelta(minutes=1)


def words(exchange: str, token: str, interval: str, start: datetime, end: datetime) -> dict[str, str]:
    """The parameters of a request: minutes by India's clock."""
    return {
        "exchange": exchange,
        "symboltoken": token,
        "interval": interval,
        "fromdate": f"{start.astimezone(IST):%Y-%m-%d %H:%M}",
        "todate": f"{end.astimezone(IST):%Y-%m-%d %H:%M}",
    }


def read_rows(data: Any) -> list[RawBar]:
    """The candles of an answer. Rows whose prices contradict themselves are left out.

    Raises `NonsenseError` for what has another form than rows of a time, four prices and a volume: success without
    data too, as "there are none" is an empty list.
    """
    if not isinstance(data, list):
        raise NonsenseError("no candles")
    bars = [_bar(row) for row in data]
    return [bar for bar in bars if _agrees(bar)]


def _bar(row: Any) -> RawBar:
    if not isinstance(row, list) or len(row) < _COLUMNS:
        raise NonsenseError("candle")
    try:
        start = datetime.fromisoformat(row[0])
        first, high, low, close = (Decimal(str(price)) for price in row[1:5])
        volume = int(row[5]) if abs(row[5]) < 2**63 else -1
    except (TypeError, ValueError, InvalidOperation, OverflowError):
        raise NonsenseError("candle") from None
    if start.tzinfo is None or not all(price.is_finite() for price in (first, high, low, close)):
        raise NonsenseError("candle")
    return RawBar(start, first, high, low, close, volume)


def _agrees(bar: RawBar) -> bool:
    lowest, highest = min(bar.open, bar.close), max(bar.open, bar.close)
    return 0 < bar.low <= lowest <= highest <= bar.high < _ABSURD and bar.volume >= 0
