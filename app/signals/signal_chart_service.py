"""Charts of generated signals, as figure or page."""

import asyncio
import json
from collections.abc import Callable
from typing import Final

from starlette.responses import Response

from app.core.candles import Timeframe
from app.core.figures import Figure, Theme, figure_page
from app.signals.analyses import Analyses
from app.signals.generated_schemas import ChartFormat
from app.signals.signal_charts import equity_chart, signal_chart

_NO_STORE: Final = {"Cache-Control": "no-store"}


class SignalCharts:
    """Draws what `Analyses` find."""

    def __init__(self, analyses: Analyses) -> None:
        self._analyses = analyses

    async def signal(
        self, symbol: str, timeframe: Timeframe, format_: ChartFormat, theme: Theme, base_url: str
    ) -> Response:
        """The newest candles with the signal's levels; raises what `Analyses.series` raises.

        `base_url`: where a saved page finds its script.
        """
        found = await self._analyses.of(await self._analyses.series(symbol, timeframe.value))
        title = f"{found.series.symbol}: {found.analysis.call}"
        return await _response(
            lambda: signal_chart(found.series, found.analysis, theme=theme), title, format_, base_url
        )

    async def equity(
        self, symbol: str, timeframe: Timeframe, format_: ChartFormat, theme: Theme, base_url: str
    ) -> Response:
        """What the rules would have brought; as above."""
        found = await self._analyses.of(await self._analyses.series(symbol, timeframe.value))
        title = f"{found.series.symbol}: backtest"
        return await _response(
            lambda: equity_chart(found.series, found.analysis, theme=theme), title, format_, base_url
        )


async def _response(make: Callable[[], Figure], title: str, format_: ChartFormat, base_url: str) -> Response:
    if format_ is ChartFormat.JSON:
        content = await asyncio.to_thread(lambda: json.dumps(make(), separators=(",", ":"), allow_nan=False).encode())
        return Response(content, media_type="application/json", headers=_NO_STORE)
    page, policy = await asyncio.to_thread(lambda: figure_page(make(), title, base_url=base_url))
    return Response(page, media_type="text/html", headers={**_NO_STORE, "Content-Security-Policy": policy})
