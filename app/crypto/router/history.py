"""History of prices: points and charts."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from app.core.deps import PublicLimit, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.figures import Theme
from app.core.pagination import DEFAULT_LIMIT, MAX_LIMIT, PAGED
from app.core.problem import field_errors, problem_responses, summary
from app.core.schemas import Moment
from app.core.settings import Settings
from app.crypto.chart_service import PriceCharts
from app.crypto.encoding import encoded
from app.crypto.history_pages import HistoryPages
from app.crypto.history_reading import HistoryPosition
from app.crypto.router.common import TAGS, SymbolPath
from app.crypto.schemas.history import (
    AskedInterval,
    ChartFormat,
    HistoryPoint,
    HistorySpan,
    IntervalIn,
    PlotlyFigure,
)
from app.crypto.schemas.listing import Slug

router = APIRouter(prefix="/api/v1/cryptocurrencies", tags=TAGS, dependencies=[PublicLimit])

SlugQuery = Annotated[
    Slug | None, Query(description="Of several coins with the symbol, this one; needed for one that has left the list.")
]
IntervalQuery = Annotated[
    IntervalIn,
    Query(description="How far apart points are. `auto`: 5 minutes for a day, an hour for 31 days, a day beyond."),
]


async def _span(
    start: Annotated[Moment | None, Query(description="At or after this time (ISO 8601).")] = None,
    end: Annotated[Moment | None, Query(description="At or before this time (ISO 8601).")] = None,
) -> HistorySpan:
    try:
        return HistorySpan(start=start, end=end)
    except ValidationError as error:
        problems = [FieldError(("query", *each.loc), each.msg, each.type) for each in field_errors(error.errors())]
        raise InvalidInputError(summary(problems), problems) from None


async def _position(
    cursor: Annotated[
        str | None, Query(max_length=64, description="`X-Next-Cursor` of the page before.", examples=[None])
    ] = None,
) -> HistoryPosition | None:
    return HistoryPosition.decode(cursor) if cursor else None


SpanQuery = Annotated[HistorySpan, Depends(_span)]


@router.get(
    "/{symbol}/history",
    summary="Price history of a cryptocurrency",
    response_class=Response,
    responses={200: {"model": list[HistoryPoint], **PAGED[200]}, **problem_responses(404)},
)
async def history(
    request: Request,
    response: Response,
    symbol: SymbolPath,
    pages: Annotated[HistoryPages, provided(HistoryPages)],
    span: SpanQuery,
    after: Annotated[HistoryPosition | None, Depends(_position)],
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows of one page.")] = DEFAULT_LIMIT,
    interval: IntervalQuery = AskedInterval.AUTO,
    slug: SlugQuery = None,
) -> Response:
    """Newest first: a point per sync, thinned with age. Of each slot of time the first point is kept."""
    page = await pages.page(symbol, slug, interval.kept, span, limit, after)
    return Response(encoded(page.announce(request, response)), headers=response.headers, media_type="application/json")


@router.get(
    "/{symbol}/chart",
    summary="Price chart of a cryptocurrency",
    response_class=Response,
    responses={
        200: {
            "model": PlotlyFigure,
            "description": "A Plotly figure, or a page that shows it with no internet.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **problem_responses(404),
    },
)
async def chart(
    request: Request,
    symbol: SymbolPath,
    charts: Annotated[PriceCharts, provided(PriceCharts)],
    settings: Annotated[Settings, provided(Settings)],
    span: SpanQuery,
    interval: IntervalQuery = AskedInterval.AUTO,
    slug: SlugQuery = None,
    format_: Annotated[ChartFormat, Query(alias="format")] = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """Price and volume; without `start` of the last 31 days (of one with `5m`, of a year with `1d`)."""
    base_url = settings.public_base_url or str(request.base_url)
    return await charts.render(symbol, slug, interval.kept, span, format_, theme, base_url)
