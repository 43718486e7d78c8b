"""What the routers of market data share."""

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Response
from pydantic import BaseModel, ValidationError

from app.core.deps import PublicLimit
from app.core.errors import FieldError, InvalidInputError
from app.core.pagination import DEFAULT_LIMIT, MAX_LIMIT, PageRequest, page_request
from app.core.problem import field_errors, summary
from app.market_data.reading import SymbolPageRequest, SymbolPosition
from app.market_data.schemas import MAX_SYMBOLS, Moment, Span, Symbol
from app.market_data.wire import encoded

M = TypeVar("M", bound=BaseModel)

PREFIX = "/api/v1/market-data"
"""Of every path: each router names it, so that logs and metrics show whole paths."""
TAGS: list[str | Enum] = ["Market data"]


async def _no_store(response: Response) -> None:
    """Prices are of now."""
    response.headers["Cache-Control"] = "no-store"


PUBLIC = [PublicLimit, Depends(_no_store)]
"""For `dependencies=` of every endpoint here."""

PageQuery = Annotated[PageRequest, Depends(page_request)]
SymbolPath = Annotated[Symbol, Path(description="As `/symbols` lists it; case does not matter.", examples=["NIFTY 50"])]
StartQuery = Annotated[Moment | None, Query(description="At or after this time (ISO 8601).")]
EndQuery = Annotated[Moment | None, Query(description="At or before this time (ISO 8601).")]


def checked(make: Callable[[], M]) -> M:
    """What `make` gives; where the values of a query do not go together, the same 422 as for a single wrong one."""
    try:
        return make()
    except ValidationError as error:
        problems = [
            FieldError(("query", *problem.loc), problem.msg, problem.type) for problem in field_errors(error.errors())
        ]
        raise InvalidInputError(summary(problems), problems) from None


async def _span(start: StartQuery = None, end: EndQuery = None) -> Span:
    return checked(lambda: Span(start=start, end=end))


SpanQuery = Annotated[Span, Depends(_span)]


async def _symbol_page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows of one page.")] = MAX_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=400, description="`X-Next-Cursor` of the page before.", examples=[None])
    ] = None,
) -> SymbolPageRequest:
    return SymbolPageRequest(limit, SymbolPosition.decode(cursor) if cursor else None)


SymbolPageQuery = Annotated[SymbolPageRequest, Depends(_symbol_page)]
"""Of lists that clients have taken for whole: as many rows as a page can have, if they do not say."""


async def _short_symbol_page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows of one page.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=400, description="`X-Next-Cursor` of the page before.", examples=[None])
    ] = None,
) -> SymbolPageRequest:
    return await _symbol_page(limit, cursor)


ShortSymbolPageQuery = Annotated[SymbolPageRequest, Depends(_short_symbol_page)]


MAX_SYMBOLS_TEXT = 4000
"""Characters: percent-encoded they still fit into the 64 KiB that a request's line may have."""


class _Symbols(BaseModel):
    symbols: list[Symbol]


async def _symbols(
    symbols: Annotated[
        str | None,
        Query(max_length=MAX_SYMBOLS_TEXT, description="Of these only, separated by commas.", examples=["NIFTY 50"]),
    ] = None,
) -> list[str] | None:
    if symbols is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in symbols.split(",")))
    if len(names) > MAX_SYMBOLS:
        problem = FieldError(("query", "symbols"), f"At most {MAX_SYMBOLS} symbols", "too_long")
        raise InvalidInputError(f"query.symbols: At most {MAX_SYMBOLS} symbols.", [problem])
    return checked(lambda: _Symbols(symbols=names)).symbols


SymbolsQuery = Annotated[list[str] | None, Depends(_symbols)]


def json_response(content: Any, response: Response) -> Response:
    """Rows as they come out of the service, with the headers that were put into `response`."""
    return Response(encoded(content), headers=response.headers, media_type="application/json")
