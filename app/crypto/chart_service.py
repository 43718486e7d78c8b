"""Charts as figure or page."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from starlette.responses import Response

from app.core.clock import Clock
from app.core.errors import NotFoundError
from app.core.figures import Figure, Theme, figure_page
from app.crypto.charts import price_chart
from app.crypto.history_reading import HistoryReading
from app.crypto.history_slots import HOURLY_FOR, Interval
from app.crypto.naming import CoinNames
from app.crypto.schemas.history import ChartFormat, HistorySpan

NO_HISTORY: Final = "There is no history of this cryptocurrency."
_USUAL: Final = {Interval.M5: timedelta(days=1), Interval.H1: HOURLY_FOR, Interval.D1: timedelta(days=366)}
"""How far back a chart reaches where nobody says from when."""
_NO_STORE: Final = {"Cache-Control": "no-store"}


async def chart_response(make: Callable[[], Figure], title: str, format_: ChartFormat, base_url: str) -> Response:
    """The figure that `make` gives, as `format_`; `base_url` is where a saved page finds its script."""
    if format_ is ChartFormat.JSON:
        content = await asyncio.to_thread(lambda: json.dumps(make(), separators=(",", ":"), allow_nan=False).encode())
        return Response(content, media_type="application/json", headers=_NO_STORE)
    page, policy = await asyncio.to_thread(lambda: figure_page(make(), title, base_url=base_url))
    return Response(page, media_type="text/html", headers={**_NO_STORE, "Content-Security-Policy": policy})


class PriceCharts:
    """Draws the history of a coin."""

    def __init__(self, *, reading: HistoryReading, names: CoinNames, clock: Clock) -> None:
        self._reading, self._names, self._clock = reading, names, clock

    async def render(
        self,
        symbol: str,
        slug: str | None,
        interval: Interval | None,
        span: HistorySpan,
        format_: ChartFormat,
        theme: Theme,
        base_url: str,
    ) -> Response:
        """The chart of a coin. Raises `NotFoundError` for one that is not listed and has no history."""
        coin = await self._names.find(symbol, slug)
        since = span.start or (span.end or self._clock.now()) - _USUAL[interval or Interval.H1]
        points = await self._reading.points(coin.slug, since, span.end, interval)
        if not points and coin.name is None and not await self._reading.exists(coin.slug):
            raise NotFoundError(NO_HISTORY)
        return await chart_response(
            lambda: price_chart(coin.symbol, coin.name, points, theme=theme),
            f"{coin.symbol}: price in US dollars",
            format_,
            base_url,
        )
