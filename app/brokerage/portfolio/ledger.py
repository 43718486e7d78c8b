"""The one way of trades into the database, and of what follows from them: lots, positions, realised profit."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

import structlog
from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from app.brokerage.portfolio.book_rows import (
    Row,
    book_of,
    book_rows,
    booked,
    fill_of,
    fresh_book,
    order_of,
    replayed,
    state_of,
    trade_rows,
)
from app.brokerage.portfolio.costs import interest_of
from app.brokerage.portfolio.days import Days
from app.brokerage.portfolio.lots import Book
from app.brokerage.portfolio.marks import correct
from app.brokerage.portfolio.naming import KEPT, day_of
from app.brokerage.words import BrokerName, Product
from app.core.charges import ChargeEngine
from app.core.clock import Clock
from app.core.errors import DomainError

log = structlog.get_logger("arrow.portfolio")

DEAD: Final = timedelta(minutes=5)
"""A mark so old was left by a process that died: no write takes so long."""
_ATTEMPTS: Final = 20
_OF_DAYS: Final = frozenset({"realised", "mtf_charge"})
"""What days add up."""
_ONCE: Final = 200
"""Books that one round of repair takes."""

Write = Callable[[], Awaitable[Sequence[Row] | None]]
"""Writes trades: those that are new and nothing else has changed, else None."""


class BookKey(NamedTuple):
    """Whose book it is, and of what."""

    id: str
    user_id: ObjectId
    account_id: str
    broker: str
    source: str
    exchange: str
    symbol: str
    product: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "BookKey":
        """The book of a trade's row."""
        return cls(
            row["book"],
            row["user_id"],
            row["account_id"],
            row["broker"],
            row["source"],
            row["exchange"],
            row["stock_ticker"],
            row["product"],
        )

    def fresh(self) -> Row:
        """The row of a book of which nothing is known yet."""
        return {
            "_id": self.id,
            "schema_version": 1,
            "user_id": self.user_id,
            "account_id": self.account_id,
            "broker": self.broker,
            "source": self.source,
            "exchange": self.exchange,
            "symbol": self.symbol,
            "product": self.product,
            "revision": 0,
            "pending": [],
            "dirty": False,
            "open": False,
            "state": {},
        }


class Ledger:
    """Changes trades, and keeps books in step; several processes may do so at once."""

    def __init__(self, *, clock: Clock, engine: ChargeEngine, days: Days, mtf_funded_share: Decimal) -> None:
        """`mtf_funded_share`: how much of a purchase under margin trading is the broker's money, 0 to 1."""
        self._clock, self._engine, self._days, self._funded = clock, engine, days, mtf_funded_share

    async def change(self, touched: Iterable[Mapping[str, Any]], write: Write) -> None:
        """Do `write`, which adds, replaces or deletes trades of the books and days of `touched` (rows of trades, as
        they were and as they will be), and bring those in step. Done again after a crash it does no harm."""
        rows = list(touched)
        # A book of a share that trades on two exchanges has the one of its first trade.
        books = {row["book"]: BookKey.of(row) for row in reversed(rows)}
        days = {(row["account_id"], row["day"]): row for row in rows}
        mark = ObjectId()
        # In one order, whoever changes several.
        since = {name: min(row["day"] for row in rows if row["book"] == name) for name in books}
        bases = {name: await self._mark(books[name], mark, since[name]) for name in sorted(books)}
        for (_, day), row in days.items():
            await self._days.mark(row, day)
        try:
            fresh = await write()
        except DomainError:
            for name in bases:
                await self.recompute(name, mark)
            raise
        for name, base in bases.items():
            added = None if fresh is None else [row for row in fresh if row["book"] == name]
            await self._settle(name, mark, base, added)
        for (_, day), row in days.items():
            await self._days.mark(row, day)

    async def _mark(self, key: BookKey, mark: ObjectId, since: str) -> Row | None:
        """Mark a book: its row, if nobody else is changing it, on which a change can build."""
        change = {
            "$push": {"pending": {"id": mark, "at": self._clock.now(), "since": since}},
            "$set": {"dirty": True},
            "$inc": {"revision": 1},
        }
        if not (await book_rows().update_one({"_id": key.id}, change)).matched_count:
            try:
                await book_rows().insert_one(key.fresh())
            except DuplicateKeyError:
                log.debug("another process has begun the book", book=key.id)
            await book_rows().update_one({"_id": key.id}, change)
        row = await book_rows().find_one({"_id": key.id})
        return row if row is not None and [one["id"] for one in row["pending"]] == [mark] else None

    async def _settle(self, name: str, mark: ObjectId | None, base: Row | None, added: Sequence[Row] | None) -> None:
        if base is not None and added is not None and await self._append(base, replayed(added)):
            return
        await self.recompute(name, mark)

    async def _append(self, base: Row, added: Sequence[Row]) -> bool:
        """Book trades that are newer than all others; whether that was possible."""
        last = base.get("last")
        if last is not None and added and (last["seq"], *last["rank"]) >= order_of(added[0]):
            return False
        book, today = book_of(base), day_of(self._clock.now())
        if book.delivered and added and added[0]["day"] == base.get("last_day", "") < today.isoformat():
            return False  # it may cover what was sold short on that day, and is not in the book since it was over
        outcomes = book.apply(map(fill_of, added), self._interest(base))
        book.rest(today, outcomes)
        known = {str(row["_id"]): row for row in added}
        older = [ObjectId(trade) for trade in outcomes if trade not in known]
        rows = await trade_rows().find({"_id": {"$in": older}}).to_list() if older else []
        if len(rows) != len(older):
            return False
        changes = {row["_id"]: booked(row, outcomes[str(row["_id"])], whole=False) for row in rows}
        changes |= {row["_id"]: booked(row, outcomes[str(row["_id"])], whole=True) for row in added}
        await _write(changes)
        await _correct(base, None)
        return await self._store(base, book, added[-1] if added else None, [])

    async def recompute(self, name: str, mark: ObjectId | None = None) -> bool:
        """Compute a book from its trades, and take `mark` and dead ones away; whether anything was otherwise before."""
        differed = False
        for _ in range(_ATTEMPTS):
            row = await book_rows().find_one({"_id": name})
            if row is None:
                return differed
            trades = replayed(await trade_rows().find({"book": name}).to_list())
            book = fresh_book(row)
            outcomes = book.apply(map(fill_of, trades), self._interest(row))
            book.rest(day_of(self._clock.now()), outcomes)
            changes = {one["_id"]: booked(one, outcomes[str(one["_id"])], whole=True) for one in trades}
            changes = {trade: change for trade, change in changes.items() if change}
            moved = {one["day"]: one for one in trades if not changes.get(one["_id"], {}).keys().isdisjoint(_OF_DAYS)}
            # Before, so that a crash leaves no day behind; and after, as somebody may compute it in between.
            for day, one in moved.items():
                await self._days.mark(one, day)
            await _write(changes)
            for day, one in moved.items():
                await self._days.mark(one, day)
            differed = differed or bool(changes) or state_of(book) != (row["state"] or state_of(fresh_book(row)))
            await _correct(row, trades)
            if await self._store(row, book, trades[-1] if trades else None, self._left(row, mark)):
                return differed
        log.warning("a book is changed so often that it could not be settled; a job will", book=name)
        return differed

    def _left(self, row: Mapping[str, Any], mark: ObjectId | None) -> list[Row]:
        dead = self._clock.now() - DEAD
        return [one for one in row["pending"] if one["id"] != mark and one["at"] > dead]

    async def _store(self, base: Row, book: Book, newest: Row | None, pending: list[Row]) -> bool:
        """Replace the revision that was read; whether it was still there."""
        fresh = {
            **base,
            "revision": base["revision"] + 1,
            "pending": pending,
            "dirty": bool(pending),
            "open": bool(book.side),
            "state": state_of(book),
        }
        if newest is not None:
            seq, *rest = order_of(newest)
            fresh["last"] = {"seq": seq, "rank": rest}
        elif not book.trades:
            fresh.pop("last", None)
        fresh.pop("last_day", None)
        if book.last_day is not None:
            fresh["last_day"] = book.last_day.isoformat()
        found = await book_rows().replace_one({"_id": base["_id"], "revision": base["revision"]}, fresh)
        return found.matched_count == 1

    def _interest(self, row: Mapping[str, Any]) -> Callable[[Any, int, date], Decimal]:
        return interest_of(self._engine, BrokerName(row["broker"]), Product(row["product"]), self._funded)

    # Repair

    async def settle(self, account_id: str) -> None:
        """Bring an account's books and days in step with its trades, where a change has left them behind."""
        account = {"account_id": account_id}
        for row in await book_rows().find({**account, "dirty": True}, {"_id": 1}).to_list():
            await self.recompute(row["_id"])
        for row in await book_rows().find({**account, **self._over()}, {"_id": 1}).to_list():
            await self.recompute(row["_id"])
        await self._days.settle(account_id)

    async def repair(self) -> Mapping[str, int]:
        """The same for all accounts, a round of them at a time."""
        books = await book_rows().find({"dirty": True}, {"_id": 1}).limit(_ONCE).to_list()
        books += await book_rows().find(self._over(), {"_id": 1}).limit(_ONCE).to_list()
        for row in books:
            await self.recompute(row["_id"])
        return {"books": len(books), "days": await self._days.settle_all(_ONCE)}

    def _over(self) -> Row:
        """Books of deliveries that the day of a sale left short: it is over; see `lots`."""
        today = day_of(self._clock.now()).isoformat()
        kept = sorted(product.value for product in KEPT)
        return {"open": True, "product": {"$in": kept}, "state.side": -1, "last_day": {"$lt": today}}

    async def begin(self, key: BookKey) -> None:
        """Make sure that a book has a row, so that `recompute` finds it."""
        if await book_rows().find_one({"_id": key.id}, {"_id": 1}) is None:
            try:
                await book_rows().insert_one(key.fresh())
            except DuplicateKeyError:
                log.debug("another process has begun the book", book=key.id)


async def _correct(book: Mapping[str, Any], trades: Sequence[Row] | None) -> None:
    """Before the marks of changes are taken away, so that nobody who dies in between leaves snapshots behind."""
    since = min((one["since"] for one in book["pending"] if "since" in one), default=None)
    if since is not None:
        await correct(book, since, trades)


async def _write(changes: Mapping[ObjectId, Row]) -> None:
    writes = []
    for trade, change in changes.items():
        gone = {name: "" for name, value in change.items() if value is None}
        kept = {name: value for name, value in change.items() if value is not None}
        update = ({"$set": kept} if kept else {}) | ({"$unset": gone} if gone else {})
        if update:
            writes.append(UpdateOne({"_id": trade}, update))
    if writes:
        await trade_rows().bulk_write(writes, ordered=False)
