"""Holdings and watchlists of the caller, valued, measured and drawn."""

from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.core.deps import NoStore, PortfolioReader, PortfolioWriter, provided
from app.core.figures import Theme
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import problem_responses
from app.core.schemas import ResponseModel, parse_id
from app.core.settings import Settings
from app.crypto.encoding import encoded
from app.crypto.holdings import Holdings
from app.crypto.portfolio_risk import PortfolioRisks
from app.crypto.router.risk import USUAL_DAYS, DaysQuery
from app.crypto.schemas.history import ChartFormat, PlotlyFigure
from app.crypto.schemas.portfolio import (
    Holding,
    HoldingChange,
    HoldingInput,
    Portfolio,
    Watchlist,
    WatchlistInput,
)
from app.crypto.schemas.risk import PortfolioChart, PortfolioRisk
from app.crypto.watchlists import Watchlists

PORTFOLIO: list[str | Enum] = ["Crypto portfolio"]
router = APIRouter(prefix="/api/v1/crypto-portfolio", tags=PORTFOLIO, dependencies=[NoStore])

Held = Annotated[Holdings, provided(Holdings)]
Lists = Annotated[Watchlists, provided(Watchlists)]
Risks = Annotated[PortfolioRisks, provided(PortfolioRisks)]
PageQuery = Annotated[PageRequest, Depends(page_request)]
HoldingId = Annotated[str, Path(max_length=200, examples=["6b02893a002b26997921d778"])]
ListId = Annotated[str, Path(max_length=200, examples=["6b02893a002b26997921d778"])]


def _exactly(
    content: ResponseModel | list[Holding] | list[Watchlist], response: Response, status: int = 200
) -> Response:
    """Amounts as they are, to the last digit."""
    plain = [one.model_dump() for one in content] if isinstance(content, list) else content.model_dump()
    return Response(encoded(plain), status, response.headers, "application/json")


@router.get(
    "",
    summary="What your holdings are worth",
    response_class=Response,
    responses={200: {"model": Portfolio}, **problem_responses(401)},
)
async def portfolio(response: Response, user: PortfolioReader, held: Held) -> Response:
    """Value, change of the day, profit and weights at the newest prices, and how old these are."""
    return _exactly(await held.portfolio(user.user_id), response)


@router.get(
    "/risk",
    summary="Risk of your portfolio",
    response_class=Response,
    responses={200: {"model": PortfolioRisk}, **problem_responses(401)},
)
async def risk(response: Response, user: PortfolioReader, risks: Risks, days: DaysQuery = USUAL_DAYS) -> Response:
    """Today's weights on the days that were; each figure says its formula, its source and its data."""
    return _exactly(await risks.of(user.user_id, days), response)


@router.get(
    "/chart",
    summary="Chart of your portfolio",
    response_class=Response,
    responses={
        200: {
            "model": PlotlyFigure,
            "description": "A Plotly figure, or a page that shows it with no internet.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **problem_responses(401),
    },
)
async def chart(
    request: Request,
    user: PortfolioReader,
    risks: Risks,
    settings: Annotated[Settings, provided(Settings)],
    chart_type: Annotated[PortfolioChart, Query(description="Its past value, or its parts.")] = PortfolioChart.VALUE,
    format_: Annotated[ChartFormat, Query(alias="format")] = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """What today's quantities would have been worth over a year, or how the value is divided now."""
    base_url = settings.public_base_url or str(request.base_url)
    return await risks.chart(user.user_id, chart_type, format_, theme, base_url)


# Holdings


@router.get(
    "/holdings",
    summary="Your holdings",
    response_class=Response,
    responses={200: {"model": list[Holding], **PAGED[200]}, **problem_responses(401)},
)
async def holdings(
    request: Request, response: Response, user: PortfolioReader, held: Held, page: PageQuery
) -> Response:
    """Newest first, as you entered them."""
    return _exactly((await held.page(user.user_id, page)).announce(request, response), response)


@router.post(
    "/holdings",
    status_code=201,
    summary="Add a holding",
    response_class=Response,
    responses={201: {"model": Holding}, **problem_responses(401, 409, 413)},
)
async def add_holding(body: HoldingInput, response: Response, user: PortfolioWriter, held: Held) -> Response:
    """One a coin (409 for a second one), of a coin that is listed (422 else).

    The coin's prices of the last year, which its risk is made of, are fetched within the hour as the budget allows.
    """
    return _exactly(await held.create(user.user_id, body), response, 201)


@router.get(
    "/holdings/{holding_id}",
    summary="One holding",
    response_class=Response,
    responses={200: {"model": Holding}, **problem_responses(401, 404)},
)
async def holding(holding_id: HoldingId, response: Response, user: PortfolioReader, held: Held) -> Response:
    """404 for what does not exist or is not yours."""
    return _exactly(await held.get(user.user_id, parse_id(holding_id, "holding")), response)


@router.put(
    "/holdings/{holding_id}",
    summary="Change a holding",
    response_class=Response,
    responses={200: {"model": Holding}, **problem_responses(401, 404, 413)},
)
async def change_holding(
    holding_id: HoldingId, body: HoldingChange, response: Response, user: PortfolioWriter, held: Held
) -> Response:
    """Quantity, cost basis and note are replaced; the coin stays."""
    return _exactly(await held.replace(user.user_id, parse_id(holding_id, "holding"), body), response)


@router.delete(
    "/holdings/{holding_id}", status_code=204, summary="Remove a holding", responses=problem_responses(401, 404)
)
async def remove_holding(holding_id: HoldingId, user: PortfolioWriter, held: Held) -> None:
    """404 for what does not exist or is not yours."""
    await held.delete(user.user_id, parse_id(holding_id, "holding"))


# Watchlists


@router.get(
    "/watchlists",
    summary="Your watchlists",
    response_class=Response,
    responses={200: {"model": list[Watchlist], **PAGED[200]}, **problem_responses(401)},
)
async def watchlists(
    request: Request, response: Response, user: PortfolioReader, lists: Lists, page: PageQuery
) -> Response:
    """Newest first, with the newest prices of their coins."""
    return _exactly((await lists.page(user.user_id, page)).announce(request, response), response)


@router.post(
    "/watchlists",
    status_code=201,
    summary="Add a watchlist",
    response_class=Response,
    responses={201: {"model": Watchlist}, **problem_responses(401, 409, 413)},
)
async def add_watchlist(body: WatchlistInput, response: Response, user: PortfolioWriter, lists: Lists) -> Response:
    """Up to 100 coins that are listed (422 else), in your order."""
    return _exactly(await lists.create(user.user_id, body), response, 201)


@router.get(
    "/watchlists/{list_id}",
    summary="One watchlist",
    response_class=Response,
    responses={200: {"model": Watchlist}, **problem_responses(401, 404)},
)
async def watchlist(list_id: ListId, response: Response, user: PortfolioReader, lists: Lists) -> Response:
    """404 for what does not exist or is not yours."""
    return _exactly(await lists.get(user.user_id, parse_id(list_id, "watchlist")), response)


@router.put(
    "/watchlists/{list_id}",
    summary="Replace a watchlist",
    response_class=Response,
    responses={200: {"model": Watchlist}, **problem_responses(401, 404, 409, 413)},
)
async def replace_watchlist(
    list_id: ListId, body: WatchlistInput, response: Response, user: PortfolioWriter, lists: Lists
) -> Response:
    """Name and coins are replaced; what has left the listing can stay on it, by its slug."""
    return _exactly(await lists.replace(user.user_id, parse_id(list_id, "watchlist"), body), response)


@router.delete(
    "/watchlists/{list_id}", status_code=204, summary="Remove a watchlist", responses=problem_responses(401, 404)
)
async def remove_watchlist(list_id: ListId, user: PortfolioWriter, lists: Lists) -> None:
    """404 for what does not exist or is not yours."""
    await lists.delete(user.user_id, parse_id(list_id, "watchlist"))
