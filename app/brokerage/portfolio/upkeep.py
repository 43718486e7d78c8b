"""The portfolio's jobs: a snapshot after the close, what a crash left behind, and everything anew from the trades."""

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final

import structlog

from app.brokerage.portfolio.book_rows import Row, book_rows, day_rows, snapshot_rows, trade_rows
from app.brokerage.portfolio.broker_view import BrokerView
from app.brokerage.portfolio.days import Days
from app.brokerage.portfolio.ledger import BookKey, Ledger
from app.brokerage.portfolio.marks import correct
from app.brokerage.portfolio.naming import Source, day_id, day_of
from app.brokerage.portfolio.places import Places
from app.brokerage.portfolio.price_list import price_list
from app.brokerage.portfolio.reading import books_now
from app.brokerage.portfolio.trades import EARLIEST
from app.brokerage.portfolio.valuation import snapshot_books, wanted
from app.brokerage.ports import Prices
from app.brokerage.words import BrokerName, Exchange, Product
from app.core.clock import Clock, to_micros
from app.core.market_calendar import IST, LATEST, MarketCalendar
from app.core.scheduler import JobResult, Run

log = structlog.get_logger("arrow.portfolio")

AFTER_CLOSE: Final = timedelta(minutes=15)
"""By then closing prices are known."""
_PATIENCE: Final = 20.0
_DAY: Final = 86_400_000_000
_PIECE: Final = 5_000
"""Trades that one query of a rebuild reads at most."""
_JOINED: Final = 200
"""Trades of older books that one round moves."""
_NAMES: Final = (
    "book",
    "user_id",
    "account_id",
    "broker",
    "source",
    "exchange",
    "stock_ticker",
    "product",
    "day",
    "seq",
)


class PortfolioUpkeep:
    """Work for the scheduler; each of the three can be done again at any time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        days: Days,
        view: BrokerView,
        prices: Prices,
        calendar: MarketCalendar,
        clock: Clock,
        places: Places | None = None,
    ) -> None:
        self._places, self._joined = places or Places(), False
        self._ledger, self._days, self._view, self._prices = ledger, days, view, prices
        self._calendar, self._clock = calendar, clock

    async def repair(self) -> Mapping[str, int]:
        """Bring in step what a process that died left behind, and days that nobody has asked for yet."""
        joined = await self._join()
        return {**await self._ledger.repair(), **({"trades_moved": joined} if joined else {})}

    async def _join(self) -> int:
        """Bring shares together that an older version kept in a book for each exchange: else what was bought then
        could not be sold now. Once, so many trades at a time; gives how many were moved."""
        if self._joined:
            return 0
        moved = 0
        async for book in book_rows().find({"exchange": Exchange.BSE.value, "product": Product.CNC.value}, {"_id": 1}):
            if f"|{Exchange.BSE}|{Product.CNC}|" not in book["_id"]:
                continue
            async for row in trade_rows().find({"book": book["_id"]}).limit(_JOINED):
                moved += await self._rehome(row)
            if moved >= _JOINED:
                return moved
        self._joined = True
        return moved

    # Snapshots

    async def snapshot(self) -> JobResult:
        """Keep what the accounts that hold or traded something are worth after the close of the day's session, whenever
        that is (Muhurat trading ends in the evening, or at 14:45); once a day and account, however often it is asked.

        On a day without a session, or one whose hours are not known, only what was traded all the same is kept, late.
        """
        now = self._clock.now()
        today = day_of(now)
        session = self._calendar.session_of(today)
        due = (session.closes if session else datetime.combine(today, LATEST, IST)) + AFTER_CLOSE
        if now < due:
            return {"accounts": 0, "note": "the session is not over" if session else "no session"}
        names = {"account_id": 1, "user_id": 1}
        traded = day_rows().find({"day": today.isoformat()}, names)
        owners = {row["account_id"]: row["user_id"] async for row in traded}
        if session:
            owners |= {row["account_id"]: row["user_id"] async for row in book_rows().find({"open": True}, names)}
        for account_id in await self._kept(owners, today.isoformat(), due):
            del owners[account_id]
        for account_id, user_id in owners.items():
            await self._keep(account_id, user_id, today.isoformat())
        return {"accounts": len(owners)}

    async def _kept(self, owners: Iterable[str], today: str, due: datetime) -> list[str]:
        """Those of which there is a snapshot of today's close."""
        wanted = {"_id": {"$in": [day_id(account_id, today) for account_id in owners]}, "at": {"$gte": due}}
        return [row["account_id"] async for row in snapshot_rows().find(wanted, {"account_id": 1})]

    async def _keep(self, account_id: str, user_id: Any, today: str) -> None:
        await self._ledger.settle(account_id)
        seen = await self._view.look(account_id, user_id)
        books = await books_now(account_id, today)
        prices = await price_list(self._prices, wanted(books, seen), _PATIENCE)
        kept, unrealised, unpriced = snapshot_books(books, prices, date.fromisoformat(today))
        row: Row = {
            "_id": day_id(account_id, today),
            "schema_version": 1,
            "user_id": user_id,
            "account_id": account_id,
            "day": today,
            "at": self._clock.now(),
            "unrealised": unrealised,
            "unpriced": len(unpriced),
            "unpriced_books": unpriced,
            "books": kept,
        }
        if seen.current and seen.funds is not None:
            row["funds"] = seen.funds.total
        await snapshot_rows().replace_one({"_id": row["_id"]}, row, upsert=True)
        # Whoever changed trades meanwhile found no snapshot of today to correct.
        before = {book["_id"]: book for book in books}
        after = {book["_id"]: book for book in await books_now(account_id, today)}
        for name, book in (before | after).items():
            if book["dirty"] or before.get(name, {}).get("revision") != after.get(name, {}).get("revision"):
                await correct(book, today)

    # Everything anew

    async def rebuild(self, run: Run) -> JobResult:
        """Compute all books and days from the trades; what was otherwise before is counted, and put right."""
        books: dict[str, BookKey] = {}
        days: dict[str, Row] = {}
        trades = moved = 0
        async for row in self._trades():
            trades += 1
            moved += await self._rehome(row)
            books.setdefault(row["book"], BookKey.of(row))
            days.setdefault(day_id(row["account_id"], row["day"]), row)
        # Books and days whose trades are gone.
        async for row in book_rows().find({"open": True}):
            books.setdefault(row["_id"], BookKey.of({**row, "book": row["_id"], "stock_ticker": row["symbol"]}))
        corrected = 0
        for number, key in enumerate(books.values()):
            await self._ledger.begin(key)
            corrected += await self._ledger.recompute(key.id)
            await run.progress(number + 1, len(books) + len(days), "books")
        amended = 0
        for number, (name, row) in enumerate(days.items()):
            amended += await self._again(name, row)
            await run.progress(len(books) + number + 1, len(books) + len(days), "days")
        if corrected or amended:
            log.warning("books or days were not what their trades make", books=corrected, days=amended)
        return {
            "trades": trades,
            "books": len(books),
            "books_corrected": corrected,
            "days": len(days),
            "days_corrected": amended,
            **({"trades_moved": moved} if moved else {}),
        }

    async def _rehome(self, row: Row) -> bool:
        """Move a trade into the book that it belongs to, where that was otherwise when it was stored."""
        exchange, product = Exchange(row["exchange"]), Product(row["product"])
        wanted = await self._places.book(
            BrokerName(row["broker"]), row["account_id"], Source(row["source"]), exchange, row["stock_ticker"], product
        )
        if row["book"] == wanted:
            return False
        old, row["book"] = {**row}, wanted

        async def write() -> None:
            await trade_rows().update_one({"_id": row["_id"], "book": old["book"]}, {"$set": {"book": wanted}})

        await self._ledger.change([old, row], write)
        return True

    async def _again(self, name: str, owner: Row) -> bool:
        """Compute a day; whether it was otherwise, and nobody knew."""
        before = await day_rows().find_one({"_id": name})
        await self._days.mark(owner, owner["day"])
        await self._days.recompute(owner["account_id"], owner["day"])
        after = await day_rows().find_one({"_id": name})
        return before is None or (not before["pending"] and _content(before) != _content(after))

    async def _trades(self) -> AsyncIterator[Row]:
        """All trades, oldest first, window by window: the database pays for every row that a filter matches."""
        low, width = to_micros(EARLIEST), _DAY
        end = to_micros(self._clock.now() + timedelta(days=1))
        names = dict.fromkeys(_NAMES, 1)
        while low <= end:
            query = {"seq": {"$gte": low, "$lt": low + width}}
            rows = await trade_rows().find(query, names).limit(_PIECE + 1).to_list()
            if len(rows) > _PIECE and width > 1:
                width = max(width // 8, 1)
                continue
            for row in rows:
                yield row
            low += width
            if len(rows) <= _PIECE // 8:
                width *= 4


def _content(row: Row | None) -> Row:
    return {name: value for name, value in (row or {}).items() if name not in {"revision", "pending"}}
