"""What Yahoo's quotes say. Pure."""

import math
from datetime import UTC, datetime
from typing import Any, Final

from app.quotes.ports import Quote, SourceName, rounded

_STATES: Final = {"REGULAR": "OPEN", "PRE": "PRE", "PREPRE": "CLOSED", "POST": "POST", "POSTPOST": "CLOSED"}


def quote_of(row: dict[str, Any], fetched_at: datetime) -> Quote | None:
    """A row of an answer; None where it has no price."""
    symbol, price = row.get("symbol"), _number(row, "regularMarketPrice")
    if not isinstance(symbol, str) or price is None or price <= 0:
        return None
    return Quote(
        symbol=symbol,
        price=price,
        source=SourceName.YAHOO,
        fetched_at=fetched_at,
        name=_text(row, "longName") or _text(row, "shortName"),
        exchange=_text(row, "fullExchangeName") or _text(row, "exchange"),
        currency=_text(row, "currency"),
        previous_close=_number(row, "regularMarketPreviousClose"),
        open=_number(row, "regularMarketOpen"),
        high=_number(row, "regularMarketDayHigh"),
        low=_number(row, "regularMarketDayLow"),
        volume=_number(row, "regularMarketVolume"),
        year_high=_number(row, "fiftyTwoWeekHigh"),
        year_low=_number(row, "fiftyTwoWeekLow"),
        market_cap=_number(row, "marketCap"),
        market_state=_STATES.get(str(row.get("marketState")), "CLOSED"),
        at=_moment(row, "regularMarketTime"),
        delay_minutes=_number(row, "exchangeDataDelayedBy"),
    )


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return rounded(float(value), 6) if math.isfinite(value) and 0 <= value < 1e18 else None


def _text(row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value.strip()[:200] or None if isinstance(value, str) and value.isprintable() else None


def _moment(row: dict[str, Any], name: str) -> datetime | None:
    seconds = _number(row, name)
    return datetime.fromtimestamp(seconds, UTC) if seconds and seconds < 7e9 else None
