"""`/api/predictions`: what models say of a price, and what became of it."""

from enum import Enum
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from fastapi.openapi.models import Example

from app.core.candles import Timeframe
from app.core.deps import Permission, PublicLimit, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.figures import Theme
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.schemas import NoControlCharacters
from app.core.security import Principal, Scope
from app.core.settings import Settings
from app.predictions.chart_service import PredictionCharts
from app.predictions.horizons import USUAL, horizon_of
from app.predictions.ml.values import MAXIMUM_HORIZON, Family
from app.predictions.reading import PredictionReading
from app.predictions.schemas import (
    HORIZON,
    ChartFormat,
    HorizonIn,
    ModelIn,
    ModelName,
    PlotlyFigure,
    PredictIn,
    PredictionJob,
    PredictionOut,
    ScorecardOut,
    TimeframeIn,
)
from app.predictions.service import Predictions, Wanted
from app.predictions.wire import predictions_json

TAGS: list[str | Enum] = ["Predictions"]
router = APIRouter(prefix="/api/predictions", tags=TAGS)

PredictionMaker = Annotated[Principal, Depends(Permission(Scope.PREDICTIONS_WRITE))]
Reading = Annotated[PredictionReading, provided(PredictionReading)]
SymbolPath = Annotated[
    str,
    Path(
        min_length=1,
        max_length=32,
        description="`RELIANCE` is `RELIANCE.NS`, `NIFTY50` is `^NSEI`, `SENSEX` is `^BSESN`.",
        examples=["RELIANCE"],
    ),
    NoControlCharacters,
]
TimeframeQuery = Annotated[TimeframeIn | None, Query(description="Of this length of candles only.", examples=["1D"])]
ModelQuery = Annotated[ModelIn | None, Query(description="By this model only.", examples=["ensemble"])]


_EXAMPLE: dict[str, Example] = {
    "A trading week ahead": {"value": {"model": "svr", "timeframe": "1D", "time_horizon": "5d"}}
}
_FAMILIES: dict[str, Family] = {family: family for family in get_args(Family)}


async def _wanted(
    symbol: SymbolPath,
    model: Annotated[ModelIn | None, Query(description="`ensemble` where nobody says.", examples=["svr"])] = None,
    timeframe: Annotated[
        TimeframeIn | None, Query(description="How long a candle is; `1D` where nobody says.", examples=["1D"])
    ] = None,
    time_horizon: Annotated[HorizonIn | None, Query(description=f"{HORIZON} `5` where nobody says.")] = None,
    body: Annotated[PredictIn | None, Body(openapi_examples=_EXAMPLE)] = None,
) -> Wanted:
    """From the query or the body, wherever each is."""
    said = body or PredictIn()
    return Wanted(
        symbol,
        _one("timeframe", timeframe, said.timeframe) or Timeframe.D1,
        _FAMILIES[_one("model", model, said.model) or ModelName.ENSEMBLE],
        horizon_of(_one("time_horizon", time_horizon, said.time_horizon) or USUAL),
    )


def _one(name: str, in_query: Any, in_body: Any) -> Any:
    if in_query is not None and in_body is not None and in_query != in_body:
        message = f"The query and the body name different values of {name}"
        raise InvalidInputError(f"{message}.", [FieldError(("body", name), message, "given_twice")])
    return in_body if in_query is None else in_query


async def _base_url(request: Request, settings: Annotated[Settings, provided(Settings)]) -> str:
    return settings.public_base_url or str(request.base_url)


@router.post(
    "/generate/{symbol}",
    summary="Predict a price",
    response_class=Response,
    responses={
        200: {"model": PredictionOut},
        202: {"model": PredictionJob, "description": "It is being made: follow the job that `Location` names."},
        **problem_responses(401, 403, 404, 413),
    },
)
async def generate(
    caller: PredictionMaker,
    wanted: Annotated[Wanted, Depends(_wanted)],
    predictions: Annotated[Predictions, provided(Predictions)],
) -> Response:
    """The close at the horizon, with an interval, and how the model did on candles it had not seen beside the naive
    forecast, which says that the price stays as it is. `verdict` says whether it was any better; most are not.

    One prediction for each newest closed candle, whoever asks. What has to be trained first takes some ten seconds:
    then the answer is 202, and the prediction is stored when the job is done. `PREDICTION_RATE_LIMIT_PER_MINUTE` per
    account.
    """
    answer = await predictions.generate(wanted, str(caller.user_id))
    if answer.job is None:
        return Response(answer.body, media_type="application/json")
    return Response(answer.body, status_code=202, media_type="application/json", headers={"Location": answer.job})


@router.get(
    "/{symbol}",
    summary="Predictions",
    response_class=Response,
    responses={200: {"model": list[PredictionOut], **PAGED[200]}, **problem_responses()},
    dependencies=[PublicLimit],
)
async def list_predictions(
    request: Request,
    response: Response,
    symbol: SymbolPath,
    reading: Reading,
    page: Annotated[PageRequest, Depends(page_request)],
    timeframe: TimeframeQuery = None,
    model: ModelQuery = None,
    horizon_bars: Annotated[
        int | None, Query(ge=1, le=MAXIMUM_HORIZON, description="So many candles ahead only.", examples=[5])
    ] = None,
) -> Response:
    """What was predicted and stored, newest first, with what became of it; nothing for a symbol that has none.

    An ensemble comes with the predictions of its members.
    """
    found = await reading.page(symbol, timeframe, model, page, horizon_bars)
    body = predictions_json(found.announce(request, response))
    return Response(body, headers=response.headers, media_type="application/json")


@router.get(
    "/{symbol}/scorecard",
    summary="What became of predictions",
    response_class=Response,
    responses={200: {"model": ScorecardOut}, **problem_responses()},
    dependencies=[PublicLimit],
)
async def scorecard(
    symbol: SymbolPath, reading: Reading, timeframe: TimeframeQuery = None, model: ModelQuery = None
) -> Response:
    """The newest thousand predictions of the symbol beside what happened, by model, timeframe and horizon.

    A prediction is scored by the close of the candle that it is for. Predictions made one candle after the other over
    several candles overlap, so they tell less than their number.
    """
    return Response(await reading.scorecard(symbol, timeframe, model), media_type="application/json")


@router.get(
    "/{symbol}/chart",
    summary="Chart of a prediction",
    response_class=Response,
    responses={
        200: {
            "model": PlotlyFigure,
            "description": "A Plotly figure, or a page that shows it with no internet.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **problem_responses(404, 503),
    },
    dependencies=[PublicLimit],
)
async def chart(
    symbol: SymbolPath,
    charts: Annotated[PredictionCharts, provided(PredictionCharts)],
    base_url: Annotated[str, Depends(_base_url)],
    timeframe: Annotated[TimeframeIn, Query(description="How long a candle is.", examples=["1D"])] = Timeframe.D1,
    model: Annotated[ModelIn, Query(description="Whose predictions.", examples=["ensemble"])] = ModelName.ENSEMBLE,
    format_: Annotated[ChartFormat, Query(alias="format")] = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """The newest candles with the cone of the model's newest prediction, and its predictions of the same horizon before
    where they were for. Between the last close and the horizon nothing is forecast: the cone opens as the square root
    of time does."""
    return await charts.chart(symbol, timeframe, model, format_, theme, base_url)
