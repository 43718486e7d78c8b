"""Indicators of a symbol, newest first, page by page."""

import asyncio
import base64
import binascii
import math
import struct
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

GROUP: Final = "indicator pages"
CACHE_SECONDS: Final = 300
MOST: Final = 5_000
"""Candles that there are of a symbol at most: as far back as pages lead."""
_SOME: Final = 500
_OBV: Final = "obv"
_encode: Final = msgspec.json.Encoder().encode
_INFO: Final = [{"name": one.name, "unit": one.unit, "needs": one.needs, "meaning": one.meaning} for one in CATALOG]


_CURSOR: Final = struct.Struct(">qd")


class Older(NamedTuple):
    """Where a page ended."""

    micros: int
    """The start of its last candle, in microseconds since the epoch."""
    obv: float
    """The OBV that it had there: only its course counts, and that goes on over pages; NaN for none."""

    def encode(self) -> str:
        """The opaque text that clients send back."""
        return base64.urlsafe_b64encode(_CURSOR.pack(*self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Older":
        """The position behind `text`; raises `InvalidInputError` for anything that `encode` did not make."""
        try:
            found = cls(*_CURSOR.unpack(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
            if not 0 <= found.micros < _LATEST or abs(found.obv) > _MOST_OBV or found.encode() != text:
                raise ValueError("another spelling")
            return found
        except (binascii.Error, struct.error, ValueError):
            problem = FieldError(("query", "cursor"), "This is not a cursor that a list here gave", "cursor_invalid")
            raise InvalidInputError("query.cursor: This is not a cursor that a list here gave.", [problem]) from None


_LATEST: Final = 1 << 53
_MOST_OBV: Final = 1e18


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
            return await asyncio.to_thread(_page, series, timeframe, first, end, after)

        kept = await self._cache.get_or_make(GROUP, f"{name}|{after.obv if after else None}", CACHE_SECONDS, make)
        page = _decode(kept)
        return page.body, Page([], Older(to_micros(series.start[first]), page.obv) if first else None)


class _Kept(msgspec.Struct, array_like=True, frozen=True):
    """A page, and the OBV of its last candle."""

    body: bytes
    obv: float


_decode: Final = msgspec.msgpack.Decoder(_Kept).decode


def _page(series: CandleSeries, timeframe: Timeframe, first: int, end: int, after: Older | None) -> bytes:
    # numpy and TA-Lib come with the first question, here in the thread.
    from app.core.indicators.compute import compute
    from app.signals.analysis import columns_of

    values, last = compute(columns_of(series)), len(series.start) - 1
    if after is not None and end <= last and series.start[end] == from_micros(after.micros):
        # The page before may have begun to count at another candle: this one goes on from its last value.
        apart = after.obv - float(values[_OBV][end])
        values[_OBV] = values[_OBV] + (apart if math.isfinite(apart) else 0.0)
    columns = {name: column.tolist() for name, column in values.items()}
    rows = [_row(series.start[place], series.close[place], columns, place) for place in range(end - 1, first - 1, -1)]
    body = _encode(
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
    return msgspec.msgpack.encode(_Kept(body, columns[_OBV][first] if rows else math.nan))


def _row(start: datetime, close: float, columns: dict[str, list[float]], place: int) -> dict[str, Any]:
    return {
        "timestamp": start,
        "close": neat(close),
        **{name: _number(column[place]) for name, column in columns.items()},
    }


def _number(value: float) -> float | None:
    return neat(value) if value == value else None
