"""Trades, dashboard, positions, holdings and P&L over HTTP."""

from enum import Enum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import ValidationError

from app.brokerage.portfolio.reading import Portfolio
from app.brokerage.portfolio.schemas import (
    BrokerIn,
    ChartFormat,
    ChartFormatIn,
    FileFormat,
    FileFormatIn,
    ListFormat,
    ListFormatIn,
    PlotlyFigure,
    PnlBy,
    PnlByIn,
    StatusIn,
    Ticker,
    Trade,
    TradeFilters,
    TradeInput,
)
from app.brokerage.portfolio.sheets import Sheets, pnl_sheet
from app.brokerage.portfolio.standing_schemas import Dashboard, HoldingList, Pnl, PositionList
from app.brokerage.portfolio.trades import Trades
from app.core.deps import NoStore, PortfolioReader, PortfolioWriter, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.figures import Theme
from app.core.pagination import PAGED, PageRequest, page_request
from app.core.problem import field_errors, problem_responses, summary
from app.core.schemas import Day, Moment, parse_id
from app.core.settings import Settings

PORTFOLIO: list[str | Enum] = ["Trades and portfolio"]
dashboard_router = APIRouter(prefix="/api/v1/dashboard", tags=PORTFOLIO, dependencies=[NoStore])
trade_router = APIRouter(prefix="/api/v1/trade", tags=PORTFOLIO, dependencies=[NoStore])

TradesHere = Annotated[Trades, provided(Trades)]
SheetsHere = Annotated[Sheets, provided(Sheets)]
PortfolioHere = Annotated[Portfolio, provided(Portfolio)]
TradeId = Annotated[str, Path(max_length=200, description="The trade's id.", examples=["6b02893a002b26997921d778"])]
PageQuery = Annotated[PageRequest, Depends(page_request)]
FormatQuery = Annotated[
    ListFormatIn, Query(alias="format", description="`csv` and `xlsx` give all rows that match, up to 50,000.")
]
StartDay = Annotated[
    Day | None, Query(description="The first day, in India; by default 1 April of the financial year.")
]
EndDay = Annotated[Day | None, Query(description="The last day, in India; by default today.")]
_FILES: dict[str, Any] = {
    "text/csv": {"schema": {"type": "string"}},
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": {
        "schema": {"type": "string", "format": "binary"}
    },
}


async def _filters(
    status: Annotated[StatusIn | None, Query(description="Whether what it opened is open still.")] = None,
    stock_ticker: Annotated[Ticker | None, Query(description="Of this symbol only.", examples=["RELIANCE"])] = None,
    broker: Annotated[BrokerIn | None, Query(description="Of this brokerage only.")] = None,
    start: Annotated[Moment | None, Query(description="Executed at or after this time (ISO 8601).")] = None,
    end: Annotated[Moment | None, Query(description="Executed at or before this time (ISO 8601).")] = None,
) -> TradeFilters:
    """The filters of the list, from the query."""
    try:
        return TradeFilters(status=status, stock_ticker=stock_ticker, broker=broker, start=start, end=end)
    except ValidationError as error:
        problems = [FieldError(("query", *each.loc), each.msg, each.type) for each in field_errors(error.errors())]
        raise InvalidInputError(summary(problems), problems) from None


FiltersQuery = Annotated[TradeFilters, Depends(_filters)]

# Trades


@trade_router.post(
    "/trade",
    status_code=201,
    summary="Enter a trade by hand",
    responses=problem_responses(401, 404, 409, 413),
)
async def create_trade(body: TradeInput, user: PortfolioWriter, trades: TradesHere) -> Trade:
    """For what you traded elsewhere: fills of orders placed here come by themselves.

    It belongs to your active account, apart from what its broker reports. Capital, profit and charges are computed.
    """
    return await trades.create(user, body)


@trade_router.get(
    "/trades",
    summary="Your trades",
    response_model=list[Trade],
    responses={200: {**PAGED[200], "content": _FILES}, **problem_responses(401)},
)
async def list_trades(
    request: Request,
    response: Response,
    user: PortfolioReader,
    trades: TradesHere,
    sheets: SheetsHere,
    page: PageQuery,
    filters: FiltersQuery,
    format_: FormatQuery = ListFormat.JSON,
) -> Any:
    """Newest first, of all your accounts; all filters hold together."""
    if format_ is not ListFormat.JSON:
        return await sheets.trades(user.user_id, filters, format_)
    return (await trades.page(user.user_id, filters, page)).announce(request, response)


@trade_router.get("/trade/{trade_id}", summary="One trade", responses=problem_responses(401, 404))
async def get_trade(trade_id: TradeId, user: PortfolioReader, trades: TradesHere) -> Trade:
    """404 for what does not exist or is not yours."""
    return await trades.get(user.user_id, parse_id(trade_id, "trade"))


@trade_router.put("/trade/{trade_id}", summary="Correct a trade", responses=problem_responses(401, 404, 409, 413))
async def replace_trade(trade_id: TradeId, body: TradeInput, user: PortfolioWriter, trades: TradesHere) -> Trade:
    """Replaces a trade that you entered; what follows from it is computed again. 409 for one that a broker reported."""
    return await trades.replace(user, parse_id(trade_id, "trade"), body)


@trade_router.delete(
    "/trade/{trade_id}", status_code=204, summary="Remove a trade", responses=problem_responses(401, 404, 409)
)
async def delete_trade(trade_id: TradeId, user: PortfolioWriter, trades: TradesHere) -> None:
    """Removes a trade that you entered. 409 for one that a broker reported."""
    await trades.delete(user, parse_id(trade_id, "trade"))


# The active account


@dashboard_router.get("/dashboard", summary="Your account at a glance", responses=problem_responses(401, 409))
async def dashboard(user: PortfolioReader, portfolio: PortfolioHere) -> Dashboard:
    """Funds, positions, holdings, profit, open orders and the latest trades of your active account.

    While its broker does not answer, what it said last is shown, with its time and the reason.
    """
    return await portfolio.dashboard(user.user_id)


@dashboard_router.get("/positions", summary="Your positions", responses=problem_responses(401, 409))
async def positions(user: PortfolioReader, portfolio: PortfolioHere) -> PositionList:
    """What is open, and what was traded today, of your active account; lots go first in, first out."""
    return await portfolio.positions(user.user_id)


@dashboard_router.get("/holdings", summary="Your holdings", responses=problem_responses(401, 409))
async def holdings(user: PortfolioReader, portfolio: PortfolioHere) -> HoldingList:
    """Shares in your active account, with what came from elsewhere."""
    return await portfolio.holdings(user.user_id)


@dashboard_router.get(
    "/pnl",
    summary="Your realised P&L",
    response_model=Pnl,
    responses={200: {"content": _FILES}, **problem_responses(401, 404, 409)},
)
async def pnl(
    user: PortfolioReader,
    portfolio: PortfolioHere,
    start: StartDay = None,
    end: EndDay = None,
    by: Annotated[PnlByIn, Query(description="What the rows are of.")] = PnlBy.DAY,
    account_id: Annotated[str | None, Query(max_length=64, description="By default the active account.")] = None,
    format_: FormatQuery = ListFormat.JSON,
) -> Any:
    """Gross, what it cost by component of the contract notes, and net; by day or by instrument.

    404 for an account that does not exist or is not yours; one that you removed can still be read.
    """
    found = await portfolio.pnl(user.user_id, account_id, start, end, by)
    return found if format_ is ListFormat.JSON else await pnl_sheet(found, by, format_)


@dashboard_router.get(
    "/equity-curve",
    summary="Chart of your profit",
    response_class=Response,
    responses={
        200: {
            "model": PlotlyFigure,
            "description": "A Plotly figure, or a page that shows it with no internet.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        **problem_responses(401, 409),
    },
)
async def equity_curve(
    request: Request,
    user: PortfolioReader,
    portfolio: PortfolioHere,
    settings: Annotated[Settings, provided(Settings)],
    start: StartDay = None,
    end: EndDay = None,
    format_: Annotated[ChartFormatIn, Query(alias="format")] = ChartFormat.JSON,
    theme: Annotated[Theme, Query()] = Theme.DARK,
) -> Response:
    """Day by day what the active account has made, after charges, with and without what was open at the close.

    Today's is as of now.
    """
    base_url = settings.public_base_url or str(request.base_url)
    return await portfolio.curve(user.user_id, start, end, format_, theme, base_url)


@dashboard_router.get(
    "/exports/orders",
    summary="Your orders as a file",
    response_class=Response,
    responses={200: {"content": _FILES}, **problem_responses(401)},
)
async def export_orders(
    user: PortfolioReader,
    sheets: SheetsHere,
    start: Annotated[Moment | None, Query(description="At or after this time (ISO 8601).")] = None,
    end: Annotated[Moment | None, Query(description="At or before this time (ISO 8601).")] = None,
    format_: Annotated[FileFormatIn, Query(alias="format")] = FileFormat.CSV,
) -> Response:
    """Newest first, up to 50,000 rows."""
    return await sheets.orders(user.user_id, start, end, ListFormat(format_))
