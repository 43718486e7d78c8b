"""The listing: all coins, one of them, the top ones, and a sync on request."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.core.client_address import network_of
from app.core.deps import ClientAddress, CryptoSyncer, PublicLimit, provided
from app.core.problem import problem_responses
from app.core.rate_limit import RateLimiter
from app.core.settings import Settings
from app.crypto.listing import Listings
from app.crypto.requested_sync import RequestedSync
from app.crypto.router.common import (
    AS_OF,
    LISTED,
    TAGS,
    VALIDATED,
    PartQuery,
    SelectionQuery,
    SymbolPath,
    VolumeQuery,
    answer,
)
from app.crypto.schemas.listing import CoinDetail, CoinRow, ProviderIn, Slug, WindowIn
from app.crypto.schemas.sync import SyncReport
from app.crypto.sync import MAX_COINS, USUAL_COINS
from app.crypto.top import TopLists, Window

LIST_PATH = "/api/v1/cryptocurrencies/"

router = APIRouter(prefix=LIST_PATH.rstrip("/"), tags=TAGS)
Listing = Annotated[Listings, provided(Listings)]


async def _sync_limit(
    _: CryptoSyncer,  # first who it is: guesses at tokens must not use up what an address may sync
    address: ClientAddress,
    limiter: Annotated[RateLimiter, provided(RateLimiter)],
    settings: Annotated[Settings, provided(Settings)],
) -> None:
    await limiter.hit("crypto-sync", network_of(address), settings.crypto_sync_rate_limit_per_minute)


@router.get(
    "/",
    summary="List cryptocurrencies",
    response_class=Response,
    dependencies=[PublicLimit],
    responses={200: {"model": list[CoinRow], **LISTED[200]}, 304: LISTED[304], **problem_responses()},
)
async def coins(request: Request, listings: Listing, selection: SelectionQuery, part: PartQuery) -> Response:
    """From the newest sync, the largest by market capitalisation first unless `sort_by` says otherwise.

    The pages that cursors lead to are of the same sync as the first one: they neither skip nor repeat while other syncs
    go on. A cursor holds for about an hour. Nulls match no bound.
    """
    return answer(request, await listings.page(selection, part, request.scope["query_string"]))


@router.post(
    "/sync",
    summary="Sync now",
    dependencies=[Depends(_sync_limit)],
    responses={
        202: {"model": SyncReport, "description": "It is still under way; follow the run."},
        **problem_responses(401, 403),
    },
)
async def sync(
    response: Response,
    caller: CryptoSyncer,
    requested: Annotated[RequestedSync, provided(RequestedSync)],
    limit: Annotated[int, Query(ge=1, le=MAX_COINS, description="How many of the largest coins.")] = USUAL_COINS,
    provider: Annotated[
        ProviderIn | None, Query(description="This one alone. By default CoinGecko, and CoinMarketCap if that fails.")
    ] = None,
) -> SyncReport:
    """Asks a provider now, and answers with what that changed. `CRYPTO_SYNC_RATE_LIMIT_PER_MINUTE` per address.

    It is one call of the provider's monthly budget. The same sync under way already serves for both.
    """
    report = await requested.sync(limit, provider, str(caller.user_id))
    if report.duration_ms is None:
        response.status_code = 202
        response.headers["Location"] = f"/api/v1/jobs/{report.run_id}"
    return report


@router.get(
    "/top/{category}",
    summary="Top cryptocurrencies",
    response_class=Response,
    dependencies=[PublicLimit],
    responses={
        200: {"model": list[CoinRow], "headers": {**LISTED[200]["headers"], **AS_OF}},
        304: LISTED[304],
        **problem_responses(404),
    },
)
async def top(
    request: Request,
    lists: Annotated[TopLists, provided(TopLists)],
    category: Annotated[
        str,
        Path(
            max_length=100,
            description="`gainers`, `losers`, `volume`, `market_cap`, or a provider's category, whose largest coins "
            "are listed. For any other the 404 has those that there are.",
            examples=["gainers"],
        ),
    ],
    part: PartQuery,
    window: Annotated[
        WindowIn, Query(description="What `gainers` and `losers` gained and lost over; the others have no time.")
    ] = Window.DAY,
    min_volume: VolumeQuery = None,
) -> Response:
    """Gainers rose and losers fell; coins whose change is not known are neither.

    Which coins are in a category of CoinGecko's is asked once a day, by `COINGECKO_CATEGORY_CALLS_PER_DAY` calls in
    all. Beyond that the answer is an older one (see `X-Category-As-Of`); where there is none: 503, and `Retry-After`.
    """
    return answer(request, await lists.page(category, window, min_volume, part))


@router.get(
    "/{symbol}",
    summary="One cryptocurrency",
    response_class=Response,
    dependencies=[PublicLimit],
    responses={200: {"model": CoinDetail, "headers": VALIDATED}, 304: LISTED[304], **problem_responses(404)},
)
async def coin(
    request: Request,
    symbol: SymbolPath,
    listings: Listing,
    slug: Annotated[Slug | None, Query(description="Of several coins with the symbol, this one.")] = None,
) -> Response:
    """The largest by market capitalisation of the coins with this symbol."""
    return answer(request, await listings.coin(symbol, slug))
