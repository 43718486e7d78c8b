"""Charts of predictions, as figure or page."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import Response

from app.core.candles import CandleHistory, CandleSeries, Timeframe
from app.core.errors import NotFoundError
from app.core.figures import Figure, Theme, figure_page
from app.core.pagination import PageRequest, read_page
from app.predictions.charts import DRAWN, MOST_PAST, Forecasts, prediction_chart
from app.predictions.hours import TradingHours
from app.predictions.ml.values import MAXIMUM_HORIZON
from app.predictions.rows import PredictionRows, Row
from app.predictions.schemas import ChartFormat
from app.predictions.service_ports import Symbols

_NO_STORE: Final = {"Cache-Control": "no-store"}


class PredictionCharts:
    """Draws the newest prediction of a model, and those before."""

    def __init__(self, *, candles: CandleHistory, rows: PredictionRows, hours: TradingHours, symbols: Symbols) -> None:
        self._candles, self._rows, self._hours, self._symbols = candles, rows, hours, symbols

    async def chart(
        self, symbol: str, timeframe: Timeframe, model: str, format_: ChartFormat, theme: Theme, base_url: str
    ) -> Response:
        """The newest candles with the predictions of `model`; raises what `CandleHistory` raises.

        `base_url`: where a saved page finds its script.
        """
        forecasts = await self._forecasts(symbol, timeframe, model)
        title = f"{forecasts.series.symbol}: prediction"
        return await _response(lambda: prediction_chart(forecasts, theme=theme), title, format_, base_url)

    async def _forecasts(self, symbol: str, timeframe: Timeframe, model: str) -> Forecasts:
        # As many again as are drawn, because what was said before may be of candles on the left of them.
        series = await self._candles.candles(symbol, timeframe.value, DRAWN + MAXIMUM_HORIZON)
        if not series.close:
            raise NotFoundError(f"There is no closed candle of {series.symbol} yet.")
        page = PageRequest(MOST_PAST * 4)
        equality: dict[str, Any] = {"symbol": series.symbol, "timeframe": timeframe.value, "model_used": str(model)}
        rows = (await read_page(self._rows.newest(equality, page), page)).rows
        rows = [row for row in rows if row["horizon_bars"] == rows[0]["horizon_bars"]]
        return Forecasts(series, self._coming(series, rows[0]) if rows else [], rows)

    def _coming(self, series: CandleSeries, newest: Row) -> list[Any]:
        """The candles of the newest prediction's horizon that have not closed."""
        closed = sum(start > newest["last_bar"] for start in series.start)
        count = newest["horizon_bars"] - closed
        if count <= 0:
            return []
        indian = self._symbols.indian(series.symbol)
        return [span.start for span in self._hours.following(series, count, indian=indian)]


async def _response(make: Callable[[], Figure], title: str, format_: ChartFormat, base_url: str) -> Response:
    if format_ is ChartFormat.JSON:
        content = await asyncio.to_thread(lambda: json.dumps(make(), separators=(",", ":"), allow_nan=False).encode())
        return Response(content, media_type="application/json", headers=_NO_STORE)
    page, policy = await asyncio.to_thread(lambda: figure_page(make(), title, base_url=base_url))
    return Response(page, media_type="text/html", headers={**_NO_STORE, "Content-Security-Policy": policy})
