"""Charts of candles, as figure or page."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from app.core.figures import Theme, figure_page
from app.core.market_calendar import IST, MarketCalendar, Session
from app.market_data.candle_reading import CandleReading
from app.market_data.charts import ChartBar, candle_chart
from app.market_data.ports import Timeframe
from app.market_data.schemas import ChartFormat, Span

USUAL: Final = 375
"""Candles of a chart where nobody says from when: a session of minutes."""
USUAL_DAYS: Final = 250
"""About a year."""
_NO_STORE: Final = {"Cache-Control": "no-store"}


class MarketCharts:
    """Draws what `CandleReading` finds."""

    def __init__(self, *, candles: CandleReading, calendar: MarketCalendar) -> None:
        self._candles, self._calendar = candles, calendar

    async def render(
        self, symbol: str, timeframe: Timeframe, span: Span, format_: ChartFormat, theme: Theme, base_url: str
    ) -> Response:
        """The chart as `format_`; `base_url` is where the page finds its script when it is saved to disk.

        Raises `NotFoundError` for an unknown symbol and `InvalidInputError` for too long a stretch.
        """
        usual = USUAL_DAYS if timeframe is Timeframe.D1 else USUAL
        symbol, rows = await self._candles.stretch(symbol, timeframe, span, usual)
        bars = [_bar(row) for row in rows]
        sessions = self._sessions(bars)
        if format_ is ChartFormat.JSON:
            content = await asyncio.to_thread(_encode, symbol, timeframe, bars, sessions, theme)
            return Response(content, media_type="application/json", headers=_NO_STORE)
        page, policy = await asyncio.to_thread(_page, symbol, timeframe, bars, sessions, theme, base_url)
        headers = {**_NO_STORE, "Content-Security-Policy": policy}
        return Response(page, media_type="text/html", headers=headers)

    def _sessions(self, bars: Sequence[ChartBar]) -> list[Session]:
        if not bars:
            return []
        first, last = (bar.start.astimezone(IST).date() for bar in (bars[0], bars[-1]))
        return list(self._calendar.sessions(first, last))


def _bar(row: dict[str, Any]) -> ChartBar:
    return ChartBar(row["start"], row["open"], row["high"], row["low"], row["close"], row["volume"], row["source"])


def _encode(
    symbol: str, timeframe: Timeframe, bars: Sequence[ChartBar], sessions: Sequence[Session], theme: Theme
) -> bytes:
    figure = candle_chart(symbol, timeframe, bars, sessions, theme=theme)
    return json.dumps(figure, separators=(",", ":"), allow_nan=False).encode()


def _page(
    symbol: str,
    timeframe: Timeframe,
    bars: Sequence[ChartBar],
    sessions: Sequence[Session],
    theme: Theme,
    base_url: str,
) -> tuple[str, str]:
    figure = candle_chart(symbol, timeframe, bars, sessions, theme=theme)
    return figure_page(figure, f"{symbol}: {timeframe}", base_url=base_url)
