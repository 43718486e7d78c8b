"""What can be followed, and what is."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from app.core.deps import MarketDataWriter, NoStore, provided
from app.core.problem import problem_responses
from app.market_data.instrument_schemas import (
    ExchangeIn,
    InstrumentInfo,
    SearchText,
    SymbolIn,
    TokenIn,
    WatchlistIn,
    WatchlistInfo,
    WatchModeBody,
)
from app.market_data.instrument_search import InstrumentSearch
from app.market_data.router.common import PREFIX, PUBLIC, TAGS
from app.market_data.watchlist import Watchlist

router = APIRouter(prefix=PREFIX, tags=TAGS)

Lists = Annotated[Watchlist, provided(Watchlist)]
ExchangePath = Annotated[ExchangeIn, Path(description="`NSE`, `BSE`, `NFO` or `BFO`.", examples=["NSE"])]
TokenPath = Annotated[TokenIn, Path(description="The exchange's number for it.", examples=["2885"])]


@router.get("/instruments", summary="Find instruments", responses=problem_responses(503), dependencies=PUBLIC)
async def instruments(
    search: Annotated[InstrumentSearch, provided(InstrumentSearch)],
    query: Annotated[
        SearchText, Query(description="A symbol, name or token, its beginning, or words of it.", examples=["RELIANCE"])
    ],
    exchange: Annotated[ExchangeIn | None, Query(description="Of this exchange only.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
) -> list[InstrumentInfo]:
    """The best matches first: exact ones, then what begins so, then what has all the words; cash segments first."""
    return await search.search(query, exchange, limit)


@router.get(
    "/watchlist",
    summary="What the live feed follows",
    responses=problem_responses(401, 403),
    dependencies=[NoStore],
)
async def watchlist(_: MarketDataWriter, lists: Lists) -> WatchlistInfo:
    """The six indices and what `ANGEL_ONE_SYMBOLS` names, until it is changed here: then what was said here, alone."""
    return lists.info()


@router.put(
    "/watchlist",
    summary="Follow these instead",
    responses=problem_responses(401, 403, 413, 503),
    dependencies=[NoStore],
)
async def replace(caller: MarketDataWriter, lists: Lists, wanted: WatchlistIn) -> WatchlistInfo:
    """Replaces the whole list, in force at once. If any is unknown, or they are too many, nothing changes."""
    return await lists.replace(caller, wanted)


@router.delete("/watchlist", summary="Follow less", responses=problem_responses(401, 403, 404), dependencies=[NoStore])
async def reset(
    caller: MarketDataWriter,
    lists: Lists,
    symbol: Annotated[SymbolIn | None, Query(description="Of this only.", examples=["RELIANCE-EQ"])] = None,
) -> WatchlistInfo:
    """With `symbol` this one is followed no more; without, what the settings say is in force again."""
    return await lists.reset(caller) if symbol is None else await lists.remove(caller, symbol=symbol)


@router.put(
    "/watchlist/{exchange}/{token}",
    summary="Follow this too",
    responses=problem_responses(401, 403, 404, 503),
    dependencies=[NoStore],
)
async def put(
    caller: MarketDataWriter,
    lists: Lists,
    exchange: ExchangePath,
    token: TokenPath,
    wanted: Annotated[WatchModeBody | None, Body(examples=[{"mode": "snap_quote"}])] = None,
) -> WatchlistInfo:
    """Adds an instrument, or changes how much is brought of it. The body may be left out."""
    return await lists.put(caller, exchange, token, (wanted or WatchModeBody()).mode)


@router.delete(
    "/watchlist/{exchange}/{token}",
    summary="Follow this no more",
    responses=problem_responses(401, 403, 404),
    dependencies=[NoStore],
)
async def remove(caller: MarketDataWriter, lists: Lists, exchange: ExchangePath, token: TokenPath) -> WatchlistInfo:
    """The others stay."""
    return await lists.remove(caller, exchange=exchange, token=token)
