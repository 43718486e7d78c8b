"""`/api/market/indicators`."""

from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app.core.candles import Timeframe
from app.core.deps import PublicLimit, provided
from app.core.pagination import DEFAULT_LIMIT, MAX_LIMIT, PAGED
from app.core.problem import problem_responses
from app.signals.generated_schemas import IndicatorsOut
from app.signals.indicator_reading import IndicatorReading, Older
from app.signals.router.common import SymbolPath, TimeframeQuery

TAGS: list[str | Enum] = ["Quotes and candles"]
router = APIRouter(prefix="/api/market", tags=TAGS, dependencies=[PublicLimit])


async def _older(
    cursor: Annotated[
        str | None, Query(max_length=64, description="`X-Next-Cursor` of the page before.", examples=[None])
    ] = None,
) -> Older | None:
    return Older.decode(cursor) if cursor else None


@router.get(
    "/indicators/{symbol}",
    summary="Technical indicators",
    response_class=Response,
    responses={200: {"model": IndicatorsOut, **PAGED[200]}, **problem_responses(404, 503)},
)
async def indicators(
    request: Request,
    response: Response,
    symbol: SymbolPath,
    reading: Annotated[IndicatorReading, provided(IndicatorReading)],
    after: Annotated[Older | None, Depends(_older)],
    timeframe: TimeframeQuery = Timeframe.D1,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Candles of one page.")] = DEFAULT_LIMIT,
) -> Response:
    """RSI, MACD, Bollinger bands, ATR, averages, ADX, OBV, momentum and VWAP of closed candles, newest first.

    Recursive ones have values from the 250th candle on: before, they would depend on where the history begins.
    """
    body, page = await reading.page(symbol, timeframe, limit, after)
    page.announce(request, response)
    return Response(body, headers=response.headers, media_type="application/json")
