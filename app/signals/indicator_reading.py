"""Indicators of a symbol, newest first, page by page."""

import asyncio
import base64
import binascii
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from app.core.cache import Cache
from app.core.candles import CandleHistory, CandleSeries, Timeframe
from app.core.clock import from_micros, to_micros
from app.core.errors import FieldError, InvalidInputError, NotFoundError
from app.core.indicators import CATALOG, WARM_UP
from app.core.pagination import Page
from app.signals.analysed import neat

GROUP: Final = "indicators"
CACHE_SECONDS: Final = 300
MOST: Final = 5_000
"""Candles that there are of a symbol at most: as far back as pages lead."""
_SOME: Final = 500
_encode: Final = msgspec.json.Encoder().encode
_INFO: Final = [{"name": one.name, "unit": one.unit, "needs": one.needs, "meaning": one.meaning} for one in CATALOG]


class Older(NamedTuple):
    """Where a page ended: the start of its last candle, in microseconds since the epoch."""

    micros: int

    def encode(self) -> str:
        """The opaque text that clients send back."""
        return base64.urlsafe_b64encode(self.micros.to_bytes(8, "big", signed=True)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Older":
        """The position behind `text`; raises `InvalidInputError` for anything that `encode` did not make."""
        try:
            found = cls(int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big", signed=True))
            if not 0 <= found.micros < _LATEST or found.encode() != text:
                raise ValueError("another spelling")
            return found
        except (binascii.Error, ValueError, OverflowError):
            problem = FieldError(("query", "cursor"), "This is not a cursor that a list here gave", "cursor_invalid")
            raise InvalidInputError("query.cursor: This is not a cursor that a list here gave.", [problem]) from None


_LATEST: Final = 1 << 53


class IndicatorReading:
    """Computes in a thread, and keeps pages while the newest candle is the same."""

    def __init__(self, *, candles: CandleHistory, cache: Cache) -> None:
        self._candles, self._cache = candles, cache

    async def page(
        self, symbol: str, timeframe: Timeframe, limit: int, after: Older | None
    ) -> tuple[bytes, Page[None]]:
        """A page as JSON, and where the next one begins.

        Raises `NotFoundError`, `InvalidInputError` and `UnavailableError` as the source of candles does.
        """
        wanted = MOST if after else min(max(_SOME, limit + WARM_UP), MOST)
        series = await self._candles.candles(symbol, timeframe.value, wanted)
        before = from_micros(after.micros) if after else None
        end = len(series.start) if before is None else sum(start < before for start in series.start)
        if not end and after is None:
            raise NotFoundError(f"There is no closed candle of {series.symbol} yet.")
        first = max(end - limit, 0)
        key = f"{series.symbol}|{timeframe}|{series.start[-1].timestamp():.0f}|{series.close[-1]!r}" if end else "none"
        name = f"{key}|{len(series.start)}|{first}|{end}|{series.fetched_at.timestamp()}|{series.stale}|{series.source}"

        async def make() -> bytes:
            return await asyncio.to_thread(_page, series, timeframe, first, end)

        body = await self._cache.get_or_make(GROUP, name, CACHE_SECONDS, make)
        return body, Page([], Older(to_micros(series.start[first])) if first else None)


def _page(series: CandleSeries, timeframe: Timeframe, first: int, end: int) -> bytes:
    # numpy and TA-Lib come with the first question, here in the thread.
    from app.core.indicators.compute import compute
    from app.signals.analysis import columns_of

    columns = {name: column.tolist() for name, column in compute(columns_of(series)).items()}
    rows = [_row(series.start[place], series.close[place], columns, place) for place in range(end - 1, first - 1, -1)]
    last = len(series.start) - 1
    return _encode(
        {
            "symbol": series.symbol,
            "timeframe": timeframe.value,
            "currency": series.currency,
            "source": series.source,
            "fetched_at": series.fetched_at,
            "stale": series.stale,
            "adjusted": series.adjusted,
            "latest": {name: _number(column[last]) for name, column in columns.items()} if last >= 0 else {},
            "indicators": _INFO,
            "values": rows,
        }
    )


def _row(start: datetime, close: float, columns: dict[str, list[float]], place: int) -> dict[str, Any]:
    return {
        "timestamp": start,
        "close": neat(close),
        **{name: _number(column[place]) for name, column in columns.items()},
    }


def _number(value: float) -> float | None:
    return neat(value) if value == value else None
