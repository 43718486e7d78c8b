"""What the routers of cryptocurrencies share."""

from collections.abc import Iterable
from enum import Enum
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import Depends, Path, Query, Request
from starlette.responses import Response

from app.core.errors import FieldError, InvalidInputError
from app.core.pagination import DEFAULT_LIMIT, MAX_LIMIT, PAGED
from app.crypto.generations import Sort
from app.crypto.schemas.listing import MAX_SYMBOLS, Bound, Direction, DirectionIn, Prefix, SortIn, Symbol
from app.crypto.selection import ListCursor, Part, Rendered, Selection, cursor_refused

TAGS: list[str | Enum] = ["Cryptocurrencies"]
MAX_OFFSET = 100_000
REVALIDATE = "public, no-cache"
"""Others may keep the answer, and have to ask whether it still holds: a sync cannot reach their caches."""

SymbolPath = Annotated[Symbol, Path(description="Case does not matter.", examples=["BTC"])]
VALIDATED: dict[str, Any] = {
    "ETag": {"description": "Send it back in `If-None-Match`.", "schema": {"type": "string"}},
    "Cache-Control": {"description": f"`{REVALIDATE}`.", "schema": {"type": "string"}},
}
"""Headers of answers that can be asked for conditionally."""
AS_OF: dict[str, Any] = {
    "X-Category-As-Of": {
        "description": "Of a category of CoinGecko's: when it was asked which coins are in it. Usually today.",
        "schema": {"type": "string", "format": "date-time"},
    },
}
LISTED: dict[int | str, dict[str, Any]] = {
    200: {"headers": {**PAGED[200]["headers"], **VALIDATED}},
    304: {"description": "What `If-None-Match` names is still the answer."},
}


def has_already(if_none_match: str, etag: str) -> bool:
    """Whether the client has what `etag` names: validators are compared weakly (RFC 9110, section 13.1.2)."""
    known = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return etag in known or "*" in known


def headers_of(rendered: Rendered, path: str, query: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What goes with the answer to `query` at `path`, changed or not."""
    headers = {"ETag": rendered.etag, "Cache-Control": REVALIDATE}
    if rendered.category_at:
        headers["X-Category-As-Of"] = f"{rendered.category_at:%Y-%m-%dT%H:%M:%SZ}"
    if rendered.next:
        cursor = rendered.next.encode()
        # The cursor says where to go on, and would be refused beside an offset.
        more = [pair for pair in query if pair[0] not in {"cursor", "offset"}]
        headers["X-Next-Cursor"] = cursor
        headers["Link"] = f'<{quote(path)}?{urlencode([*more, ("cursor", cursor)])}>; rel="next"'
    return headers


def answer(request: Request, rendered: Rendered) -> Response:
    """The answer over HTTP: 304 for a client that has it already."""
    headers = headers_of(rendered, request.url.path, request.query_params.multi_items())
    if has_already(request.headers.get("if-none-match", ""), rendered.etag):
        return Response(status_code=304, headers=headers)
    return Response(rendered.body, headers=headers, media_type="application/json")


async def _part(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows of one page.")] = DEFAULT_LIMIT,
    offset: Annotated[
        int, Query(ge=0, le=MAX_OFFSET, description="Rows to pass over; only `cursor` is safe while syncs go on.")
    ] = 0,
    cursor: Annotated[
        str | None, Query(max_length=64, description="`X-Next-Cursor` of the page before.", examples=[None])
    ] = None,
) -> Part:
    if cursor and offset:
        raise cursor_refused("A cursor says where to go on: send it without an offset", "cursor_with_offset")
    return Part(limit, offset, ListCursor.decode(cursor) if cursor else None)


PartQuery = Annotated[Part, Depends(_part)]


async def _symbols(
    symbol_filter: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=min(65 * MAX_SYMBOLS, 4000),  # percent-encoded it still fits into a request's line
            description="Coins with this symbol, or one of several separated by commas; case does not matter.",
            examples=["BTC"],
        ),
    ] = None,
) -> frozenset[str]:
    return frozenset(_symbol(each) for each in symbol_filter.split(",")) if symbol_filter else frozenset()


def _symbol(text: str) -> str:
    symbol = text.strip().upper()
    if not symbol or len(symbol) > 64 or not symbol.isprintable():
        problem = FieldError(("query", "symbol_filter"), "This is not a list of symbols", "symbol_invalid")
        raise InvalidInputError("query.symbol_filter: This is not a list of symbols.", [problem])
    return symbol


async def _selection(
    symbols: Annotated[frozenset[str], Depends(_symbols)],
    q: Annotated[
        Prefix | None, Query(description="How the symbol or the name begins; case does not matter.", examples=["bit"])
    ] = None,
    min_price: Annotated[Bound | None, Query(description="US dollars.")] = None,
    max_price: Annotated[Bound | None, Query(description="US dollars.")] = None,
    min_market_cap: Annotated[Bound | None, Query(description="US dollars.")] = None,
    sort_by: Annotated[SortIn, Query(description="Ties are in the order of ranks; what is null comes last.")] = (
        Sort.MARKET_CAP
    ),
    order: Annotated[
        DirectionIn | None, Query(description="By default `asc` for `rank` and `name`, else `desc`.")
    ] = None,
) -> Selection:
    if min_price is not None and max_price is not None and min_price > max_price:
        problem = FieldError(("query", "min_price"), "min_price is above max_price", "value_error")
        raise InvalidInputError("query.min_price: min_price is above max_price.", [problem])
    natural = Direction.ASC if sort_by in (Sort.RANK, Sort.NAME) else Direction.DESC
    return Selection(
        sort=sort_by,
        descending=(order or natural) is Direction.DESC,
        symbols=symbols,
        prefix=(q or "").casefold(),
        min_price=min_price,
        max_price=max_price,
        min_market_cap=min_market_cap,
    )


SelectionQuery = Annotated[Selection, Depends(_selection)]
VolumeQuery = Annotated[
    Bound | None,
    Query(
        description="US dollars traded in 24 hours, at least. By default 1,000,000 for `gainers` and `losers`, so that "
        "coins that nobody trades do not lead, and none for the others.",
    ),
]
