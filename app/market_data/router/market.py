"""What is known: symbols, counts, data quality, and whether the market is open."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.core.deps import provided
from app.core.pagination import PAGED
from app.core.problem import problem_responses
from app.market_data.market_status import MarketHours
from app.market_data.reading import MarketReading
from app.market_data.router.common import (
    PREFIX,
    PUBLIC,
    TAGS,
    ShortSymbolPageQuery,
    SymbolPageQuery,
    SymbolsQuery,
)
from app.market_data.schemas import Day, MarketStatus, Statistics, SymbolInfo, SymbolQuality

router = APIRouter(prefix=PREFIX, tags=TAGS, dependencies=PUBLIC)

Reading = Annotated[MarketReading, provided(MarketReading)]


@router.get("/symbols", summary="Symbols known", responses={**PAGED, **problem_responses()})
async def symbols(request: Request, response: Response, reading: Reading, page: SymbolPageQuery) -> list[SymbolInfo]:
    """Those that ticks are known of and those that the feed follows, in their order."""
    return (await reading.symbols(page)).announce(request, response)


@router.get("/statistics", summary="Counts, and how the feed does", responses=problem_responses())
async def statistics(reading: Reading) -> Statistics:
    """Counts of stored ticks by symbol, source and quality; what the feed received, stored and refused."""
    return await reading.statistics()


@router.get("/quality", summary="Data quality of a day", responses={**PAGED, **problem_responses()})
async def quality(
    request: Request,
    response: Response,
    reading: Reading,
    symbols: SymbolsQuery,
    page: ShortSymbolPageQuery,
    day: Annotated[Day | None, Query(description="In India; without it the newest session's.")] = None,
) -> list[SymbolQuality]:
    """In the order of symbols: gaps, silence, duplicates dropped, and what was rejected why."""
    return (await reading.quality(symbols, day, page)).announce(request, response)


@router.get("/market-status", summary="Is the market open?", responses=problem_responses())
async def market_status(hours: Annotated[MarketHours, provided(MarketHours)]) -> MarketStatus:
    """By the calendar of NSE and BSE, holidays and special sessions included."""
    return hours.status()
