"""Accounts of the paper broker in the database: read whole, replaced whole if nobody else was quicker."""

import secrets
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec
import pymongo
from pymongo import ReplaceOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from app.brokerage.adapters.paper.book import PaperBook, PaperOrder
from app.brokerage.adapters.paper.hours import Hours
from app.brokerage.adapters.paper.models import PaperAccountDocument, PaperOrderDocument, PaperTradeDocument
from app.brokerage.words import BookedOrder, BookedTrade
from app.core.bson_codec import exact_rows
from app.core.clock import Clock

PATIENCE: Final = 5.0
"""Seconds that a read or a write may take."""
_KEPT: Final = (Decimal, datetime)
_T = TypeVar("_T")

Row = dict[str, Any]


class Stored(msgspec.Struct):
    """An account, and the revision that was read."""

    book: PaperBook
    user_id: str
    revision: int = 0
    """0: it is not stored yet."""


class PaperStore:
    """The paper broker's collections. Everything here raises `PyMongoError`."""

    def __init__(self, db: AsyncDatabase[Row], clock: Clock, hours: Hours, *, patience: float = PATIENCE) -> None:
        self._accounts = exact_rows(db[PaperAccountDocument.Settings.name])
        self._orders = exact_rows(db[PaperOrderDocument.Settings.name])
        self._trades = exact_rows(db[PaperTradeDocument.Settings.name])
        self._clock, self._hours, self._patience = clock, hours, patience

    async def load(self, account_id: str) -> Stored | None:
        """The account; None if nothing was ever done there."""
        with pymongo.timeout(self._patience):
            row = await self._accounts.find_one({"_id": account_id})
        return None if row is None else _stored(row)

    async def awake(self) -> dict[str, int]:
        """The revisions of all accounts that prices or the time can change."""
        with pymongo.timeout(self._patience):
            rows = await self._accounts.find({"awake": True}, {"revision": 1}).to_list()
        return {row["_id"]: row["revision"] for row in rows}

    async def save(self, stored: Stored) -> bool:
        """Replace the revision that was read; False if it is not there any more: read it again."""
        book = stored.book
        values = {
            "schema_version": 1,
            "revision": stored.revision + 1,
            "mark": (mark := secrets.token_hex(8)),
            "awake": book.awake,
            "book": msgspec.to_builtins(book, builtin_types=_KEPT),
            "updated_at": self._clock.now(),
        }
        with pymongo.timeout(self._patience):
            if stored.revision:
                same = {"_id": book.account_id, "revision": stored.revision}
                done = (await self._accounts.update_one(same, {"$set": values})).matched_count == 1
            else:
                done = await self._insert({"_id": book.account_id, "user_id": stored.user_id, **values})
            if not done:
                # The driver repeats a write whose answer was lost: it may be our own that stands in the way.
                row = await self._accounts.find_one({"_id": book.account_id}, {"mark": 1})
                done = row is not None and row["mark"] == mark
        stored.revision += done
        return done

    async def _insert(self, row: Row) -> bool:
        try:
            await self._accounts.insert_one(row)
        except DuplicateKeyError:
            return False
        return True

    async def file(self, account_id: str, orders: Iterable[PaperOrder], trades: Iterable[BookedTrade]) -> None:
        """Keep what has ended in the books of its day; again as often as one likes."""
        order_rows = [
            {
                "_id": order.id,
                "schema_version": 1,
                "account_id": account_id,
                "reference": order.name,
                "day": self._day(order.updated_at),
                "ended_at": order.updated_at,
                "order": msgspec.to_builtins(order.booked(), builtin_types=_KEPT),
            }
            for order in orders
        ]
        trade_rows = [
            {
                "_id": trade.trade_id,
                "schema_version": 1,
                "account_id": account_id,
                "day": self._day(trade.at),
                "at": trade.at,
                "trade": msgspec.to_builtins(trade, builtin_types=_KEPT),
            }
            for trade in trades
        ]
        with pymongo.timeout(self._patience):
            for collection, rows in ((self._orders, order_rows), (self._trades, trade_rows)):
                if rows:
                    await collection.bulk_write([ReplaceOne({"_id": row["_id"]}, row, upsert=True) for row in rows])

    async def orders(self, account_id: str, now: datetime) -> list[BookedOrder]:
        """That ended on the present trading day and are filed."""
        with pymongo.timeout(self._patience):
            rows = await self._orders.find({"account_id": account_id, "day": self._day(now)}).to_list()
        return _converted([row["order"] for row in rows], BookedOrder)

    async def trades(self, account_id: str, now: datetime) -> list[BookedTrade]:
        """Of the present trading day that are filed."""
        with pymongo.timeout(self._patience):
            rows = await self._trades.find({"account_id": account_id, "day": self._day(now)}).to_list()
        return _converted([row["trade"] for row in rows], BookedTrade)

    async def tagged(self, account_id: str, tag: str) -> BookedOrder | None:
        """The filed order of that tag."""
        with pymongo.timeout(self._patience):
            row = await self._orders.find_one({"account_id": account_id, "reference": tag})
        return None if row is None else _converted([row["order"]], BookedOrder)[0]

    def day_of(self, moment: datetime) -> date:
        """The trading day that something at `moment` is filed under."""
        return self._hours.today(moment).day

    def _day(self, moment: datetime) -> str:
        return self.day_of(moment).isoformat()


def _stored(row: Row) -> Stored:
    return Stored(_converted([row["book"]], PaperBook)[0], row["user_id"], row["revision"])


def _converted(rows: Sequence[Row], to: type[_T]) -> list[_T]:
    return msgspec.convert(rows, list[to], builtin_types=_KEPT)  # type: ignore[valid-type]
