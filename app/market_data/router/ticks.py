"""Ticks: the newest, those of a symbol, those that match."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from app.core.deps import provided
from app.core.pagination import PAGED
from app.core.problem import problem_responses
from app.market_data.reading import MarketReading
from app.market_data.router.common import (
    PREFIX,
    PUBLIC,
    TAGS,
    EndQuery,
    PageQuery,
    SpanQuery,
    StartQuery,
    SymbolPageQuery,
    SymbolPath,
    SymbolsQuery,
    checked,
    json_response,
)
from app.market_data.schemas import Exchange, MarketTick, Price, QualityIn, Source, Symbol, TickFilters

router = APIRouter(prefix=PREFIX, tags=TAGS, dependencies=PUBLIC)

Reading = Annotated[MarketReading, provided(MarketReading)]


async def _filters(
    symbol: Annotated[Symbol | None, Query(examples=["NIFTY 50"])] = None,
    exchange: Annotated[Exchange | None, Query(examples=["NSE"])] = None,
    source: Annotated[Source | None, Query(examples=["angel_one"])] = None,
    data_quality: Annotated[QualityIn | None, Query()] = None,
    is_realtime: Annotated[bool | None, Query()] = None,
    start: StartQuery = None,
    end: EndQuery = None,
    min_price: Annotated[Price | None, Query(description="Rupees.")] = None,
    max_price: Annotated[Price | None, Query(description="Rupees.")] = None,
) -> TickFilters:
    return checked(
        lambda: TickFilters(
            symbol=symbol,
            exchange=exchange,
            source=source,
            data_quality=data_quality,
            is_realtime=is_realtime,
            start=start,
            end=end,
            min_price=min_price,
            max_price=max_price,
        )
    )


@router.get(
    "/latest",
    summary="The newest tick of every symbol",
    response_class=Response,
    responses={200: {"model": list[MarketTick], **PAGED[200]}, **problem_responses(404)},
)
async def latest(
    request: Request, response: Response, reading: Reading, symbols: SymbolsQuery, page: SymbolPageQuery
) -> Response:
    """In the order of symbols, or as `symbols` names them; a `cursor` goes with the same `symbols`.

    What has no tick yet is left out; 404 if none is known.
    """
    found = await reading.latest(symbols, page)
    return json_response(found.announce(request, response), response)


@router.get(
    "/symbol/{symbol}",
    summary="Ticks of one symbol",
    response_class=Response,
    responses={200: {"model": list[MarketTick], **PAGED[200]}, **problem_responses(404)},
)
async def of_symbol(
    request: Request, response: Response, symbol: SymbolPath, reading: Reading, span: SpanQuery, page: PageQuery
) -> Response:
    """Newest first."""
    found = await reading.ticks(symbol, span, page)
    return json_response(found.announce(request, response), response)


@router.get(
    "/filter",
    summary="Ticks that match",
    response_class=Response,
    responses={200: {"model": list[MarketTick], **PAGED[200]}, **problem_responses(404)},
)
async def filtered(
    request: Request,
    response: Response,
    reading: Reading,
    filters: Annotated[TickFilters, Depends(_filters)],
    page: PageQuery,
) -> Response:
    """Newest first; all filters hold together. Without a symbol `start` and `end` are required, a day apart at most."""
    found = await reading.filtered(filters, page)
    return json_response(found.announce(request, response), response)
