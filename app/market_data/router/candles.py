"""Candles, as rows and as charts."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.core.deps import provided
from app.core.figures import Theme
from app.core.pagination import PAGED
from app.core.problem import problem_responses
from app.core.settings import Settings
from app.market_data.candle_reading import CandleReading
from app.market_data.chart_service import MarketCharts
from app.market_data.ports import Timeframe
from app.market_data.router.common import PREFIX, PUBLIC, TAGS, PageQuery, SpanQuery, SymbolPath, json_response
from app.market_data.schemas import Candle, CandleFigure, ChartFormat, TimeframeIn

router = APIRouter(prefix=PREFIX, tags=TAGS, dependencies=PUBLIC)

Length = Annotated[TimeframeIn, Query(description="How long a candle is; case does not matter.")]


@router.get(
    "/candles/{symbol}",
    summary="Candles of one symbol",
    response_class=Response,
    responses={200: {"model": list[Candle], **PAGED[200]}, **problem_responses(404)},
)
async def candles(
    request: Request,
    response: Response,
    symbol: SymbolPath,
    reading: Annotated[CandleReading, provided(CandleReading)],
    span: SpanQuery,
    page: PageQuery,
    timeframe: Length = Timeframe.M1,
) -> Response:
    """Newest first, the one that is not closed yet too; `start` and `end` are about when candles begin."""
    found = await reading.page(symbol, timeframe, span, page)
    return json_response(found.announce(request, response), response)


@router.get(
    "/chart/{symbol}",
    summary="Candlestick chart of one symbol",
    response_class=Response,
    responses={
        200: {
            "model": CandleFigure,
            "description": "A Plotly figure, or a page that shows it with no internet.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **problem_responses(404),
    },
)
async def chart(
    request: Request,
    symbol: SymbolPath,
    charts: Annotated[MarketCharts, provided(MarketCharts)],
    settings: Annotated[Settings, provided(Settings)],
    span: SpanQuery,
    timeframe: Length = Timeframe.M5,
    format_: Annotated[ChartFormat, Query(alias="format")] = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """Candles and volume without the hours in which nothing is traded; at most 5,000 candles, else 422.

    Without `start` about the newest 375 candles, or those of a year of days.
    """
    base_url = settings.public_base_url or str(request.base_url)
    return await charts.render(symbol, timeframe, span, format_, theme, base_url)
