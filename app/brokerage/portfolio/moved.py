"""Follows what a broker did to a position without a trade: see `orders.conversions`."""

from collections.abc import Collection
from datetime import timedelta
from decimal import Decimal
from typing import Final

import structlog
from beanie import PydanticObjectId
from bson import ObjectId
from pymongo import InsertOne, ReplaceOne

from app.brokerage.orders.conversions import Conversion, Instrument
from app.brokerage.portfolio.book_rows import Row, book_of, book_rows, trade_rows
from app.brokerage.portfolio.ledger import Ledger
from app.brokerage.portfolio.naming import Source, book_id, day_of, type_of
from app.brokerage.portfolio.places import Places
from app.brokerage.words import BrokerName, Exchange, Product
from app.core.audit import SYSTEM, Act, AuditTrail
from app.core.charges.words import EXACT
from app.core.clock import Clock

log = structlog.get_logger("arrow.portfolio")

SHOWN: Final = timedelta(days=7)
"""How long after its end a broker may still show a contract."""


class MovedPositions:
    """Fills the port `PositionBooks` of orders.

    A conversion changes the product of the trades that the position is made of: the broker's contract note has them
    under the new one, too, and charges them so. Prices and times stay, and so does what was realised before.
    """

    def __init__(self, *, ledger: Ledger, clock: Clock, audit: AuditTrail, places: Places | None = None) -> None:
        self._places = places or Places()
        self._ledger, self._clock, self._audit = ledger, clock, audit

    async def ended(self, account_id: str) -> Collection[Instrument]:
        """See the port."""
        since = day_of(self._clock.now() - SHOWN).isoformat()
        query = {"account_id": account_id, "expired.day": {"$gte": since}}
        rows = await book_rows().find(query, {"exchange": 1, "symbol": 1}).to_list()
        return {(Exchange(row["exchange"]), row["symbol"]) for row in rows}

    async def convert(self, account_id: str, conversion: Conversion) -> bool:
        """See the port: only where each of the trades is open whole."""
        exchange, symbol, was, became, quantity = conversion
        name = book_id(account_id, Source.BROKER, exchange, symbol, was)
        book = await book_rows().find_one({"_id": name, "dirty": False})
        if book is None or book_of(book).position != quantity:
            return False
        lots = {lot.trade: lot.quantity for lot in book_of(book).lots}
        rows = await trade_rows().find({"_id": {"$in": [ObjectId(trade) for trade in lots]}}).to_list()
        if len(rows) != len(lots):
            return False
        fresh = [one for row in rows for one in await self._parts(row, became, lots[str(row["_id"])])]
        details: dict[str, str | int | bool | None] = {"symbol": symbol, "quantity": quantity, "trades": len(rows)}
        details |= {"from": was.value, "to": became.value}
        act = Act("position.convert", book["user_id"], SYSTEM, target=("book", name), details=details)
        # Before it is done: nothing is moved that nobody wrote down.
        await self._audit.record(act)

        async def write() -> None:
            # New ones first: who dies in between has lost nothing, and the same conversion is found, and done, again.
            keys = [row["key"] for row in fresh]
            ids = {row["key"]: row["_id"] async for row in trade_rows().find({"key": {"$in": keys}}, {"key": 1})}
            split = [InsertOne(row) for row in fresh if row["key"] not in ids]
            kept = [ReplaceOne({"_id": ids[row["key"]]}, row) for row in fresh if ids.get(row["key"]) == row["_id"]]
            await trade_rows().bulk_write([*split, *kept])

        await self._ledger.change([*rows, *fresh], write)
        log.info("a position was converted", account=account_id, symbol=symbol, was=was.value, became=became.value)
        return True

    async def _parts(self, row: Row, product: Product, quantity: int) -> list[Row]:
        """The trade as it is then: of the other product; where only a part of it is open, that part apart."""
        exchange, symbol = Exchange(row["exchange"]), row["stock_ticker"]
        fresh = {**row, "updated_at": self._clock.now(), "revision": row["revision"] + 1}
        broker, source = BrokerName(row["broker"]), Source(row["source"])
        book = await self._places.book(broker, row["account_id"], source, exchange, symbol, product)
        moved = {
            **fresh,
            "product": product.value,
            "book": book,
            "type": type_of(exchange, symbol, product).value,
            "converted_from": row["product"],
        }
        left = row["quantity"] - quantity
        if not left:
            return [moved]
        # The rest keeps the name under which the broker tells the trade.
        apart = {"_id": PydanticObjectId(), "key": f"{row['key']}|{product}", "revision": 1}
        return [{**moved, **apart, **_sized(row, quantity)}, {**fresh, **_sized(row, left)}]


def _sized(row: Row, quantity: int) -> Row:
    return {"quantity": quantity, "capital_used": EXACT.multiply(Decimal(quantity), row["price"])}
