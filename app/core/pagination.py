"""Newest-first lists: cursors, headers, and reading a page without ever scanning a collection."""

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import quote, urlencode

from bson import ObjectId
from fastapi import Query, Request, Response
from pymongo import ASCENDING, DESCENDING
from pymongo.asynchronous.collection import AsyncCollection

from app.core.clock import Clock, to_micros
from app.core.errors import FieldError, InvalidInputError

T = TypeVar("T")

DEFAULT_LIMIT, MAX_LIMIT = 50, 1000

PAGED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "X-Next-Cursor": {
                "description": "`cursor` of the next page, if there is one. With filters a page may be short before.",
                "schema": {"type": "string"},
            },
            "Link": {"description": 'The next page, `rel="next"`.', "schema": {"type": "string"}},
        }
    }
}
"""For `responses=` of a list: the headers that lead on."""


class Cursor(NamedTuple):
    """The last row of the page before: its order number and id."""

    seq: int
    id: ObjectId

    def encode(self) -> str:
        """The opaque text that clients send back."""
        return base64.urlsafe_b64encode(self.seq.to_bytes(8, "big", signed=True) + self.id.binary).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """The cursor behind `text`; raises `InvalidInputError` for anything that `encode` did not make."""
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            if len(raw) != 20:
                raise ValueError("wrong length")
            cursor = cls(int.from_bytes(raw[:8], "big", signed=True), ObjectId(raw[8:]))
            if cursor.encode() != text:  # the decoder passes over characters that it does not know
                raise ValueError("another spelling")
            return cursor
        except (binascii.Error, ValueError):
            problem = FieldError(("query", "cursor"), "This is not a cursor that a list here gave", "cursor_invalid")
            raise InvalidInputError("query.cursor: This is not a cursor that a list here gave.", [problem]) from None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many rows a client wants, and after which."""

    limit: int
    after: Cursor | None = None


class Position(Protocol):
    """Where a page ended."""

    def encode(self) -> str:
        """The opaque text that clients send back."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows, newest first, and the cursor of the next page if there may be one."""

    rows: list[T]
    next: Position | None

    def announce(self, request: Request, response: Response) -> list[T]:
        """Put the next cursor into `Link` and `X-Next-Cursor`, and give the rows."""
        if self.next:
            cursor = self.next.encode()
            query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
            response.headers["X-Next-Cursor"] = cursor
            response.headers["Link"] = (
                f'<{quote(request.url.path)}?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'
            )
        return self.rows


async def page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows of one page.")] = DEFAULT_LIMIT,
    cursor: Annotated[
        str | None, Query(max_length=64, description="`X-Next-Cursor` of the page before.", examples=[None])
    ] = None,
) -> PageRequest:
    """The dependency behind `?limit=` and `?cursor=`."""
    return PageRequest(limit, Cursor.decode(cursor) if cursor else None)


MINUTE, HOUR = 60_000_000, 3_600_000_000
"""Microseconds."""
_AT_ONCE = 4
"""Pages that one query reads at most."""


async def newest_first(
    collection: AsyncCollection[dict[str, Any]],
    equality: Mapping[str, Any],
    *,
    page: PageRequest,
    account: ObjectId,
    clock: Clock,
    start: datetime | None = None,
    end: datetime | None = None,
    projection: Mapping[str, int] | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Rows of `account` that match `equality`, from `end` (or the cursor) back to `start`, read window by window.

    The embedded database pays for every row that a filter matches, whatever `sort` and `limit` say, so each query asks
    for a two-sided window of `seq` (microseconds since the epoch): a minute at first, then wider while little is found
    and narrower where rows are dense. On MongoDB the same queries are index range scans, which `limit` bounds.
    `equality` and `seq` need a common index. Nothing of an account is older than the account, whose id says when it was
    made (give or take a day: clocks differ, and are set back).
    """
    low = to_micros(account.generation_time) - 24 * HOUR
    if start:
        low = max(low, to_micros(start))
    now = to_micros(clock.now())
    top = now + 24 * HOUR
    if end:
        top = min(top, to_micros(end) + 999)
    if page.after:
        top = min(top, page.after.seq)
    width, most = MINUTE, page.limit * (_AT_ONCE if page.limit <= 100 else 1)
    while top >= low:
        bottom = max(low, min(top, now) - width + 1)
        rows = await _window(collection, equality, bottom, top, most + 1, projection)
        if len(rows) <= most:
            top = bottom - 1
            if len(rows) < page.limit:
                width *= 4
        else:
            width = max(width // 8, 1_000_000)
            cut = rows[-1]["seq"]
            whole = [row for row in rows if row["seq"] > cut]
            if whole:
                rows, top = whole, cut
            else:  # more rows than one query reads have the same number
                rows, top = await _window(collection, equality, cut, cut, 0, projection), cut - 1
        # Equal numbers are ordered by id, here and not by a second sort key (which no index would serve).
        rows.sort(key=lambda row: (row["seq"], row["_id"]), reverse=True)
        for row in rows:
            yield row


async def oldest_first(
    collection: AsyncCollection[dict[str, Any]], equality: Mapping[str, Any], *, low: int, high: int, most: int
) -> list[dict[str, Any]]:
    """The `most` oldest rows that match `equality` with `low <= seq <= high`, oldest first; windows as above."""
    found: list[dict[str, Any]] = []
    width = HOUR
    while low <= high and len(found) < most:
        top = min(low + width - 1, high)
        query = {**equality, "seq": {"$gte": low, "$lte": top}}
        found += await collection.find(query).sort("seq", ASCENDING).limit(most - len(found)).to_list()
        low, width = top + 1, width * 4
    return found


async def _window(
    collection: AsyncCollection[dict[str, Any]],
    equality: Mapping[str, Any],
    bottom: int,
    top: int,
    limit: int,
    projection: Mapping[str, int] | None,
) -> list[dict[str, Any]]:
    query = {**equality, "seq": {"$gte": bottom, "$lte": top}}
    return await collection.find(query, projection).sort("seq", DESCENDING).limit(limit).to_list()


async def read_page(rows: AsyncIterator[dict[str, Any]], page: PageRequest) -> Page[dict[str, Any]]:
    """The first `page.limit` of `rows` that come after the page's cursor."""
    found: list[dict[str, Any]] = []
    more = False
    async for row in rows:
        if page.after and (row["seq"], row["_id"]) >= page.after:
            continue
        if len(found) == page.limit:
            more = True
            break
        found.append(row)
    return Page(found, Cursor(found[-1]["seq"], found[-1]["_id"]) if more else None)
