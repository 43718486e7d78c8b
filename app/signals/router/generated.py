"""`/api/signals`: signals by the rules, and their charts."""

from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.openapi.models import Example

from app.core.candles import Timeframe
from app.core.deps import PublicLimit, SignalWriter, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.figures import Theme
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.settings import Settings
from app.signals.generate import SignalGenerator
from app.signals.generated_reading import GeneratedSignals
from app.signals.generated_schemas import ChartFormat, GenerateIn, PlotlyFigure, TimeframeIn, TradingSignal
from app.signals.generated_wire import signals_json
from app.signals.router.common import SymbolPath, TimeframeQuery
from app.signals.signal_chart_service import SignalCharts

TAGS: list[str | Enum] = ["Signals"]
router = APIRouter(prefix="/api/signals", tags=TAGS)

_CHART: dict[int | str, dict[str, Any]] = {
    200: {
        "model": PlotlyFigure,
        "description": "A Plotly figure, or a page that shows it with no internet.",
        "content": {"text/html": {"schema": {"type": "string"}}},
    },
    **problem_responses(404, 503),
}
_DAILY: dict[str, Example] = {"daily candles": {"value": {"timeframe": "1D"}}}
Charts = Annotated[SignalCharts, provided(SignalCharts)]
FormatQuery = Annotated[ChartFormat, Query(alias="format")]


async def _timeframe(
    timeframe: Annotated[
        TimeframeIn | None, Query(description="How long a candle is; `1D` where nobody says.", examples=["1D"])
    ] = None,
    body: Annotated[GenerateIn | None, Body(openapi_examples=_DAILY)] = None,
) -> Timeframe:
    """From the query or the body, wherever it is."""
    said = body.timeframe if body else None
    if timeframe is not None and said is not None and said is not timeframe:
        message = "The query and the body name different timeframes"
        raise InvalidInputError(f"{message}.", [FieldError(("body", "timeframe"), message, "timeframe_twice")])
    return timeframe or said or Timeframe.D1


async def _base_url(request: Request, settings: Annotated[Settings, provided(Settings)]) -> str:
    return settings.public_base_url or str(request.base_url)


BaseUrl = Annotated[str, Depends(_base_url)]


@router.post(
    "/generate/{symbol}",
    summary="Generate a signal",
    response_class=Response,
    responses={200: {"model": TradingSignal}, **problem_responses(401, 404, 413, 503)},
)
async def generate(
    _: SignalWriter,
    symbol: SymbolPath,
    timeframe: Annotated[Timeframe, Depends(_timeframe)],
    generator: Annotated[SignalGenerator, provided(SignalGenerator)],
) -> Response:
    """BUY, SELL or HOLD by scored rules at the close of the newest candle, with levels, reasons and a backtest.

    One signal for each candle, whoever asks. `strength` says how much of the rules' weight agrees; it is no
    probability. HOLD where what such signals brought before is under the costs of trading.
    """
    return Response(await generator.generate(symbol, timeframe.value), media_type="application/json")


@router.get(
    "/{symbol}",
    summary="Generated signals",
    response_class=Response,
    responses={200: {"model": list[TradingSignal], **PAGED[200]}, **problem_responses()},
    dependencies=[PublicLimit],
)
async def list_signals(
    request: Request,
    response: Response,
    symbol: SymbolPath,
    signals: Annotated[GeneratedSignals, provided(GeneratedSignals)],
    page: Annotated[PageRequest, Depends(page_request)],
    timeframe: Annotated[
        TimeframeIn | None, Query(description="Of this length of candles only.", examples=["1D"])
    ] = None,
) -> Response:
    """What was generated and stored, newest first; nothing for a symbol of which there is none."""
    found = await signals.page(symbol, timeframe, page)
    body = signals_json(found.announce(request, response))
    return Response(body, headers=response.headers, media_type="application/json")


@router.get(
    "/{symbol}/chart",
    summary="Chart of the signal",
    response_class=Response,
    responses=_CHART,
    dependencies=[PublicLimit],
)
async def chart(
    symbol: SymbolPath,
    charts: Charts,
    base_url: BaseUrl,
    timeframe: TimeframeQuery = Timeframe.D1,
    format_: FormatQuery = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """The newest candles with target, stop, support and resistance, the backtest's positions, and the score below."""
    return await charts.signal(symbol, timeframe, format_, theme, base_url)


@router.get(
    "/{symbol}/equity",
    summary="Equity curve of the backtest",
    response_class=Response,
    responses=_CHART,
    dependencies=[PublicLimit],
)
async def equity(
    symbol: SymbolPath,
    charts: Charts,
    base_url: BaseUrl,
    timeframe: TimeframeQuery = Timeframe.D1,
    format_: FormatQuery = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """What following the rules would have brought after charges, beside buying and holding."""
    return await charts.equity(symbol, timeframe, format_, theme, base_url)
