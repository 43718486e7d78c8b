"""Books and trades as rows of the database, and back."""

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal, localcontext
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from app.brokerage.portfolio.costs import CostedTrade
from app.brokerage.portfolio.lots import ZERO, Book, Fill, Lot, Outcome
from app.brokerage.portfolio.models import BookDocument, DayDocument, SeenDocument, SnapshotDocument, TradeDocument
from app.brokerage.portfolio.naming import KEPT, Settlement, TradeStatus, rank
from app.brokerage.words import Exchange, Product, Side
from app.core.bson_codec import exact_rows
from app.core.charges.words import EXACT

Row = dict[str, Any]
Collection = AsyncCollection[Row]

_PRICE: Final = Decimal("0.0001")
_BOOKED: Final = (
    "opened",
    "closed",
    "entry_value",
    "realised",
    "exit_quantity",
    "exit_value",
    "buy_price",
    "sell_price",
    "status",
    "mtf_charge",
    "elsewhere",
)
"""What a trade carries of its book."""


def trade_rows() -> Collection:
    """All trades, with exact numbers."""
    return exact_rows(TradeDocument.get_pymongo_collection())


def book_rows() -> Collection:
    """All books, with exact numbers."""
    return exact_rows(BookDocument.get_pymongo_collection())


def day_rows() -> Collection:
    """All days, with exact numbers."""
    return exact_rows(DayDocument.get_pymongo_collection())


def snapshot_rows() -> Collection:
    """All snapshots, with exact numbers."""
    return exact_rows(SnapshotDocument.get_pymongo_collection())


def seen_rows() -> Collection:
    """What brokers told last, with exact numbers."""
    return exact_rows(SeenDocument.get_pymongo_collection())


def average(value: Decimal, quantity: int) -> Decimal | None:
    """A price a unit, to four decimals; None of nothing."""
    if not quantity:
        return None
    with localcontext(EXACT):
        return (value / quantity).quantize(_PRICE)


# Trades


def order_of(row: Mapping[str, Any]) -> tuple[int, int, str]:
    """Where a trade stands in its book: by time, then by the broker's number."""
    return (row["seq"], *rank(row["ref"]))


def fill_of(row: Mapping[str, Any]) -> Fill:
    """The fill of a trade's row."""
    return Fill(
        str(row["_id"]),
        Side(row["order_type"]).sign,
        row["quantity"],
        row["price"],
        date.fromisoformat(row["day"]),
        "given_mtf" not in row,
    )


def costed(row: Mapping[str, Any]) -> CostedTrade:
    """What the charges of a trade's row depend on."""
    trade = str(row["_id"])
    return CostedTrade(
        trade,
        row.get("broker_order_id") or trade,
        Exchange(row["exchange"]),
        row["stock_ticker"],
        Product(row["product"]),
        Side(row["order_type"]),
        row["quantity"],
        row["price"],
        row.get("given_brokerage"),
        Settlement(row["settlement"]) if "settlement" in row else None,
    )


def booked(row: Mapping[str, Any], outcome: Outcome, *, whole: bool) -> Row:
    """What of a trade's row changes by an outcome; None for what goes.

    `whole`: the outcome says all about the trade. Else it is an older one of which something was closed, and what the
    trade itself closed is as it was.
    """
    entry, closed = outcome.entry_value, outcome.closed
    realised, interest = outcome.realised, outcome.interest
    if not whole:
        entry, closed = row.get("entry_value", ZERO), row.get("closed", 0)
        realised, interest = row.get("realised", ZERO), row.get("mtf_charge", ZERO)
    elif "given_mtf" in row:
        interest = row["given_mtf"]
    bought = row["order_type"] == Side.BUY
    # Its own price on its own side; on the other the average of what it closed, or of what closed it.
    with localcontext(EXACT):
        other = average(entry + outcome.exit_value, closed + outcome.exit_quantity)
    left = outcome.open_quantity
    status = TradeStatus.CLOSED if not left else TradeStatus.PARTIAL if outcome.exit_quantity else TradeStatus.OPEN
    wanted: Row = {
        "opened": outcome.opened,
        "closed": closed,
        "entry_value": entry,
        "realised": realised,
        "exit_quantity": outcome.exit_quantity,
        "exit_value": outcome.exit_value,
        "buy_price": row["price"] if bought else other,
        "sell_price": other if bought else row["price"],
        "status": status.value,
        "mtf_charge": interest,
        "elsewhere": outcome.elsewhere or None,
    }
    return {name: wanted[name] for name in _BOOKED if row.get(name) != wanted[name]}


# Books


def state_of(book: Book) -> Row:
    """What a book's row keeps."""
    return {
        "side": book.side,
        "lots": [
            {
                "trade": lot.trade,
                "quantity": lot.quantity,
                "original": lot.original,
                "price": lot.price,
                "day": lot.day.isoformat(),
                "exit_value": lot.exit_value,
                "credit": lot.credit,
            }
            for lot in book.lots
        ],
        "realised": book.realised,
        "trades": book.trades,
        "day_start": book.day_start,
        "day_realised": book.day_realised,
    }


def fresh_book(row: Mapping[str, Any]) -> Book:
    """The book of a row, without a trade."""
    return Book(delivered=row.get("product") in KEPT)


def book_of(row: Mapping[str, Any]) -> Book:
    """The book of a row."""
    state = row.get("state")
    if not state:
        return fresh_book(row)
    last_day = row.get("last_day")
    return Book(
        side=state["side"],
        lots=deque(
            Lot(
                lot["trade"],
                lot["quantity"],
                lot["original"],
                lot["price"],
                date.fromisoformat(lot["day"]),
                lot["exit_value"],
                lot["credit"],
            )
            for lot in state["lots"]
        ),
        realised=state["realised"],
        trades=state["trades"],
        last_day=date.fromisoformat(last_day) if last_day else None,
        day_start=state["day_start"],
        day_realised=state["day_realised"],
        delivered=fresh_book(row).delivered,
    )


def expired_note(row: Mapping[str, Any]) -> str | None:
    """What a person is told of a position in a contract that has ended and could not be settled; None of others."""
    mark = row.get("expired")
    if not mark or not row["open"] or mark["state"] == "settled":
        return None
    return str(mark["note"])


def replayed(rows: Iterable[Row]) -> list[Row]:
    """In the order of their execution."""
    return sorted(rows, key=order_of)
