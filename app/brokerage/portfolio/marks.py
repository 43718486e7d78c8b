"""Keeps what snapshots say of a book in step with its trades, at the prices that were kept.

A trade can be entered, corrected or heard of after the evening of its day: what was realised by then would be in that
evening's value twice, or at a cost that is none any more.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal, localcontext
from typing import Any, Final

import structlog
from pymongo import UpdateOne

from app.brokerage.portfolio.book_rows import Row, fill_of, fresh_book, replayed, snapshot_rows, trade_rows
from app.brokerage.portfolio.lots import ZERO, Book
from app.core.charges.words import EXACT

log = structlog.get_logger("arrow.portfolio")

_ATTEMPTS: Final = 10


async def correct(book: Mapping[str, Any], since: str, trades: Sequence[Row] | None = None) -> None:
    """Reckon a book (its row) anew in the account's snapshots from the day `since` on; `trades`: all of the book, in
    order, where they have been read. Done again it changes nothing."""
    query = {"account_id": book["account_id"], "day": {"$gte": since}}
    for _ in range(_ATTEMPTS):
        rows = sorted(await snapshot_rows().find(query).to_list(), key=lambda row: str(row["day"]))
        if not rows:
            return
        if trades is None:
            trades = replayed(await trade_rows().find({"book": book["_id"]}).to_list())
        writes = _writes(book, rows, trades)
        if not writes or (await snapshot_rows().bulk_write(writes, ordered=False)).matched_count == len(writes):
            return
    log.warning("snapshots are changed so often that they could not be corrected", book=book["_id"])


def _writes(book: Mapping[str, Any], rows: Sequence[Row], trades: Sequence[Row]) -> list[UpdateOne]:
    replay, done, writes = fresh_book(book), 0, list[UpdateOne]()
    for row in rows:
        end = next((n for n in range(done, len(trades)) if trades[n]["day"] > row["day"]), len(trades))
        replay.apply(map(fill_of, trades[done:end]))
        replay.rest(date.fromisoformat(row["day"]) + timedelta(days=1))
        done = end
        change = _change(book, row, Book() if _has_ended(book, row["day"]) else replay)
        if change:
            same = {"_id": row["_id"], "at": row["at"], "revision": row.get("revision", {"$exists": False})}
            writes.append(UpdateOne(same, {"$set": change, "$inc": {"revision": 1}}))
    return writes


def _has_ended(book: Mapping[str, Any], day: str) -> bool:
    """Whether its contract had, and nobody knows how: see `book_rows.expired_note`."""
    mark = book.get("expired")
    return mark is not None and mark["state"] != "settled" and str(mark["day"]) <= day


def _change(book: Mapping[str, Any], row: Row, held: Book) -> Row:
    name, position = book["_id"], held.position
    old = next((one for one in row["books"] if one["book"] == name), None)
    price = _price(name, row["books"])
    change: Row = {}
    if price is not None and (old or position):
        # What is flat now keeps its place: it may be entered again, and the price is known here only.
        fresh = {"book": name, "quantity": position, "price": price, "unrealised": held.unrealised(price)}
        if fresh != old:
            kept = [fresh if one["book"] == name else one for one in row["books"]] + ([] if old else [fresh])
            with localcontext(EXACT):
                change = {"books": kept, "unrealised": sum((one["unrealised"] for one in kept), ZERO)}
    if "unpriced_books" in row:  # older ones have only their number
        unpriced = {*row["unpriced_books"]} - {name} | ({name} if position and price is None else set())
        if unpriced != {*row["unpriced_books"]}:
            change |= {"unpriced_books": sorted(unpriced), "unpriced": len(unpriced)}
    return change


def _price(name: str, books: Sequence[Row]) -> Decimal | None:
    """What was kept of the book, else of the same instrument in another product or from another source."""
    prices = {one["book"]: one["price"] for one in books}
    if name in prices:
        return Decimal(prices[name])
    return next((Decimal(price) for other, price in prices.items() if _instrument(other) == _instrument(name)), None)


def _instrument(name: str) -> tuple[str, str]:
    """Exchange and symbol; see `naming.book_id`."""
    _, _, place, _, symbol = name.split("|", 4)
    return place, symbol
