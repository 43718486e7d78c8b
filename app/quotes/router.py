"""`/api/market`: quotes and candles."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated, NamedTuple
from urllib.parse import quote as quote_path
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from app.core.candles import Timeframe
from app.core.clock import to_micros
from app.core.deps import Permission, PublicLimit, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.pagination import MAX_LIMIT, PAGED
from app.core.problem import problem_responses
from app.core.rate_limit import RateLimiter
from app.core.schemas import PlainText
from app.core.security import Principal, Scope
from app.core.settings import Settings
from app.quotes.reading import QuoteReading
from app.quotes.schemas import HistoryOut, QuoteOut, QuoteResult, SyncOut, TimeframeIn
from app.quotes.sources import MOST_AT_ONCE

router = APIRouter(prefix="/api/market", tags=["Quotes and candles"])


async def _no_store(response: Response) -> None:
    """Prices are of now."""
    response.headers["Cache-Control"] = "no-store"


_PUBLIC = [PublicLimit, Depends(_no_store)]
Reading = Annotated[QuoteReading, provided(QuoteReading)]
QuoteSyncer = Annotated[Principal, Depends(Permission(Scope.MARKET_DATA_WRITE))]
SymbolPath = Annotated[
    PlainText,
    Path(
        min_length=1,
        max_length=32,
        description="`RELIANCE` is `RELIANCE.NS`, `NIFTY50` is `^NSEI`, `SENSEX` is `^BSESN`; `.BO` is BSE. A name "
        "that NSE does not have may be one of an American exchange (`AAPL`). Case does not matter.",
        examples=["RELIANCE"],
    ),
]
DaysQuery = Annotated[
    int | None,
    Query(
        ge=1,
        le=100_000,
        description="How many calendar days back. Minutes go back 7 days, five and fifteen minutes 58, hours 728, days "
        "and weeks 7,320; without it 1, 5, 15, 30, 30 and 365.",
        examples=[30],
    ),
]
TimeframeQuery = Annotated[TimeframeIn, Query(description="How long a candle is; case does not matter.")]


class _Older(NamedTuple):
    """A cursor: the rows before a time."""

    micros: int

    def encode(self) -> str:
        return base64.urlsafe_b64encode(self.micros.to_bytes(8, "big", signed=True)).decode().rstrip("=")


async def _older(
    cursor: Annotated[
        str | None, Query(max_length=64, description="`X-Next-Cursor` of the page before.", examples=[None])
    ] = None,
) -> _Older | None:
    if cursor is None:
        return None
    try:
        found = _Older(int.from_bytes(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), "big", signed=True))
        if found.encode() != cursor:
            raise ValueError("another spelling")
    except (binascii.Error, ValueError, OverflowError):
        problem = FieldError(("query", "cursor"), "This is not a cursor that a list here gave", "cursor_invalid")
        raise InvalidInputError("query.cursor: This is not a cursor that a list here gave.", [problem]) from None
    return found


def _next(request: Request, cursor: str) -> str:
    query = [pair for pair in request.query_params.multi_items() if pair[0] != "cursor"]
    return f"{quote_path(request.url.path)}?{urlencode([*query, ('cursor', cursor)])}"


async def _sync_limit(
    caller: QuoteSyncer,
    limiter: Annotated[RateLimiter, provided(RateLimiter)],
    settings: Annotated[Settings, provided(Settings)],
) -> None:
    await limiter.hit("quote-sync", str(caller.user_id), settings.market_sync_rate_limit_per_minute)


async def _several(
    symbols: Annotated[
        PlainText,
        Query(
            min_length=1,
            max_length=33 * MOST_AT_ONCE,
            description=f"Separated by commas, at most {MOST_AT_ONCE}.",
            examples=["RELIANCE,TCS,NIFTY50"],
        ),
    ],
) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in symbols.split(",") if name.strip()))
    if not 1 <= len(names) <= MOST_AT_ONCE:
        message = f"Name 1 to {MOST_AT_ONCE} symbols"
        raise InvalidInputError(f"query.symbols: {message}.", [FieldError(("query", "symbols"), message, "too_long")])
    return names


@router.get("/quote/{symbol}", summary="Newest price", responses=problem_responses(404, 503), dependencies=_PUBLIC)
async def quote(symbol: SymbolPath, reading: Reading) -> QuoteOut:
    """At most 15 seconds old while the Indian market is open; when no provider answers, the newest known, `stale`."""
    return await reading.quote(symbol)


@router.get("/multiple", summary="Newest prices", responses=problem_responses(), dependencies=_PUBLIC)
async def multiple(symbols: Annotated[list[str], Depends(_several)], reading: Reading) -> list[QuoteResult]:
    """In the order asked. A symbol that fails has its own `error`, and the others their quotes."""
    return await reading.several(symbols)


@router.get(
    "/historical/{symbol}",
    summary="Candles",
    responses={**PAGED, **problem_responses(404, 503)},
    dependencies=_PUBLIC,
)
async def historical(
    request: Request,
    response: Response,
    symbol: SymbolPath,
    reading: Reading,
    older: Annotated[_Older | None, Depends(_older)],
    days: DaysQuery = None,
    timeframe: TimeframeQuery = Timeframe.D1,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Candles of one page.")] = MAX_LIMIT,
) -> HistoryOut:
    """Newest first, the forming one too. At most five minutes old, and never older than a candle's end.

    When no provider answers, what is stored, `stale`.
    """
    page, more = await reading.history(
        symbol, timeframe, days, limit, datetime.fromtimestamp(older.micros / 1e6, UTC) if older else None
    )
    if more is not None:
        cursor = _Older(to_micros(more)).encode()
        response.headers["X-Next-Cursor"] = cursor
        response.headers["Link"] = f'<{_next(request, cursor)}>; rel="next"'
    return page


@router.post("/sync/{symbol}", summary="Fetch and store candles", responses=problem_responses(401, 403, 404, 503))
async def sync(
    _: QuoteSyncer,
    __: Annotated[None, Depends(_sync_limit)],
    symbol: SymbolPath,
    reading: Reading,
    days: DaysQuery = None,
    timeframe: TimeframeQuery = Timeframe.D1,
) -> SyncOut:
    """Asks a provider now, stores what is new or has changed, and says what that was. Idempotent."""
    return await reading.sync(symbol, timeframe, days)
